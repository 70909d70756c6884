"""Clients that take their time, or say what is no HTTP: others are served meanwhile, and every answer is a problem."""

import json
import socket
import threading
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx2
import pytest

from api.app import create_app
from api.protocol import DESCRIPTORS_BESIDE, Limits, allowed_by_the_system
from tests.api import deployment
from tests.api.conftest import serving, until

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
IDLE = HEAD + b"\r\n"
"""A whole request: once it is answered, the connection waits for another."""
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
AT_ONCE = Limits(head_seconds=0.5, body_seconds=0.5)
PATIENT = Limits(connections=20, head_seconds=600, body_seconds=600)


def connected(url: str, sent: bytes = b"") -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    connection.sendall(sent)
    return connection


def told(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what was answered before the server closed."""
    received = b""
    with connection:
        while chunk := connection.recv(65_536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def assert_problem(connection: socket.socket, status: int, code: str) -> dict[str, str]:
    found, headers, body = told(connection)
    problem = json.loads(body)
    assert (found, problem["status"], problem["code"]) == (status, status, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]
    return headers


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nHo", 408, "request_timeout"),
        (b"", 408, "request_timeout"),
        (HEAD + b"\r\n" + HEAD, 408, "request_timeout"),
        (POST + b"{", 408, "request_timeout"),
        (POST.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked") + b"5\r\n{", 408, "request_timeout"),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000, 431, "request_header_fields_too_large"),
    ],
    ids=[
        "half a head",
        "nothing",
        "a second head",
        "half a body",
        "half a chunk",
        "TLS",
        "no colon",
        "length",
        "large",
    ],
)
def test_what_no_application_sees_is_answered_by_a_problem(settings, database, sent, status, code):
    with serving(settings, limits=AT_ONCE) as url:
        connection = connected(url, sent)
        if sent.startswith(HEAD + b"\r\n"):
            received = b""
            while not received.endswith(b'"checks":{}}'):
                received += connection.recv(1)
        assert assert_problem(connection, status, code)["connection"] == "close"


def test_a_byte_now_and_then_does_not_lengthen_the_time(settings, database):
    with serving(settings, limits=AT_ONCE) as url:
        connection, is_answered = connected(url, POST), threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                while not is_answered.wait(0.05):
                    connection.send(b"x")

        sender = threading.Thread(target=trickle)
        sender.start()
        answer = connection.recv(65_536)
        is_answered.set()
        sender.join()
        connection.close()
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHo", POST, IDLE], ids=["heads", "bodies", "idle"])
def test_clients_that_keep_the_service_waiting_make_room_for_others(settings, database, api_key, sent):
    """Three times as many as there is room for; each one more closes the one that has waited longest."""
    deployment.register(database)
    with serving(settings, limits=PATIENT) as url, ExitStack() as stack:
        for _ in range(3 * PATIENT.connections):
            connection = stack.enter_context(connected(url, sent))
            if sent == IDLE:
                connection.recv(65_536)
        headers = {"Authorization": f"Bearer {api_key}"}
        for _ in range(3):
            answer = httpx2.post(
                f"{url}/v1/jobs", json={"env": {"id": "CartPole-v1"}}, headers=headers, trust_env=False
            )
            assert answer.status_code == 201


def test_where_every_connection_is_at_work_one_more_is_told_when_to_come_back(settings, database, tenant, api_key):
    job_id = deployment.insert(database, tenant)
    stream = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n\r\n".encode()
    with serving(settings, limits=Limits(connections=3)) as url:
        streams = [connected(url, stream) for _ in range(3)]
        for opened in streams:
            assert opened.recv(10)
        assert assert_problem(connected(url), 503, "too_many_connections")["retry-after"].isdecimal()
        streams.pop().close()
        until(lambda: b'"ok"' in exchanged(url))
        for opened in streams:
            opened.close()


def exchanged(url: str) -> bytes:
    with connected(url, HEAD + b"Connection: close\r\n\r\n") as connection:
        return connection.makefile("rb").read()


def test_who_takes_nothing_of_a_stream_is_let_go(settings, database, tenant, api_key):
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    deployment.append_large(database, job_id, range(1, 2001), kilobytes=10)
    request = f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n\r\n".encode()
    app = create_app(settings)
    with serving(settings, app, Limits(unread_seconds=0.5)) as url:
        stuck = connected(url, request)
        assert stuck.recv(10)
        until(lambda: app.state.services.streams.open_count == 0)
        stuck.close()


def test_a_limit_of_the_system_lowers_that_of_connections():
    allowed = allowed_by_the_system(Limits(connections=10**9)).connections
    assert 0 < allowed < 10**9 - DESCRIPTORS_BESIDE
