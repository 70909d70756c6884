import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from ppo_client import (
    Client,
    Conflict,
    InvalidRequest,
    NotAuthorised,
    NotFound,
    ProblemError,
    RetryPolicy,
    ServerFailed,
    ServiceUnavailable,
    ServiceUnreachable,
    TooManyRequests,
    UnexpectedAnswer,
)
from ppo_client.errors import FieldFault
from ppo_client.transport import retry_after
from tests.ppo_client.stub import (
    DROPPED,
    IMPATIENT,
    Answer,
    Request,
    a_job,
    as_json,
    in_turn,
    job_answer,
    problem,
    service,
)


def test_a_post_is_repeated_under_one_idempotency_key_until_it_is_answered() -> None:
    torn = Answer(201, b'{"object": "job"', {"Content-Type": "application/json"}, torn_after=5)
    busy = problem(503, "database_unavailable", "busy", Retry_After="0")
    with (
        service(in_turn(DROPPED, torn, busy, job_answer(a_job(), 201))) as stub,
        Client(stub.url, retry=IMPATIENT) as client,
    ):
        assert client.submit("CartPole-v1").id == "job_1"
    assert len(stub.requests) == 4
    assert len({request.headers["Idempotency-Key"] for request in stub.requests}) == 1
    assert len({request.body for request in stub.requests}) == 1


def test_two_submissions_have_two_idempotency_keys() -> None:
    with service(in_turn(job_answer(a_job(), 201))) as stub, Client(stub.url) as client:
        client.submit("CartPole-v1")
        client.submit("CartPole-v1")
        client.submit("CartPole-v1", idempotency_key="mine")
    first, second, third = (request.headers["Idempotency-Key"] for request in stub.requests)
    assert first != second
    assert third == "mine"


def test_a_busy_service_is_left_alone_for_as_long_as_it_asks() -> None:
    busy = problem(429, "slow_down", "slow down", Retry_After="1")
    with service(in_turn(busy, job_answer(a_job()))) as stub, Client(stub.url, retry=IMPATIENT) as client:
        started = time.monotonic()
        client.job("job_1")
        assert time.monotonic() - started >= 1.0
    assert len(stub.requests) == 2


def test_a_wait_longer_than_the_patience_is_refused_at_once() -> None:
    busy = problem(503, "catalogue_empty", "no worker has registered yet", Retry_After="3600")
    with service(in_turn(busy)) as stub, Client(stub.url, retry=IMPATIENT) as client:
        with pytest.raises(ServiceUnavailable) as caught:
            client.job("job_1")
        assert caught.value.code == "catalogue_empty"
    assert len(stub.requests) == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    def asked(value: str) -> float | None:
        return retry_after(httpx2.Response(503, headers={"Retry-After": value}))

    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert asked("7") == 7.0
    assert 55 < (asked(in_a_minute) or 0) <= 60
    assert asked("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert asked("soon") is None
    assert retry_after(httpx2.Response(503)) is None


def test_a_service_that_is_gone_is_named_when_the_patience_ends() -> None:
    with service(in_turn(DROPPED)) as stub:
        url = stub.url
    policy = RetryPolicy(unreachable_seconds=0.2, first_delay_seconds=0.01)
    with Client(url, retry=policy) as client, pytest.raises(ServiceUnreachable) as caught:
        client.job("job_1")
    assert url in str(caught.value)
    assert "connection refused" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, NotAuthorised),
        (403, NotAuthorised),
        (404, NotFound),
        (405, InvalidRequest),
        (409, Conflict),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (500, ServerFailed),
    ],
)
def test_a_refusal_is_not_repeated_and_keeps_all_that_the_service_said(status: int, kind: type[ProblemError]) -> None:
    faults = [{"pointer": "/ppo/gamma", "message": "must be at most 1"}]
    with (
        service(in_turn(problem(status, "some_code", "some detail", errors=faults))) as stub,
        Client(stub.url) as client,
        pytest.raises(kind) as caught,
    ):
        client.job("job_1")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "some detail", "req_1")
    assert error.errors == (FieldFault("/ppo/gamma", "must be at most 1"),)
    assert len(stub.requests) == 1


def test_429_is_a_class_of_its_own_once_the_patience_ends() -> None:
    busy = in_turn(problem(429, "slow_down", "slow down", Retry_After="9"))
    with service(busy) as stub, Client(stub.url, retry=IMPATIENT) as client, pytest.raises(TooManyRequests):
        client.job("job_1")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>login</html>"),
        Answer(404, b"<html>no such page</html>"),
        as_json({"object": "job", "id": 3}),
        Answer(302, b"", {"Location": "http://elsewhere.example/"}),
        Answer(200, b"not gzip", {"Content-Encoding": "gzip"}),
    ],
)
def test_what_is_not_this_service_is_told_apart_from_an_error_of_it(answer: Answer) -> None:
    with service(in_turn(answer)) as stub, Client(stub.url, "ppo_key") as client, pytest.raises(UnexpectedAnswer):
        client.job("job_1")
    assert len(stub.requests) == 1


def test_an_id_can_never_lead_to_another_route() -> None:
    with service(in_turn(problem(404, "job_not_found", "no such job"))) as stub, Client(stub.url) as client:
        for job_id in ["../workers", "job_1/cancel", "a?b=c", "..", "", "x#y"]:
            with pytest.raises(NotFound):
                client.job(job_id)
    paths = [request.path for request in stub.requests]
    assert paths == [
        "/v1/jobs/..%2Fworkers",
        "/v1/jobs/job_1%2Fcancel",
        "/v1/jobs/a%3Fb%3Dc",
        "/v1/jobs/-",
        "/v1/jobs/-",
        "/v1/jobs/x%23y",
    ]


def test_a_path_in_the_address_and_the_key_go_with_every_request() -> None:
    with service(in_turn(job_answer(a_job()))) as stub, Client(f"{stub.url}/ppo/", "ppo_key") as client:
        client.job("job_1")
    assert stub.requests[0].path == "/ppo/v1/jobs/job_1"
    assert stub.requests[0].headers["Authorization"] == "Bearer ppo_key"


def test_a_proxy_never_stands_before_a_local_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with service(in_turn(job_answer(a_job()))) as stub, Client(stub.url) as client:
        assert client.job("job_1").id == "job_1"


def test_whoever_asks_is_told_before_each_further_try() -> None:
    causes: list[str] = []

    def tell(cause: Exception) -> None:
        causes.append(type(cause).__name__)

    replies = in_turn(DROPPED, problem(503, "busy", "busy"), job_answer(a_job()))
    with service(replies) as stub, Client(stub.url, retry=IMPATIENT, on_retry=tell) as client:
        client.job("job_1")
    assert causes == ["ServiceUnreachable", "ServiceUnavailable"]


def test_a_hundred_and_fifty_requests_at_once_do_not_wait_for_each_other() -> None:
    """More than httpx2's default of 100 connections, all held open by the service until the last has come."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    everyone = Barrier(150, timeout=20)

    def reply(request: Request) -> Answer:
        everyone.wait()
        return job_answer(a_job())

    with service(reply) as stub, Client(stub.url) as client, ThreadPoolExecutor(150) as pool:
        assert len(list(pool.map(lambda _: client.job("job_1"), range(150)))) == 150
