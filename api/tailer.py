"""The growing ends of ledgers: one poll of the database feeds every stream and every long poll of this process.

A follower holds no session. Each new event is rendered once; the newest are kept per followed job, in bounded memory,
and whoever has fallen further behind reads its next page from the ledger.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.repository import events, jobs
from ppo_jobs.schemas import Evaluation, Job, LedgerEvent
from ppo_jobs.states import TERMINAL, JobStatus

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
OUTAGE_SECONDS = 1.0
PAGE = 500
KEPT_BYTES = 512 * 1024
"""Of rendered events, per followed job."""


Followed: TypeAlias = Job | Evaluation
"""What has a ledger."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it goes over the wire."""

    seq: int
    content: bytes


def frame(event: LedgerEvent) -> Frame:
    content = format_sse_event(data_str=event.model_dump_json(), event=event.type, id=str(event.seq))
    return Frame(event.seq, content)


class Tail:
    """The newest part of one job's ledger."""

    def __init__(self, tenant_id: str, job: Followed) -> None:
        self.tenant_id = tenant_id
        self.job_id = job.id
        self.last_seq = job.last_seq
        self.status = job.status
        self.is_deleted = False
        self.followers = 0
        self._frames: deque[Frame] = deque()
        self.kept_bytes = 0
        self._changed = asyncio.Event()

    def has_ended(self, after: int) -> bool:
        """Whether nothing will ever follow the event `after`."""
        return self.is_deleted or (self.status in TERMINAL and after >= self.last_seq)

    def frames_after(self, after: int) -> list[Frame] | None:
        """What follows `after`; None when that is no longer kept here, and stands in the ledger."""
        missing = self.last_seq - after
        if missing <= 0:
            return []
        return list(self._frames)[-missing:] if missing <= len(self._frames) else None

    def extend(self, frames: list[Frame], status: JobStatus | None, *, row_seq: int) -> None:
        """Add what the ledger has got, and wake every follower if anything is new; no status: the job is gone."""
        for new in frames:
            self._frames.append(new)
            self.kept_bytes += len(new.content)
            self.last_seq = new.seq
        while self.kept_bytes > KEPT_BYTES:
            self.kept_bytes -= len(self._frames.popleft().content)
        is_changed = bool(frames)
        if status is None:
            self.is_deleted = is_changed = True
        elif self.last_seq >= row_seq and status != self.status:
            self.status, is_changed = status, True
        if is_changed:
            self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def changes_within(self, seconds: float) -> bool:
        """Wait for something new; False when nothing came in time."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Tailer:
    """Follows the jobs that somebody watches."""

    def __init__(self, database: Database) -> None:
        self.stopped = asyncio.Event()
        self._database = database
        self._tails: dict[str, Tail] = {}
        self._wanted = asyncio.Event()

    @contextmanager
    def follow(self, tenant_id: str, job: Followed) -> Iterator[Tail]:
        """The tail of `job`, kept up to date inside the block."""
        tail = self._tails.setdefault(job.id, Tail(tenant_id, job))
        tail.followers += 1
        self._wanted.set()
        try:
            yield tail
        finally:
            tail.followers -= 1
            if tail.followers == 0:
                del self._tails[job.id]

    async def run(self) -> None:
        """Poll while anything is followed, until `stop`."""
        while not self.stopped.is_set():
            if not self._tails:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            try:
                is_behind = await self._poll()
            except DatabaseUnavailable as error:
                logger.warning("streams wait for the database: %s", error)
                await asyncio.sleep(OUTAGE_SECONDS)
            except Exception:  # One poll that failed must not leave every stream of this process behind for ever.
                logger.exception("streams were not fed")
                await asyncio.sleep(OUTAGE_SECONDS)
            else:
                await asyncio.sleep(0 if is_behind else POLL_SECONDS)

    def stop(self) -> None:
        """End every stream and long poll at once."""
        self.stopped.set()
        self._wanted.set()
        for tail in self._tails.values():
            tail.wake()

    async def read(self, tail: Tail, after: int) -> list[Frame]:
        """One page of the ledger, for a follower that has fallen behind what `tail` keeps."""
        return await run_in_threadpool(self._page, tail.tenant_id, tail.job_id, after)

    async def _poll(self) -> bool:
        """Bring every tail up to date; True when one has more to read at once."""
        known = {tail.job_id: (tail.tenant_id, tail.last_seq) for tail in self._tails.values()}
        news = await run_in_threadpool(self._news, known)
        is_behind = False
        for job_id, (row_seq, status, frames) in news.items():
            tail = self._tails.get(job_id)
            if tail is not None and tail.last_seq == known[job_id][1]:
                tail.extend(frames, status, row_seq=row_seq)
                is_behind = is_behind or tail.last_seq < row_seq
        return is_behind

    def _news(self, known: dict[str, tuple[str, int]]) -> dict[str, tuple[int, JobStatus | None, list[Frame]]]:
        news: dict[str, tuple[int, JobStatus | None, list[Frame]]] = {}
        with self._database.read() as session:
            rows = jobs.latest_seqs(session, list(known))
            for job_id, (tenant_id, after) in known.items():
                row_seq, status = rows.get(job_id, (after, None))
                entries = (
                    events.list_events(session, tenant_id, job_id, after=after, limit=PAGE) if row_seq > after else []
                )
                news[job_id] = (row_seq, status, [frame(entry) for entry in entries])
        return news

    def _page(self, tenant_id: str, job_id: str, after: int) -> list[Frame]:
        with self._database.read() as session:
            return [frame(event) for event in events.list_events(session, tenant_id, job_id, after=after, limit=PAGE)]
