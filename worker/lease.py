"""Keeps an attempt's lease by a path that never waits for training, files or the ledger."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable, LeaseLost
from ppo_jobs.repository import claims

logger = logging.getLogger(__name__)

LONGEST_RENEWAL_SECONDS = 1.0
"""A cancel request is noticed when the lease is renewed, and must not wait."""


def renewal_seconds(lease_seconds: float) -> float:
    """How often a lease is renewed: five times in its length, and every second at least."""
    return min(lease_seconds / 5, LONGEST_RENEWAL_SECONDS)


class Lease:
    """Renewed in a thread while the context lasts."""

    def __init__(self, database: Database, claim: claims.Claim, *, lease_seconds: float) -> None:
        self._database = database
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {claim.job_id}", daemon=True)
        self.is_lost = False
        """The attempt no longer owns its job."""
        self.cancel_requested = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        interval = renewal_seconds(self._lease_seconds)
        due = time.monotonic()
        while not self.is_lost and not self._ended.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + interval
            self._renew()

    def _renew(self) -> None:
        claim = self._claim
        try:
            with self._database.write() as session:
                renewal = claims.renew(session, claim.key, lease_seconds=self._lease_seconds)
        except LeaseLost:
            self.is_lost = True
        except DatabaseUnavailable as error:
            logger.warning("job %s: the lease could not be renewed: %s", claim.job_id, error)
        except Exception:  # Whatever else may happen: a lease that nobody renews loses the job, this second may not.
            logger.exception("job %s: the lease could not be renewed", claim.job_id)
        else:
            self.cancel_requested = renewal.cancel_requested
