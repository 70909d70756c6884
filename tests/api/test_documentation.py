"""The OpenAPI document is complete, and the page that shows it needs no other host."""

import re
import subprocess
import sys

import pytest

from api.app import create_app
from ppo_jobs.schemas import Problem


def test_the_page_and_what_it_loads_come_from_this_server(client):
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for url in loaded:
        assert not url.startswith(("http", "//")), url
        assert client.get(f"/{url}").status_code == 200, url
    assert "default-src 'none'" in page.headers["content-security-policy"]
    start = client.get("/docs/start.js")
    assert "http" not in start.text and 'url: "openapi.json"' in start.text
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1")


@pytest.fixture
def document(settings) -> dict:
    return create_app(settings).openapi()


def test_every_path_of_the_application_is_documented(document):
    assert set(document["paths"]) == {
        "/healthz",
        "/readyz",
        "/v1/checkpoints/{checkpoint_id}",
        "/v1/checkpoints/{checkpoint_id}/archive",
        "/v1/checkpoints/{checkpoint_id}/files/{name}",
        "/v1/comparisons",
        "/v1/environments",
        "/v1/environments/{id}",
        "/v1/evaluations",
        "/v1/evaluations/{evaluation_id}",
        "/v1/evaluations/{evaluation_id}/cancel",
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/attempts",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/checkpoints",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/logs",
        "/v1/jobs/{job_id}/metrics",
        "/v1/jobs/{job_id}/retry",
        "/v1/jobs/{job_id}/stream",
        "/v1/presets",
        "/v1/workers",
    }


def test_every_post_takes_an_idempotency_key(document):
    posts = [methods["post"] for methods in document["paths"].values() if "post" in methods]
    assert len(posts) == 5
    for post in posts:
        assert "idempotency-key" in {parameter["name"].lower() for parameter in post["parameters"]}


def test_every_error_is_documented_as_a_problem(document):
    assert set(document["components"]["schemas"]["Problem"]["properties"]) == set(Problem.model_fields)
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)


def test_the_process_that_serves_never_loads_what_trains():
    program = (
        "import sys, api.app, api.server; "
        "print([name for name in ('torch', 'gymnasium', 'numpy', 'ppo_engine.trainer') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_every_operation_has_a_name_of_its_own(document):
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    assert {"submit_job", "read_file", "head_read_file"} <= set(names)
