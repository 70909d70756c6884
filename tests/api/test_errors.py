"""Every refusal is a problem that names its fault, and the server stays up."""

import gzip
import json
import subprocess
import sys
import threading
import zlib

import httpx2
import pytest
from sqlalchemy import Engine, event

from api import bodies
from api.app import create_app
from api.bodies import LARGE_BYTES
from ppo_jobs.repository import workers
from ppo_jobs.settings import Settings
from tests.api import deployment
from tests.api.conftest import serving

JSON = {"Content-Type": "application/json"}
CARTPOLE = {"id": "CartPole-v1"}


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == "about:blank" and problem["title"] and problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    ("spec", "pointers"),
    [
        ({}, ["/env"]),
        ({"env": {}}, ["/env/id"]),
        ({"env": CARTPOLE, "colour": "red"}, ["/colour"]),
        ({"env": CARTPOLE, "ppo": {"n_steps": "7"}}, ["/ppo/n_steps"]),
        ({"env": CARTPOLE, "ppo": {"gamma": True}}, ["/ppo/gamma"]),
        ({"env": CARTPOLE, "ppo": {"n_steps": -1, "batch_size": 0}}, ["/ppo/n_steps", "/ppo/batch_size"]),
        ({"env": CARTPOLE, "ppo": {"n_steps": 7.5}}, ["/ppo/n_steps"]),
        ({"env": CARTPOLE | {"n_envs": 10**9}}, ["/env/n_envs"]),
        ({"env": CARTPOLE, "seed": 2**63}, ["/seed"]),
        ({"env": CARTPOLE, "policy": {"hidden_sizes": [64, 0]}}, ["/policy/hidden_sizes/1"]),
        ({"env": CARTPOLE, "policy": {"hidden_sizes": [64] * 9}}, ["/policy/hidden_sizes"]),
        ({"env": CARTPOLE, "ppo": {"learning_rate": "fast"}}, ["/ppo/learning_rate"]),
        ({"env": CARTPOLE, "ppo": {"learning_rate": {"initial": -1}}}, ["/ppo/learning_rate/initial"]),
        ({"env": CARTPOLE, "ppo": {"learning_rate": {}}}, ["/ppo/learning_rate/initial"]),
        (
            {"env": CARTPOLE, "ppo": {"learning_rate": {"kind": "kl_adaptive", "target_kl": -1}}},
            ["/ppo/learning_rate/target_kl"],
        ),
        (
            {"env": CARTPOLE, "ppo": {"learning_rate": {"kind": "cosine", "initial": -1}}},
            ["/ppo/learning_rate"],
        ),
        ({"env": CARTPOLE, "metadata": {"a/b~c": 1}}, ["/metadata/a~1b~0c"]),
        ({"env": {"id": "os:x"}}, ["/env/id"]),
        ({"env": {"id": "../x"}}, ["/env/id"]),
        ({"env": CARTPOLE, "name": "a\0b"}, ["/name"]),
        ([], [""]),
        (None, [""]),
        ("CartPole-v1", [""]),
    ],
)
def test_a_spec_of_the_wrong_shape_is_refused_with_a_pointer_per_fault(client, spec, pointers):
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "invalid_request")
    assert [fault["pointer"] for fault in problem["errors"]] == pointers
    assert all(fault["message"] for fault in problem["errors"])
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("spec", "pointers"),
    [
        ({"env": {"id": "CartPool-v1"}}, ["/env/id"]),
        ({"env": {"id": "Sequences-v0"}}, ["/env/id"]),
        ({"env": CARTPOLE | {"kwargs": {"xml_file": "/etc/passwd"}}}, ["/env/kwargs/xml_file"]),
        ({"env": CARTPOLE | {"kwargs": {"sutton_barto_reward": "/etc/passwd"}}}, ["/env/kwargs/sutton_barto_reward"]),
        ({"env": CARTPOLE, "ppo": {"batch_size": 10_000}}, ["/ppo/batch_size"]),
        ({"env": CARTPOLE | {"n_envs": 4096}, "ppo": {"n_steps": 1_000_000}}, ["/ppo/n_steps"]),
        ({"env": CARTPOLE, "policy": {"hidden_sizes": [4096] * 8}}, ["/policy/hidden_sizes"]),
        (
            {"env": CARTPOLE | {"kwargs": {"g": 1}}, "ppo": {"n_steps": 1, "batch_size": 16}},
            ["/env/kwargs/g", "/ppo/batch_size"],
        ),
    ],
)
def test_a_spec_that_cannot_be_trained_is_refused_with_a_pointer_per_fault(client, spec, pointers):
    problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "invalid_spec")
    assert [fault["pointer"] for fault in problem["errors"]] == pointers
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        ('{"env": {"id": "CartPole-v1"}, "ppo": {"gamma": NaN}}', "/ppo/gamma"),
        ('{"env": {"id": "CartPole-v1"}, "ppo": {"gamma": 1e999}}', "/ppo/gamma"),
        ('{"env": {"id": "CartPole-v1", "kwargs": {"x": -Infinity}}}', "/env/kwargs/x"),
        ('{"env": {"id": "Pendulum-v1", "kwargs": {"g": 1' + "0" * 400 + "}}}", "/env/kwargs/g"),
        ('{"env": {"id": "Pendulum-v1", "kwargs": {"g": [-1' + "0" * 400 + "]}}}", "/env/kwargs/g/0"),
        ('{"env": {"id": "CartPole-v1", "kwargs": {"x": "\\ud800"}}}', "/env/kwargs/x"),
        ('{"env": {"id": "CartPole-v1"}, "name": "\\ud800"}', "/name"),
        ('{"env": {"id": "CartPole-v1", "kwargs": {"x": ' + "[" * 70 + "]" * 70 + "}}}", "/env/kwargs/x" + "/0" * 61),
    ],
)
def test_what_json_readers_let_through_and_no_database_takes_is_refused(client, content, pointer):
    problem = assert_problem(client.post("/v1/jobs", content=content, headers=JSON), 422, "invalid_request")
    assert pointer in [fault["pointer"] for fault in problem["errors"]]
    assert "nan" not in problem["detail"].lower().replace("finite", "")


