"""Holding an answer back until there is news."""

import time
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from api.dependencies import Services
from api.tailer import Followed
from ppo_jobs.schemas import Evaluation, Job
from ppo_jobs.states import TERMINAL

Awaited = TypeVar("Awaited", Job, Evaluation)


async def read_when_new(
    services: Services, tenant_id: str, read: Callable[[], Awaited], *, after: int | None, seconds: float
) -> Awaited:
    """What `read` gives: at once where it has ended or its ledger has more than `after`, else when there is news.

    Args:
        read: called in a thread; what it raises is raised.
        after: the newest `seq` that is known; None: that which is the newest now.
        seconds: what `read` gives by then is the answer in any case.
    """
    found = await run_in_threadpool(read)
    known = found.last_seq if after is None else after
    if seconds == 0 or found.last_seq > known or found.status in TERMINAL:
        return found
    await _until_news(services, tenant_id, found, known, seconds=seconds)
    return await run_in_threadpool(read)


async def _until_news(services: Services, tenant_id: str, followed: Followed, known: int, *, seconds: float) -> None:
    """Returns when the ledger has more than `known`, or nothing will follow, or time is up, or the service stops."""
    deadline = time.monotonic() + seconds
    with services.tailer.follow(tenant_id, followed) as tail:
        while tail.last_seq <= known and not tail.has_ended(known) and not services.tailer.stopped.is_set():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not await tail.changes_within(remaining):
                return
