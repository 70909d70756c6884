"""The ledger live: nothing missing, nothing twice, nothing held for a client that is slow or gone."""

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import create_engine, make_url, text

from api.app import create_app
from ppo_client.sse import messages
from ppo_jobs.repository.tenants import create_api_key, create_tenant
from tests.api import deployment
from tests.api.conftest import serving, serving_process, until
from tests.conftest import SERVER


@pytest.fixture
def running(database, tenant) -> str:
    """A running job: seq 1 queued, seq 2 running."""
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    return job_id


def read_stream(client: httpx2.Client, job_id: str, *, after: int = 0, most: int | None = None) -> tuple[list, str]:
    """Messages until the stream ends or `most` have come, and why it ended."""
    found = []
    headers = {"Last-Event-ID": str(after)} if after else {}
    with client.stream("GET", f"/v1/jobs/{job_id}/stream", headers=headers, timeout=60) as answer:
        if answer.status_code == 204:
            return [], "204"
        assert answer.headers["content-type"].startswith("text/event-stream")
        for message in messages(answer.iter_raw()):
            if message.event == "end":
                return found, "end"
            found.append(message)
            if len(found) == most:
                return found, "cut"
    return found, "closed"


def test_a_stream_gives_the_ledger_with_its_numbers_then_ends(client, database, running):
    deployment.append(database, running, range(1, 4))
    deployment.finish(database, running)
    found, why = read_stream(client, running)
    events = client.get(f"/v1/jobs/{running}/events").json()["data"]
    assert why == "end"
    assert [json.loads(message.data) for message in found] == events
    assert [(message.id, message.event) for message in found] == [(str(e["seq"]), e["type"]) for e in events]
    assert [message.event for message in found] == ["status", "status", "metrics", "metrics", "metrics", "status"]


def test_the_end_of_a_stream_tells_how_the_job_ended(client, database, running):
    deployment.finish(database, running, status=deployment.JobStatus.FAILED)
    text = client.get(f"/v1/jobs/{running}/stream", params={"after": 2}).text
    assert text.startswith("retry: 2000\n\n")
    assert text.endswith('event: end\ndata: {"status":"failed","last_seq":3}\n\n')


def test_who_has_seen_everything_of_an_ended_job_is_told_not_to_come_back(client, database, running):
    deployment.finish(database, running)
    assert client.get(f"/v1/jobs/{running}/stream", headers={"Last-Event-ID": "3"}).status_code == 204
    assert client.get(f"/v1/jobs/{running}/stream", params={"after": 3}).status_code == 204
    assert client.get(f"/v1/jobs/{running}/stream", headers={"Last-Event-ID": "2"}, params={"after": 3}).text


def test_a_stream_is_not_to_be_kept_by_anybody_on_the_way(client, database, running):
    deployment.finish(database, running)
    headers = client.get(f"/v1/jobs/{running}/stream").headers
    assert headers["cache-control"] == "no-store" and headers["x-accel-buffering"] == "no"


def test_a_stream_that_is_cut_twenty_times_has_no_gap_and_no_double(client, database, running):
    """A writer appends 200 iterations while the reader is cut after every 9 messages and resumes where it was."""

    def write() -> None:
        for iteration in range(1, 201):
            deployment.append(database, running, [iteration])
            time.sleep(0.005)
        deployment.finish(database, running)

    writer = threading.Thread(target=write)
    writer.start()
    seen, cuts, why = [], 0, ""
    while why != "end":
        found, why = read_stream(client, running, after=seen[-1] if seen else 0, most=9)
        seen += [int(message.id) for message in found]
        cuts += why == "cut"
    writer.join()
    assert cuts >= 20
    assert seen == list(range(1, 204)), "2 status events, 200 of metrics, 1 of status"


def test_fifty_streams_of_one_job_see_the_same_and_hold_no_connection(settings, database, api_key, running):
    app = create_app(settings)
    pool = app.state.services.database.engine.pool
    with serving(settings, app=app) as url, ThreadPoolExecutor(50) as threads:
        client = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"},
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,
        )
        with client:
            reading = [threads.submit(read_stream, client, running) for _ in range(50)]
            until(lambda: app.state.services.streams.open_count == 50)
            deployment.append(database, running, range(1, 21))
            until(lambda: pool.checkedout() == 0)
            deployment.finish(database, running)
            ids = {tuple(message.id for message in future.result()[0]) for future in reading}
    assert ids == {tuple(str(seq) for seq in range(1, 24))}
    assert app.state.services.streams.open_count == 0


