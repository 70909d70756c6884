"""Gives back the jobs of supervisors that died on this host, without waiting for their leases."""

import logging
from pathlib import Path

from ppo_jobs.database import Database
from ppo_jobs.errors import LeaseLost
from ppo_jobs.repository import claims
from ppo_jobs.states import AttemptOutcome, ReasonCode
from worker.runs import orphans, remove_leftovers

logger = logging.getLogger(__name__)


def release_orphans(database: Database, root: Path) -> int:
    """Queue the jobs of dead supervisors again and remove their directories; how many were given back.

    Safe for any number of processes at once, and wrong about nobody: a living supervisor holds its directory's lock,
    and the attempt's number keeps what has been given away already.

    Raises:
        DatabaseUnavailable: what is left is found again later.
    """
    released = 0
    with orphans(root) as runs:
        for run in runs:
            reason = claims.Reason(ReasonCode.WORKER_LOST, "its supervisor died", retryable=True)
            try:
                with database.write() as session:
                    claims.requeue(session, run.job_id, run.attempt, outcome=AttemptOutcome.LOST, reason=reason)
                logger.warning("job %s: the supervisor of attempt %d died", run.job_id, run.attempt)
                released += 1
            except LeaseLost:
                pass  # It had ended, or was reaped; only the directory is left.
            run.remove()
    remove_leftovers(root)
    return released
