"""The process that keeps no job waiting: it sweeps the database every few seconds, beside any number of others.

It gives jobs of lost workers to others, wakes queues whose message was lost, and clears away what nobody needs.
"""

import logging
import signal
import threading
import time
from dataclasses import dataclass

from celery import Celery

from ppo_jobs.artifacts import ArtifactStore, open_artifacts
from ppo_jobs.database import Database, open_database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.log_lines import configure_logging
from ppo_jobs.queue import celery_app, publish
from ppo_jobs.repository import checkpoints, claims, idempotency, workers
from ppo_jobs.settings import Settings, load_settings
from worker.orphans import release_orphans
from worker.runs import RUNS

logger = logging.getLogger(__name__)

WAITING_SECONDS = 2.0
"""A queue whose oldest job has waited so long is woken again."""

CLEANING_SECONDS = 600.0
GARBAGE_SECONDS = 3600.0
"""Files without a row may be about to get one until they are so old."""

IDEMPOTENCY_SECONDS = 7 * 86_400.0
FORGOTTEN_SECONDS = 7 * 86_400.0
"""After which a worker that was not heard of is no longer listed."""


@dataclass(slots=True)
class Vigil:
    """For how long, without a gap, leases could have been renewed: before that, an expired one proves nothing.

    While the database was away, this process stood still or the machine slept, living supervisors could not renew
    theirs either.
    """

    lease_seconds: float
    unbroken_since: float
    last_look: float

    def look(self, now: float) -> bool:
        """Whether a lease that has expired by `now` was really given up; `now` is of the wall clock, which runs on
        while a machine sleeps."""
        if not 0 <= now - self.last_look < self.lease_seconds / 2:
            self.unbroken_since = now
        self.last_look = now
        return now - self.unbroken_since >= self.lease_seconds

    def lost(self, now: float) -> None:
        """The database was away."""
        self.unbroken_since = self.last_look = now


class Sweeper:
    """One sweep after another."""

    def __init__(self, settings: Settings, database: Database, artifacts: ArtifactStore, app: Celery) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._app = app
        now = time.time()
        self._vigil = Vigil(settings.lease_seconds, unbroken_since=now, last_look=now)
        self._suspects: dict[str, float] = {}
        self._clean_at = time.monotonic()

    def sweep(self) -> None:
        """Give back what was lost and wake who should work; never raises for a database that is away."""
        try:
            release_orphans(self._database, self._settings.data_dir / RUNS)
            with self._database.write() as session:
                if self._vigil.look(time.time()):
                    for job_id, _ in claims.reap_expired(session):
                        logger.warning("job %s: its lease ran out", job_id)
            with self._database.read() as session:
                waiting = claims.queued_queues(session, older_than_seconds=WAITING_SECONDS)
            for queue in waiting:
                publish(self._app, queue)
            if time.monotonic() >= self._clean_at:
                self.clean()
                self._clean_at = time.monotonic() + CLEANING_SECONDS
        except DatabaseUnavailable as error:
            self._vigil.lost(time.time())
            logger.warning("the sweeper waits: %s", error)

    def clean(self) -> None:
        """Delete files that no checkpoint names, answers too old to be asked for again, and workers long gone."""
        with self._database.write() as session:
            idempotency.forget_answers(session, older_than_seconds=IDEMPOTENCY_SECONDS)
            workers.forget_dead_workers(session, older_than_seconds=FORGOTTEN_SECONDS)
        keys = list(self._artifacts.keys())
        with self._database.read() as session:
            garbage = checkpoints.garbage_keys(session, keys)
        now = time.monotonic()
        self._suspects = {key: self._suspects.get(key, now) for key in garbage}
        for key, since in self._suspects.items():
            if now - since >= GARBAGE_SECONDS:
                logger.info("files %s belong to no checkpoint and are deleted", key)
                self._artifacts.delete(key)


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    settings = load_settings()
    configure_logging(settings)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    database = open_database(settings.database_url, durable=False)
    sweeper = Sweeper(settings, database, open_artifacts(settings.artifacts_url), celery_app(settings))
    logger.info("sweeping every %g s", settings.sweep_seconds)
    while not stopped.is_set():
        sweeper.sweep()
        stopped.wait(settings.sweep_seconds)
    database.dispose()


if __name__ == "__main__":
    main()