def test_a_client_that_reads_nothing_is_not_fed_from_memory(settings, database, api_key, running):
    """It is told about 40 MB of events through a small socket buffer; the tail keeps half a megabyte of them."""
    app = create_app(settings)
    with serving(settings, app=app) as url, httpx2.Client(base_url=url, trust_env=False) as client:
        with _raw_stream(url, running, api_key) as slow:
            until(lambda: app.state.services.streams.open_count == 1)
            for start in range(0, 4000, 200):
                deployment.append_large(database, running, range(start + 1, start + 201), kilobytes=10)
            tail = app.state.services.tailer._tails[running]
            until(lambda: tail.last_seq == 4002)
            assert tail.kept_bytes <= 600_000
            assert app.state.services.database.engine.pool.checkedout() == 0
            assert client.get("/healthz").is_success
            slow.close()
        until(lambda: app.state.services.streams.open_count == 0)


def test_a_reader_that_fell_behind_reads_on_from_the_ledger(client, database, running):
    """Before the stream begins there is more than the tail keeps, and during it as well."""
    deployment.append_large(database, running, range(1, 101), kilobytes=10)
    with client.stream("GET", f"/v1/jobs/{running}/stream", timeout=60) as answer:
        reading = messages(answer.iter_raw())
        first = next(reading)
        deployment.append_large(database, running, range(101, 301), kilobytes=10)
        deployment.finish(database, running)
        ids = [first.id] + [message.id for message in reading if message.event != "end"]
    assert ids == [str(seq) for seq in range(1, 304)]


def test_a_client_that_leaves_is_noticed_without_an_event(settings, database, api_key, running):
    app = create_app(settings)
    with serving(settings, app=app) as url:
        with _raw_stream(url, running, api_key) as gone:
            until(lambda: app.state.services.streams.open_count == 1)
            gone.close()
        until(lambda: app.state.services.streams.open_count == 0, seconds=5)


def test_streams_of_one_tenant_are_capped_and_those_of_another_are_not(settings, database, api_key, running):
    app = create_app(settings, max_streams_per_tenant=2)
    headers = {"Authorization": f"Bearer {api_key}"}
    with serving(settings, app=app) as url, _raw_stream(url, running, api_key), _raw_stream(url, running, api_key):
        until(lambda: app.state.services.streams.open_count == 2)
        answer = httpx2.get(f"{url}/v1/jobs/{running}/stream", headers=headers, trust_env=False)
        assert answer.status_code == 429 and answer.json()["code"] == "too_many_streams"
        assert int(answer.headers["retry-after"]) > 0
        with database.write() as session:
            other = create_tenant(session, "other")
            other_key = create_api_key(session, other, name="other")
        job_id = deployment.insert(database, other)
        with _raw_stream(url, job_id, other_key) as stream:
            assert b"200 OK" in _received_until(stream, b"id: 1\n")


@pytest.mark.skipif(SERVER is None, reason="a file cannot be away")
def test_a_stream_outlives_an_outage_of_the_database(settings, database, api_key, running):
    url = make_url(settings.database_url)
    name = url.database
    administrator = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    terminate = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with serving(settings) as api_url, _raw_stream(api_url, running, api_key) as stream:
        assert b"id: 2" in _received_until(stream, b"id: 2\n")
        with administrator.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false'))
            connection.execute(terminate, {"name": name})
            headers = {"Authorization": f"Bearer {api_key}"}
            until(lambda: httpx2.get(f"{api_url}/v1/jobs", headers=headers, trust_env=False).status_code == 503)
            connection.execute(text(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true'))
        database.dispose()
        deployment.append(database, running, [1])
        assert b"id: 3" in _received_until(stream, b"id: 3\n")
    administrator.dispose()


def test_sigterm_ends_fifty_open_streams_and_a_long_poll(settings, database, api_key, running):
    """Whatever waited for the end of the grace would be seen to hang."""
    with serving_process(settings, graceful_seconds=600) as (url, process):
        streams = [_raw_stream(url, running, api_key) for _ in range(50)]
        polling = _raw_request(url, f"/v1/jobs/{running}?wait=60", api_key)
        for stream in streams:
            assert b"id: 2\n" in _received_until(stream, b"id: 2\n")
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=50)
        for stream in streams:
            assert _received_until(stream, b"0\r\n\r\n").endswith(b"0\r\n\r\n"), "a whole answer, not a broken one"
            stream.close()
        assert b"200 OK" in _received_until(polling, b"}")
        polling.close()


def test_a_client_that_reads_nothing_holds_up_the_end_for_the_grace_only(settings, database, api_key, running):
    deployment.append_large(database, running, range(1, 2001), kilobytes=10)
    with serving_process(settings, graceful_seconds=1) as (url, process), _raw_stream(url, running, api_key) as stuck:
        assert stuck.recv(100)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=50)


def _raw_stream(url: str, job_id: str, api_key: str) -> socket.socket:
    return _raw_request(url, f"/v1/jobs/{job_id}/stream", api_key)


def _raw_request(url: str, path: str, api_key: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n\r\n".encode())
    return connection


def _received_until(connection: socket.socket, marker: bytes) -> bytes:
    received = b""
    while marker not in received and (chunk := connection.recv(65_536)):
        received += chunk
    return received
