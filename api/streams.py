"""Ledgers as server-sent events (WHATWG HTML, 9.2)."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from api.errors import RETRY_AFTER_SECONDS, ProblemError
from api.tailer import OUTAGE_SECONDS, Tail, Tailer
from ppo_jobs.errors import DatabaseUnavailable, JobNotFound
from ppo_jobs.schemas import Job

PING_SECONDS = 15.0
RECONNECT_MILLISECONDS = 2000
MAX_PER_TENANT = 500


class Streams:
    """The open streams of each tenant, counted."""

    def __init__(self, tailer: Tailer, *, max_per_tenant: int = MAX_PER_TENANT) -> None:
        self.tailer = tailer
        self._max_per_tenant = max_per_tenant
        self._open: Counter[str] = Counter()

    def open(self, tenant_id: str, job: Job, after: int) -> "LedgerStream":
        """A stream of what follows `after` in the job's ledger.

        Raises:
            ProblemError: 429, the tenant has too many open.
        """
        if self._open[tenant_id] >= self._max_per_tenant:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too_many_streams",
                f"{self._max_per_tenant} streams are open already; close one, or poll /events",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._open[tenant_id] += 1
        return LedgerStream(self, tenant_id, job, after)

    @property
    def open_count(self) -> int:
        return self._open.total()

    def closed(self, tenant_id: str) -> None:
        self._open[tenant_id] -= 1
        if not self._open[tenant_id]:
            del self._open[tenant_id]


class LedgerStream(EventSourceResponse):
    """One client's stream. It holds no database session, and at most one page of events while its client is slow."""

    def __init__(self, streams: Streams, tenant_id: str, job: Job, after: int) -> None:
        self._streams = streams
        self._tenant_id = tenant_id
        self._chunks = _chunks(streams.tailer, tenant_id, job, after)
        super().__init__(self._chunks, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._chunks):
                await super().__call__(scope, receive, send)
        finally:
            self._streams.closed(self._tenant_id)


async def _chunks(tailer: Tailer, tenant_id: str, job: Job, after: int) -> AsyncGenerator[bytes]:
    yield format_sse_event(retry=RECONNECT_MILLISECONDS)
    with tailer.follow(tenant_id, job) as tail:
        while not tailer.stopped.is_set():
            try:
                frames = tail.frames_after(after)
                if frames is None:
                    frames = await tailer.read(tail, after)
            except DatabaseUnavailable:
                yield KEEPALIVE_COMMENT
                await asyncio.sleep(OUTAGE_SECONDS)
                continue
            except JobNotFound:
                return
            if frames:
                yield b"".join(frame.content for frame in frames)
                after = frames[-1].seq
            elif tail.has_ended(after):
                yield _end(tail)
                return
            elif not await tail.changes_within(PING_SECONDS):
                yield KEEPALIVE_COMMENT


def _end(tail: Tail) -> bytes:
    return format_sse_event(event="end", data_str=f'{{"status":"{tail.status}","last_seq":{tail.last_seq}}}')