@pytest.mark.parametrize(
    "content",
    [b"{", b"not json", b"\xff\xfe{}", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}", b'{"a" 1}'],
)
def test_what_is_not_json_is_a_400(client, content):
    problem = assert_problem(client.post("/v1/jobs", content=content, headers=JSON), 400, "malformed_json")
    assert "Error" not in problem["detail"]


@pytest.mark.parametrize("content", [b'{"seed": 1, "seed": 2}', b'{"env": {"id": "A-v0", "kwargs": {"x": 1, "x": 1}}}'])
def test_a_name_that_is_there_twice_is_refused(client, content):
    problem = assert_problem(client.post("/v1/jobs", content=content, headers=JSON), 400, "malformed_json")
    assert problem["detail"] in {"the body has 'seed' twice in one object", "the body has 'x' twice in one object"}


def test_of_very_many_faults_a_hundred_are_named_at_once(client):
    problem = assert_problem(client.post("/v1/jobs", json={f"f{n}": 1 for n in range(15_000)}), 422, "invalid_request")
    assert len(problem["errors"]) == 100
    # 15,000 unknown fields, and `env` is missing.
    assert problem["detail"].endswith("(and 15000 more)")


@pytest.mark.parametrize(
    "body",
    [
        {f"f{n}": 1 for n in range(60_000)},
        {"env": CARTPOLE, "policy": {"hidden_sizes": ["x"] * 100_000}},
        {"env": CARTPOLE | {"kwargs": {"map": [[0] * 100] * 1000}}},
    ],
)
def test_a_body_of_more_values_than_any_spec_has_is_refused_unread(client, body):
    assert_problem(client.post("/v1/jobs", json=body), 413, "body_too_large")


