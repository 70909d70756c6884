"""Nobody sees what is not theirs. The checks are made from the OpenAPI document, so that no new path is forgotten."""

import socket
from urllib.parse import urlsplit

import httpx2
import pytest

from api.app import create_app
from ppo_jobs.repository.tenants import create_api_key, list_api_keys, revoke_api_key
from ppo_jobs.schemas import Job
from tests.api import deployment

METHODS = {"get", "post", "patch", "delete", "head", "put"}
OPEN = {"/healthz", "/readyz"}
OF_ALL = {"/v1/environments/{id}"}
"""What belongs to the operator, and every tenant sees."""
BODIES = {"patch": {"/v1/jobs/{job_id}": {"name": "mine"}, "/v1/checkpoints/{checkpoint_id}": {"pinned": True}}}


@pytest.fixture
def operations(settings) -> list[tuple[str, str]]:
    document = create_app(settings).openapi()
    return [(method, path) for path, methods in document["paths"].items() for method in methods if method in METHODS]


@pytest.fixture
def ids(tenant, database, artifacts, tmp_path) -> dict[str, str]:
    """Of things that exist and belong to the tenant of the test."""
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    deployment.append(database, job_id, [1])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "policy.json").write_text("{}")
    checkpoint_id = deployment.store(database, artifacts, job_id, tmp_path / "files")
    deployment.finish(database, job_id, status=deployment.JobStatus.FAILED)
    evaluation_id = deployment.evaluate(database, tenant, checkpoint_id)
    return {
        "job_id": job_id,
        "checkpoint_id": checkpoint_id,
        "evaluation_id": evaluation_id,
        "name": "policy.json",
        "id": "CartPole-v1",
    }


def send(client: httpx2.Client, method: str, path: str, ids: dict[str, str], **options) -> httpx2.Response:
    body = BODIES.get(method, {}).get(path)
    return client.request(method, path.format(**ids), json=body, **options)


def test_every_path_with_an_id_answers_another_tenant_as_if_there_were_nothing(
    client, stranger, operations, ids, database, tenant
):
    before = client.get(f"/v1/jobs/{ids['job_id']}").json()
    absent = {key: value[:-4] + "zzzz" if key != "name" else value for key, value in ids.items()}
    checked = 0
    for method, path in operations:
        if "{" not in path or path in OF_ALL:
            continue
        theirs, nothing = send(stranger, method, path, ids), send(stranger, method, path, absent)
        assert theirs.status_code == nothing.status_code == 404, (method, path)
        assert _shape(theirs, ids) == _shape(nothing, absent), (method, path)
        checked += 1
    assert checked >= 19
    assert client.get(f"/v1/jobs/{ids['job_id']}").json() == before
    assert client.get(f"/v1/checkpoints/{ids['checkpoint_id']}").json()["labels"] == ["latest", "best"]


def _shape(answer: httpx2.Response, ids: dict[str, str]) -> str:
    """The body without what differs between any two requests."""
    text = answer.text.replace(answer.headers["x-request-id"], "REQUEST")
    for name, value in ids.items():
        text = text.replace(value, name)
    return text


def test_every_path_but_health_wants_a_key_that_is_valid_now(client, operations, ids, database, tenant, api_key):
    with database.write() as session:
        revoked = create_api_key(session, tenant, name="old")
        (key_id,) = [key.id for key in list_api_keys(session, tenant) if key.name == "old"]
        revoke_api_key(session, tenant, key_id)
    wrong = api_key[:-1] + ("0" if api_key[-1] != "0" else "1")
    anonymous = httpx2.Client(base_url=client.base_url, trust_env=False)
    headers = [{}] + [{"Authorization": value} for value in (f"Bearer {revoked}", f"Bearer {wrong}", "Bearer", "x")]
    headers.append({"Authorization": f"Basic {api_key}"})
    with anonymous:
        for method, path in operations:
            for sent in headers if path not in OPEN else []:
                answer = send(anonymous, method, path, ids, headers=sent)
                assert answer.status_code == 401, (method, path, sent)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert method == "head" or answer.json()["code"] == "unauthorized"
        for path in OPEN:
            assert anonymous.get(path).status_code == 200


def test_a_key_counts_in_the_header_only(client, api_key):
    with httpx2.Client(base_url=client.base_url, trust_env=False) as anonymous:
        assert anonymous.get("/v1/jobs", params={"api_key": api_key, "access_token": api_key}).status_code == 401
        assert anonymous.get("/v1/jobs", headers={"Cookie": f"Authorization=Bearer {api_key}"}).status_code == 401


def test_who_trains_is_told_without_where(client):
    [worker] = client.get("/v1/workers").json()["data"]
    assert worker["slots"] == 2
    assert "localhost" not in str(worker), "the host that it registered from"


def test_a_spec_cannot_set_what_belongs_to_the_service(client):
    for field in ("tenant_id", "status", "attempt", "id", "last_seq"):
        answer = client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}, field: 1})
        assert answer.status_code == 422, field


def test_a_job_shows_no_field_that_its_model_does_not_name(client):
    job = client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}).json()
    assert set(job) == set(Job.model_fields)


def test_what_lasts_ends_when_its_key_is_revoked(server_url, database, tenant, artifacts, tmp_path):
    """A stream, a long poll and a download, all begun before; those of another key of the tenant go on."""
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    files = tmp_path / "files"
    files.mkdir()
    (files / "policy.bin").write_bytes(bytes(50_000_000))
    checkpoint_id = deployment.store(database, artifacts, job_id, files)
    with database.write() as session:
        revoked, kept = (create_api_key(session, tenant, name=name) for name in ("revoked", "kept"))

    def begun(path: str, key: str) -> socket.socket:
        address = urlsplit(server_url)
        connection = socket.create_connection((address.hostname, address.port), timeout=30)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        return connection

    stream, other = (begun(f"/v1/jobs/{job_id}/stream", key) for key in (revoked, kept))
    poll = begun(f"/v1/jobs/{job_id}?wait=60", revoked)
    download = begun(f"/v1/checkpoints/{checkpoint_id}/files/policy.bin", revoked)
    for connection in (stream, other, download):
        assert connection.recv(1)
    with database.write() as session:
        revoke_api_key(session, tenant, revoked.split("_")[1])
    assert received(stream).endswith(b"0\r\n\r\n"), "a whole answer, not a broken one"
    assert b" 401 " in received(poll, until=b"}")
    assert 0 < len(received(download)) < 50_000_000
    deployment.append(database, job_id, [1])
    assert b"id: 4\n" in received(other, until=b"id: 4\n")


def received(connection: socket.socket, until: bytes = b"0\r\n\r\n") -> bytes:
    """What comes until the connection is closed, or ends in `until`; then it is closed."""
    found = bytearray()
    with connection:
        while until not in found[-2000:] and (chunk := connection.recv(65_536)):
            found += chunk
    return bytes(found)
