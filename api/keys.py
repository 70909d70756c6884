"""Keys of requests that are under way: one that is revoked ends what it has begun, however long that would last."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.repository import tenants

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


@dataclass(eq=False, slots=True)
class Grant:
    """That a request may go on."""

    key_id: str
    task: "asyncio.Task[object]"
    is_revoked: bool = False


class KeyWatch:
    """Looks after the keys of all requests under way: streams, long polls, downloads, whatever may come to last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._grants: set[Grant] = set()

    @contextmanager
    def granted(self, key_id: str) -> Iterator[Grant]:
        """The task that is in this block is cancelled when the key is revoked."""
        task = asyncio.current_task()
        assert task is not None
        grant = Grant(key_id, task)
        self._grants.add(grant)
        try:
            yield grant
        finally:
            self._grants.discard(grant)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._grants:
                continue
            try:
                await self._look()
            except DatabaseUnavailable:
                continue
            except Exception:  # One look that failed must not be the last one.
                logger.exception("the keys of requests under way were not looked at")

    async def _look(self) -> None:
        valid = await run_in_threadpool(self._valid, {grant.key_id for grant in self._grants})
        for grant in [grant for grant in self._grants if grant.key_id not in valid]:
            if not grant.is_revoked:
                grant.is_revoked = True
                grant.task.cancel()

    def _valid(self, key_ids: set[str]) -> set[str]:
        with self._database.read() as session:
            return tenants.valid_key_ids(session, key_ids)