def test_a_large_body_is_read_in_a_thread_and_a_small_one_is_not(client, monkeypatch):
    """The event loop, in which everybody is answered, reads only what is read in no time."""
    readers = []

    def noting(body: bytes) -> object:
        readers.append((len(body) > LARGE_BYTES, "AnyIO" in threading.current_thread().name))
        return parsed(body)

    parsed = bodies._parsed
    monkeypatch.setattr(bodies, "_parsed", noting)
    for padding in (0, LARGE_BYTES):
        spec = {"env": CARTPOLE, "ppo": {"gamma": 2}, "name": "x" * padding}
        problem = assert_problem(client.post("/v1/jobs", json=spec), 422, "invalid_request")
        assert "/ppo/gamma" in [fault["pointer"] for fault in problem["errors"]]
    assert readers == [(False, False), (True, True)]


SPEC = json.dumps({"env": CARTPOLE})


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (gzip.compress(SPEC.encode()), {"Content-Encoding": "gzip"}),
        (zlib.compress(SPEC.encode()), {"Content-Encoding": "deflate"}),
        (SPEC.encode(), {"Content-Encoding": "br, identity"}),
        (SPEC.encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}),
        (SPEC.encode(), {"Content-Type": 'application/json; charset="latin-1"'}),
        (SPEC.encode(), {"Content-Type": "text/json"}),
    ],
    ids=["gzip", "deflate", "br", "utf-16", "latin-1", "text"],
)
def test_a_body_that_is_declared_as_something_else_is_a_415(client, content, headers):
    assert_problem(client.post("/v1/jobs", content=content, headers=JSON | headers), 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_taken_in_utf_8_alone(client, encoding):
    content = json.dumps({"env": CARTPOLE, "name": "größer"}, ensure_ascii=False).encode(encoding)
    problem = assert_problem(client.post("/v1/jobs", content=content, headers=JSON), 400, "malformed_json")
    assert "Error" not in problem["detail"]
    content = json.dumps({"env": CARTPOLE, "name": "größer"}, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    assert client.post("/v1/jobs", content=content, headers=headers).json()["name"] == "größer"


def test_a_long_name_is_not_repeated_for_everything_below_it(client):
    # Pointers to all 15,000 of them would take 7 GB.
    body = b'{"%s": [%s]}' % (b"x" * 500_000, b",".join([b"0"] * 15_000))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); import json\n"
        "from api.pointers import unstorable; print([fault.message for fault in unstorable(json.load(sys.stdin))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=body, capture_output=True, check=True)
    assert ran.stdout == b"['must not contain a name of more than 256 characters']\n"
    assert_problem(client.post("/v1/jobs", content=body, headers=JSON), 422, "invalid_request")


def test_a_body_over_the_limit_is_refused_announced_or_not(client):
    megabytes = b'{"name": "' + b"x" * 2_000_000 + b'"}'
    assert_problem(client.post("/v1/jobs", content=megabytes, headers=JSON), 413, "body_too_large")
    chunks = (megabytes[start : start + 50_000] for start in range(0, len(megabytes), 50_000))
    assert_problem(client.post("/v1/jobs", content=chunks, headers=JSON), 413, "body_too_large")
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_a_415(client, media_type):
    answer = client.post("/v1/jobs", content=b'{"env": {"id": "CartPole-v1"}}', headers={"Content-Type": media_type})
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_wrong_method_is_a_405_that_names_the_right_ones(client):
    answer = client.put("/v1/jobs", json={})
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"
    assert client.post("/v1/jobs/job_00000000000000000000000000").headers["allow"] == "DELETE, GET, PATCH"
    assert client.post("/docs").headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/jobs", "/v1/jobs/", "/v1/%00", "/v1/jobs/x/y/z", "/docs/assets/no"])
def test_an_unknown_path_is_a_404(client, path):
    assert_problem(client.get(path), 404, "route_not_found")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/jobs/job_00000000000000000000000000", "job_not_found"),
        ("/v1/jobs/%00", "job_not_found"),
        ("/v1/jobs/job_x", "job_not_found"),
        ("/v1/jobs/job_00000000000000000000000000/metrics", "job_not_found"),
        ("/v1/checkpoints/ckpt_00000000000000000000000000", "checkpoint_not_found"),
        ("/v1/checkpoints/..", "route_not_found"),
        ("/v1/checkpoints/..%2f..%2fetc/files/passwd", "route_not_found"),
    ],
)
def test_an_unknown_id_is_a_404(client, path, code):
    assert_problem(client.get(path), 404, code)


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/jobs?limit=101", "limit"),
        ("/v1/jobs?limit=x", "limit"),
        ("/v1/jobs?after=x", "after"),
        ("/v1/jobs?status=busy", "status"),
        ("/v1/jobs?name=%00", "name"),
        ("/v1/jobs/job_00000000000000000000000000?wait=61", "wait"),
        ("/v1/jobs/job_00000000000000000000000000?wait=nan", "wait"),
        ("/v1/jobs/job_00000000000000000000000000/events?after=99999999999999999999", "after"),
        ("/v1/jobs/job_00000000000000000000000000/logs?attempt=9999999999", "attempt"),
        ("/v1/jobs/job_00000000000000000000000000/metrics?max_points=1", "max_points"),
    ],
)
def test_a_wrong_parameter_is_named(client, path, parameter):
    problem = assert_problem(client.get(path), 422, "invalid_request")
    assert [fault["pointer"] for fault in problem["errors"]] == [parameter]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x7fb", "é"])
