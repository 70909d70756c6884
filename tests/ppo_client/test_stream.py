from collections.abc import Callable

import pytest

from ppo_client import Client, NotFound, ServiceUnreachable, UnexpectedAnswer
from ppo_jobs.schemas import LedgerEvent, Page
from ppo_jobs.states import JobStatus
from tests.ppo_client.stub import (
    DROPPED,
    IMPATIENT,
    Answer,
    Request,
    a_job,
    as_events,
    as_json,
    in_turn,
    job_answer,
    ledger,
    problem,
    service,
)

LEDGER = ledger(12)
ENDED = a_job(status=JobStatus.SUCCEEDED, last_seq=len(LEDGER))


def streaming(stream: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """A service whose job is `ENDED`, with the answers of `stream` to its stream."""

    def reply(request: Request) -> Answer:
        if request.path.endswith("/stream"):
            return stream(request)
        if request.path.endswith("/events"):
            rest = LEDGER[int(request.query["after"]) :]
            page = Page[LedgerEvent](data=rest, has_more=False, first_id=None, last_id=None)
            return as_json(page.model_dump(mode="json"))
        return job_answer(ENDED)

    return reply


def streamed(stream: Callable[[Request], Answer], *, after: int = 0) -> tuple[list[int], list[str]]:
    """The numbers of the events that a client sees, and the Last-Event-IDs that it sent."""
    with service(streaming(stream)) as stub, Client(stub.url, retry=IMPATIENT) as client:
        seen = [event.seq for event in client.job("job_1").stream(after=after)]
        asked = [request for request in stub.requests if request.path.endswith("/stream")]
    return seen, [request.headers["Last-Event-ID"] for request in asked]


def test_wherever_connections_are_torn_the_union_is_the_ledger() -> None:
    """Each connection carries 300 bytes more than the last one did, so that cuts fall anywhere in an event."""
    tries = 0

    def stream(request: Request) -> Answer:
        nonlocal tries
        tries += 1
        whole = as_events(LEDGER[int(request.headers["Last-Event-ID"]) :], is_ended=True)
        length = 300 + 37 * tries
        return Answer(200, whole.body, whole.headers, torn_after=length if length < len(whole.body) else None)

    seen, asked = streamed(stream)
    assert seen == list(range(1, 13))
    assert len(asked) > 4
    assert asked == sorted(asked, key=int)


def test_a_server_that_repeats_or_skips_events_changes_nothing() -> None:
    repeating = as_events([*LEDGER[:4], *LEDGER[2:6]])
    skipping = as_events([*LEDGER[6:8], *LEDGER[9:]], is_ended=True)
    rest = as_events(LEDGER[8:], is_ended=True)
    seen, asked = streamed(in_turn(repeating, skipping, rest))
    assert seen == list(range(1, 13))
    assert asked == ["0", "6", "8"]


def test_a_stream_starts_behind_the_event_that_is_given() -> None:
    seen, asked = streamed(lambda _: as_events(LEDGER[9:], is_ended=True), after=9)
    assert (seen, asked) == ([10, 11, 12], ["9"])


def test_a_clean_close_without_an_end_is_no_end() -> None:
    seen, _ = streamed(in_turn(as_events(LEDGER[:5]), as_events(LEDGER[5:], is_ended=True)))
    assert seen == list(range(1, 13))


def test_an_outage_in_the_middle_is_waited_for() -> None:
    busy = problem(503, "database_unavailable", "the database cannot be reached", Retry_After="0")
    seen, asked = streamed(in_turn(as_events(LEDGER[:5]), DROPPED, busy, as_events(LEDGER[5:], is_ended=True)))
    assert seen == list(range(1, 13))
    assert asked == ["0", "5", "5", "5"]


def test_no_content_ends_a_stream_and_what_it_left_out_is_read_from_the_ledger() -> None:
    seen, _ = streamed(in_turn(as_events(LEDGER[:5]), Answer(204)))
    assert seen == list(range(1, 13))


def test_the_handle_knows_how_the_job_ended_when_its_stream_is_over() -> None:
    answers = streaming(lambda _: as_events(LEDGER, is_ended=True))
    running = [job_answer(a_job())]

    def reply(request: Request) -> Answer:
        return running.pop() if running else answers(request)

    with service(reply) as stub, Client(stub.url) as client:
        job = client.job("job_1")
        assert not job.is_finished
        list(job.stream())
        assert job.status == JobStatus.SUCCEEDED


def test_a_stream_that_never_comes_back_ends_with_the_cause() -> None:
    with pytest.raises(ServiceUnreachable):
        streamed(in_turn(as_events(LEDGER[:5]), DROPPED))


def test_a_job_that_is_deleted_while_it_is_streamed_is_not_found() -> None:
    with pytest.raises(NotFound):
        streamed(in_turn(as_events(LEDGER[:5]), problem(404, "job_not_found", "there is no such job")))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html></html>", {"Content-Type": "text/html"}),
        Answer(200, b"event: status\ndata: {}\n\n", {"Content-Type": "text/event-stream"}),
    ],
)
def test_what_is_no_ledger_is_no_stream(answer: Answer) -> None:
    with pytest.raises(UnexpectedAnswer):
        streamed(in_turn(answer))
