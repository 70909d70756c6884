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
from ppo_jobs.database import Database, open_database, prove_writable
from ppo_jobs.entrance import enter, in_plain_words
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.log_lines import configure_logging
from ppo_jobs.pulse import own_pulse, touch
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
"""Files of which nobody told may be about to get a row until they are so old."""

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
        self._clean_at = time.monotonic()

    def sweep(self) -> None:
        """Give back what was lost, wake who should work, and clear away; one that fails keeps none of the others.

        It never raises, since all jobs wait for it.
        """
        for part in (self._release, self._reap, self._wake, self._clear, self._clean_now_and_then):
            try:
                part()
            except DatabaseUnavailable as error:
                self._vigil.lost(time.time())
                logger.warning("the sweeper waits: %s", error)
                return
            except Exception:
                logger.exception("a part of the sweep failed")

    def _release(self) -> None:
        release_orphans(self._database, self._settings.data_dir / RUNS)

    def _reap(self) -> None:
        with self._database.write() as session:
            # A lease can be renewed only where something can be written.
            prove_writable(session)
            if self._vigil.look(time.time()):
                for job_id, _ in claims.reap_expired(session):
                    logger.warning("job %s: its lease ran out", job_id)

    def _wake(self) -> None:
        with self._database.read() as session:
            waiting = claims.queued_queues(session, older_than_seconds=WAITING_SECONDS)
        for queue in waiting:
            publish(self._app, queue)

    def _clear(self) -> None:
        """Delete the files of what was deleted, and what attempts that have ended leave without a row."""
        with self._database.read() as session:
            prefixes = checkpoints.discarded(session)
        cleared = [prefix for prefix in prefixes if self._is_cleared(prefix)]
        if cleared:
            with self._database.write() as session:
                checkpoints.cleared(session, cleared)

    def _is_cleared(self, prefix: str) -> bool:
        keys = list(self._artifacts.keys(prefix))
        if keys != [prefix]:  # Else it is a checkpoint's own, whose row was taken away.
            with self._database.read() as session:
                keys = checkpoints.garbage_keys(session, keys)
        try:
            for key in keys:
                self._artifacts.delete(key)
        except OSError as error:
            logger.warning("files below %s cannot be deleted yet: %s", prefix, error)
            return False
        return True

    def _clean_now_and_then(self) -> None:
        if time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + CLEANING_SECONDS
            self.clean()

    def clean(self) -> None:
        """Delete old files that no checkpoint names, answers too old to be asked for again, and workers long gone."""
        with self._database.write() as session:
            idempotency.forget_answers(session, older_than_seconds=IDEMPOTENCY_SECONDS)
            workers.forget_dead_workers(session, older_than_seconds=FORGOTTEN_SECONDS)
        keys = list(self._artifacts.keys())
        with self._database.read() as session:
            garbage = checkpoints.garbage_keys(session, keys)
        for key in garbage:
            if time.time() - self._artifacts.written_at(key) >= GARBAGE_SECONDS:
                logger.info("files %s belong to no checkpoint and are deleted", key)
                self._artifacts.delete(key)


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    with in_plain_words():
        settings = load_settings()
        enter(settings)
        sweep_on(settings)


def sweep_on(settings: Settings) -> None:
    pulse = own_pulse()
    configure_logging(settings)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    database = open_database(settings.database_url, durable=False)
    sweeper = Sweeper(settings, database, open_artifacts(settings.artifacts_url), celery_app(settings))
    logger.info("sweeping every %g s", settings.sweep_seconds)
    while not stopped.is_set():
        sweeper.sweep()
        if pulse is not None:
            touch(pulse)
        stopped.wait(settings.sweep_seconds)
    database.dispose()


if __name__ == "__main__":
    main()