def test_an_idempotency_key_is_at_most_255_printable_characters(client, key):
    headers = {"Idempotency-Key": key.encode()}
    answer = client.post("/v1/jobs", json={"env": CARTPOLE}, headers=headers)
    assert [fault["pointer"] for fault in assert_problem(answer, 422, "invalid_request")["errors"]] == [
        "idempotency-key"
    ]


def test_faults_do_not_echo_what_was_sent(client):
    answer = client.post("/v1/jobs", json={"env": CARTPOLE | {"kwargs": {"sutton_barto_reward": "s3cr3t"}}})
    assert "s3cr3t" not in answer.text
    assert "s3cr3t" not in client.post("/v1/jobs", json={"env": CARTPOLE, "ppo": {"gamma": "s3cr3t"}}).text


def test_near_misses_are_named(client):
    problem = client.post("/v1/jobs", json={"env": {"id": "cartpole-v1"}}).json()
    assert "did you mean CartPole-v1?" in problem["errors"][0]["message"]


def test_without_any_worker_so_far_a_job_is_asked_to_come_again(settings, api_key):
    with serving(settings) as url:
        headers = {"Authorization": f"Bearer {api_key}"}
        answer = httpx2.post(f"{url}/v1/jobs", json={"env": CARTPOLE}, headers=headers, trust_env=False)
        ready = httpx2.get(f"{url}/readyz", trust_env=False)
    assert_problem(answer, 503, "catalogue_empty")
    assert int(answer.headers["retry-after"]) > 0
    assert (ready.status_code, ready.json()["checks"]["catalogue"]) == (503, "no worker has registered yet")


def test_what_a_plugin_may_offer_waits_until_that_is_described_and_all_else_does_not(client, database):
    def post(env_id):
        return client.post("/v1/jobs", json={"env": {"id": env_id}})

    def tell(pending, environments=()):
        with database.write() as session:
            workers.tell_environments(session, "worker-1", environments, pending=pending)

    mine = deployment.CATALOGUE[0].model_copy(
        update={"id": "mine/A-v0", "origin": "mine 1.0", "plugin": "mine:register"}
    )
    tell({"mine:register": {"origin": "mine 2.0", "ids": None}})
    for env_id in ("mine/A-v0", "nobodys/B-v0"):
        problem = assert_problem(post(env_id), 503, "environments_pending")
        assert env_id in problem["detail"] and "mine 2.0" in problem["detail"]
    assert int(post("mine/A-v0").headers["retry-after"]) > 0
    assert post("CartPole-v1").status_code == 201
    assert client.get("/readyz").status_code == 200
    tell({"mine:register": {"origin": "mine 2.0", "ids": ["mine/A-v0"]}})
    assert_problem(post("mine/A-v0"), 503, "environments_pending")
    assert post("nobodys/B-v0").status_code == 422
    # What an earlier version of the same plugin was like.
    tell({"mine:register": {"origin": "mine 2.0", "ids": None}}, [mine])
    assert_problem(post("mine/A-v0"), 503, "environments_pending")
    tell({}, [mine])
    assert post("mine/A-v0").status_code == 201


