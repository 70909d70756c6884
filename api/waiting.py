"""Holding an answer back until there is news."""

import time

from api.dependencies import Services
from api.tailer import Followed


async def until_news(services: Services, tenant_id: str, followed: Followed, known: int, *, seconds: float) -> None:
    """Returns when the ledger has more than `known`, or nothing will follow, or time is up, or the service stops."""
    deadline = time.monotonic() + seconds
    with services.tailer.follow(tenant_id, followed) as tail:
        while tail.last_seq <= known and not tail.has_ended(known) and not services.tailer.stopped.is_set():
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not await tail.changes_within(remaining):
                return
