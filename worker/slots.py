"""The work of one pool process: one slot, which claims jobs and supervises them one after another.

A message wakes it. Where messages are lost or the broker is away, it finds waiting jobs by looking for itself.
"""

import logging
import random
import threading
from contextlib import ExitStack

from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.repository import claims
from ppo_jobs.states import QueueName
from worker.supervisor import Slot, supervise

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
OVERDUE_SECONDS = 1.0
"""A job that has waited so long was not announced, or no slot was free."""


class SlotWork:
    """Claims and supervises while there is something to do."""

    def __init__(self, slot: Slot, queue: QueueName) -> None:
        self._slot = slot
        self._queue = queue
        self._is_busy = threading.Lock()
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="slot-poll", daemon=True)

    def start(self) -> None:
        """Look for jobs every few seconds from now on."""
        self._poller.start()

    def close(self) -> None:
        """Look for no more jobs; returns when the one that is under way, draining, has been given back."""
        self._closing.set()
        self._poller.join()

    def work(self) -> None:
        """Take jobs until none is left; waits while the slot is busy with one that it found by itself."""
        with self._is_busy:
            self._claim_until_idle()

    def _poll(self) -> None:
        with ExitStack() as stack:
            if (server := self._slot.fork_server) is not None:
                # It dies with the thread that started it: this one, which lives as long as the slot.
                stack.callback(server.close)
                server.tend()
            # Not in step with the other slots, which would all ask at once.
            while not self._closing.wait(POLL_SECONDS * random.uniform(0.75, 1.25)):
                if server is not None:
                    server.tend()
                self._look_for_jobs()

    def _look_for_jobs(self) -> None:
        if self._is_busy.acquire(blocking=False):
            try:
                if self._is_overdue():
                    self._claim_until_idle()
            except DatabaseUnavailable as error:
                logger.warning("queue %s: %s", self._queue, error)
            except Exception:  # The poll is what finds a job when all else failed; it must not end.
                logger.exception("queue %s: its slot failed", self._queue)
            finally:
                self._is_busy.release()

    def _is_overdue(self) -> bool:
        with self._slot.database.read() as session:
            return self._queue in claims.queued_queues(session, older_than_seconds=OVERDUE_SECONDS)

    def _claim_until_idle(self) -> None:
        while not self._slot.is_draining():
            with self._slot.database.write() as session:
                claim = claims.claim(
                    session,
                    worker_id=self._slot.worker_id,
                    queue=self._queue,
                    lease_seconds=self._slot.settings.lease_seconds,
                )
            if claim is None:
                return
            supervise(claim, self._slot)
