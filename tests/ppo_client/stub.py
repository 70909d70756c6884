"""A service that fails as a real one seldom does: it drops connections and tears bodies, as a test tells it to."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

from ppo_client import RetryPolicy
from ppo_jobs.schemas import Job, LedgerEvent, Page, Progress, QueuePlace, Usage
from ppo_jobs.states import EventType, JobStatus, QueueName

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IMPATIENT = RetryPolicy(
    unreachable_seconds=1.0,
    busy_seconds=5.0,
    interrupted_seconds=1.0,
    first_delay_seconds=0.001,
    longest_delay_seconds=0.02,
)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What the stub sends: `body`, but only its first `torn_after` bytes; nothing at all when `is_dropped`."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    torn_after: int | None = None
    is_dropped: bool = False


DROPPED = Answer(is_dropped=True)


@dataclass
class Stub:
    url: str
    requests: list[Request]


@contextmanager
def service(reply: Callable[[Request], Answer]) -> Iterator[Stub]:
    """A server on a free port that answers each request with `reply(request)`."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def respond(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), self.headers, body)
            requests.append(request)
            answer = reply(request)
            self.close_connection = True
            if answer.is_dropped:
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body[: answer.torn_after])

        do_GET = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Stub(f"http://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """The answers one after the other; the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def as_json(document: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def problem(status: int, code: str, detail: str, *, errors: Iterable[Mapping[str, str]] = (), **headers: str) -> Answer:
    document = {
        "type": "about:blank",
        "title": "Problem",
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "req_1",
        "errors": list(errors),
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/problem+json", **named})


def a_job(job_id: str = "job_1", *, status: JobStatus = JobStatus.RUNNING, **changes: object) -> Job:
    """A job of 1000 timesteps on CartPole."""
    job = Job(
        id=job_id,
        name=None,
        metadata={},
        group=None,
        status=status,
        status_reason=None,
        spec={"env": {"id": "CartPole-v1"}},
        resolved_spec={"env": {"id": "CartPole-v1"}, "seed": 7},
        spec_version=1,
        wants=QueueName.CPU,
        progress=Progress(
            timesteps=400,
            total_timesteps=1000,
            fraction=0.4,
            iteration=4,
            fps=100.0,
            eta_seconds=6.0,
            last_iteration_at=MOMENT,
        ),
        queue=QueuePlace(position=None, reason=None),
        attempt=1,
        max_attempts=3,
        cancel_requested=False,
        runtime=None,
        latest_metrics={"rollout/ep_rew_mean": 187.25},
        latest_checkpoint_id=None,
        best_checkpoint_id=None,
        final_checkpoint_id=None,
        parent=None,
        usage=Usage(cpu_seconds=1.0, gpu_seconds=0.0, env_steps=400, storage_bytes=2048),
        last_seq=5,
        created_at=MOMENT,
        started_at=MOMENT,
        finished_at=None,
        updated_at=MOMENT,
    )
    return job.model_copy(update=changes)


def job_answer(job: Job, status: int = 200) -> Answer:
    return as_json(job.model_dump(mode="json"), status)


def ledger(length: int) -> list[LedgerEvent]:
    """`queued`, `running`, metrics of every hundred timesteps, then `succeeded`."""
    data: list[tuple[EventType, dict[str, object]]] = [
        (EventType.STATUS, {"status": "queued"}),
        (EventType.STATUS, {"status": "running"}),
    ]
    for iteration in range(1, length - 2):
        metrics = {"rollout/ep_rew_mean": 10.0 * iteration, "time/fps": 100.0}
        data.append((EventType.METRICS, {"iteration": iteration, "timesteps": 100 * iteration, "metrics": metrics}))
    data.append((EventType.STATUS, {"status": "succeeded"}))
    return [an_event(seq, type_, content) for seq, (type_, content) in enumerate(data[:length], start=1)]


def an_event(seq: int, type_: EventType, data: Mapping[str, object]) -> LedgerEvent:
    return LedgerEvent.model_validate({"seq": seq, "type": type_, "attempt": 1, "created_at": MOMENT, "data": data})


def events_page(*events: LedgerEvent) -> Answer:
    """The events as the one page of a list."""
    first, last = (str(events[0].seq), str(events[-1].seq)) if events else (None, None)
    page = Page[LedgerEvent](data=list(events), has_more=False, first_id=first, last_id=last)
    return as_json(page.model_dump(mode="json"))


def as_events(events: Iterable[LedgerEvent], *, is_ended: bool = False) -> Answer:
    """The events as a stream."""
    text = "retry: 2000\n\n" + "".join(
        f"id: {event.seq}\nevent: {event.type.value}\ndata: {event.model_dump_json()}\n\n" for event in events
    )
    if is_ended:
        text += 'event: end\ndata: {"status": "succeeded"}\n\n'
    return Answer(200, text.encode(), {"Content-Type": "text/event-stream"})