def test_required_arguments_are_asked_for_and_taken(client, database):
    schema = {
        "type": "object",
        "properties": {"size": {"type": "integer"}},
        "required": ["size"],
        "additionalProperties": False,
        "unsupported": {"path": "is of type str: not to be given"},
    }
    needs = deployment.CATALOGUE[0].model_copy(
        update={"id": "needs/Size-v0", "observation_space": {}, "action_space": {}, "kwargs_schema": schema}
    )
    with database.write() as session:
        workers.tell_environments(session, "worker-1", [needs], pending={})

    def post(**kwargs):
        return client.post("/v1/jobs", json={"env": {"id": "needs/Size-v0", "kwargs": kwargs}})

    (missing,) = assert_problem(post(), 422, "invalid_spec")["errors"]
    assert (missing["pointer"], missing["message"]) == ("/env/kwargs", "needs/Size-v0 needs the argument size")
    (path,) = assert_problem(post(size=3, path="/x"), 422, "invalid_spec")["errors"]
    assert path == {"pointer": "/env/kwargs/path", "message": "is of type str: not to be given"}
    accepted = post(size=3)
    assert accepted.status_code == 201
    assert "network" not in accepted.json()["resolved_spec"]["policy"]


def test_while_the_database_is_away_requests_are_asked_to_come_again(settings):
    away = settings.model_copy(update={"database_url": "postgresql+psycopg://ppo:s3cr3t@127.0.0.1:1/ppo"})
    with serving(away) as url, httpx2.Client(base_url=url, trust_env=False) as client:
        answer = client.get("/v1/jobs", headers={"Authorization": "Bearer ppo_x_y"})
        assert_problem(answer, 503, "database_unavailable")
        assert int(answer.headers["retry-after"]) > 0 and "s3cr3t" not in answer.text
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.json()["checks"]["database"] == "unreachable"


def test_a_database_that_was_not_migrated_is_not_ready(settings, empty_database_url):
    with serving(settings.model_copy(update={"database_url": empty_database_url})) as url:
        ready = httpx2.get(f"{url}/readyz", trust_env=False)
    assert ready.status_code == 503 and ready.json()["checks"]["migrations"] == "pending"


def test_what_nobody_foresaw_is_a_500_without_its_traceback(settings: Settings, caplog):
    app = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("s3cr3t")

    with serving(settings, app=app) as url:
        answer = httpx2.get(f"{url}/broken", trust_env=False)
    problem = assert_problem(answer, 500, "internal")
    assert "s3cr3t" not in answer.text
    assert any(problem["request_id"] in record.getMessage() and record.exc_info for record in caplog.records)


def test_the_request_id_is_the_clients_where_it_is_sane(client):
    assert client.get("/healthz", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = client.get("/healthz", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]
    assert made.startswith("req_") and made != client.get("/healthz").headers["x-request-id"]


def test_every_answer_has_the_security_headers(client, tenant, database):
    job_id = deployment.insert(database, tenant)
    for path in ("/healthz", "/nothing", "/docs", f"/v1/jobs/{job_id}", "/v1/jobs?limit=x"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path


@pytest.fixture
def little_room(database):
    """Every connection from now on lets the database grow by no page."""
    if database.engine.dialect.name != "sqlite":
        pytest.skip("a server's disk cannot be filled")

    def limit(connection, entry):
        connection.execute("PRAGMA max_page_count = 1")

    event.listen(Engine, "connect", limit)
    yield
    event.remove(Engine, "connect", limit)


def test_a_full_database_is_told_from_one_that_is_away(database, settings, api_key, little_room):
    deployment.register(database)
    with serving(settings) as url, httpx2.Client(base_url=url, trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {api_key}"
        metadata = {f"{number:02}": "x" * 512 for number in range(16)}
        for _ in range(50):
            answer = client.post("/v1/jobs", json={"env": CARTPOLE, "metadata": metadata})
            if answer.status_code != 201:
                break
        problem = assert_problem(answer, 503, "storage_full")
        assert "no space is left" in problem["detail"] and int(answer.headers["retry-after"]) > 0
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) in {(503, "full"), (200, "ok")}
        assert client.get("/v1/jobs").status_code == 200
