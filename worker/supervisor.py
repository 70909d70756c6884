"""Supervises one attempt: starts the child, keeps the lease, commits the journal, says how it ended."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from pydantic import ValidationError

from ppo_jobs import kernel
from ppo_jobs.artifacts import FULL, ArtifactStore
from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable, LeaseLost, StorageFull
from ppo_jobs.pulse import Stillness
from ppo_jobs.repository import claims, workers
from ppo_jobs.repository.checkpoints import StoredCheckpoint
from ppo_jobs.settings import Settings
from ppo_jobs.states import AttemptOutcome, JobStatus, ReasonCode
from worker.journal import JournalCorrupt
from worker.lease import Lease
from worker.ledger import Ledger, UsageMeter
from worker.log import LogReader
from worker.origin import Origin, Work, known_after, work_of
from worker.process import Child, child_variables, start_child
from worker.protocol import Command
from worker.resume import CheckpointUnreadable, fetch_newest
from worker.runs import RUNS, RunDirectory, run_directory
from worker.verdict import Intent, Verdict, judge, memory_kills, without_room
from worker.warm import ForkServer, NotForked

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
FIRST_TICK_SECONDS = 0.01
YOUNG_SECONDS = 3.0
"""For so long the first metrics of an attempt are looked for at the faster tick."""

RETRY_SECONDS = 0.5
"""Between two tries to reach a database that is away."""

GRACE_SECONDS = {Intent.CANCEL: 2.0, Intent.DRAIN: 20.0, Intent.BUDGET: 20.0}
"""For the child to reach the end of an iteration and save a checkpoint, before it is made to end."""

FULL_SECONDS = 5.0
"""Before a job that found a disk full is tried again."""

STILL_SECONDS = 45.0
"""Beyond the time that an environment may take for a step: by then a child has noticed by itself what it can notice."""

LINGER_SECONDS = 3.0
"""For a child that has said how training ended to close its environments."""

LOG_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one child, and what its supervisor needs."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    worker_id: str
    gpu: int | None
    """Number of its GPU among those that the worker may see."""
    is_draining: Callable[[], bool]
    fork_server: ForkServer | None = None
    """Where children come from, if not from nothing."""

    def end_orphans(self) -> None:
        """End what an attempt's environments have started and left behind; the attempt's child is gone."""
        if self.fork_server is None:
            kernel.end_orphans(())
        else:
            self.fork_server.end_orphans()


class Abandoned(Exception):
    """The worker must go, and the database does not answer: the lease will run out, and the job be done elsewhere."""


def supervise(claim: claims.Claim, slot: Slot) -> JobStatus | None:
    """Do the job until its attempt has ended one way or another.

    Returns: the job's status now; None if the attempt lost its lease and does not know.
    """
    with Lease(slot.database, claim, lease_seconds=slot.settings.lease_seconds) as lease:
        try:
            return _supervise(claim, slot, lease)
        except LeaseLost:
            logger.warning("job %s: attempt %d lost its lease", claim.job_id, claim.attempt)
        except Abandoned:
            logger.warning("job %s: attempt %d is left to its lease", claim.job_id, claim.attempt)
    return None


def _supervise(claim: claims.Claim, slot: Slot, lease: Lease) -> JobStatus:
    try:
        with run_directory(slot.settings.data_dir / RUNS, *claim.key) as run:
            status = settle(claim, slot, attempted(Attempt(claim, slot, run, lease)), lease)
            run.remove()
            return status
    except OSError as error:
        logger.error("job %s: no directory to run it in: %s", claim.job_id, error)
        return settle(claim, slot, lost(error), lease)


def attempted(attempt: "Attempt") -> Verdict:
    """The attempt's verdict; a fault of the supervisor's own must not hold the job until its lease runs out."""
    try:
        return attempt.verdict()
    except (LeaseLost, Abandoned):
        raise
    except Exception as error:
        logger.exception("the supervision of an attempt failed")
        return lost(error)


def lost(error: Exception) -> Verdict:
    if isinstance(error, OSError) and error.errno in FULL:
        return without_room(str(error))
    return Verdict(AttemptOutcome.LOST, ReasonCode.INTERNAL, f"{type(error).__name__}: {error}", retryable=True)


def settle(claim: claims.Claim, slot: Slot, verdict: Verdict, lease: Lease) -> JobStatus:
    """Write down how the attempt ended, as soon as the database answers.

    Raises:
        LeaseLost: it was no longer the attempt's to say.
    """
    reason = claims.Reason(verdict.code, verdict.message, verdict.retryable)
    if verdict.code == ReasonCode.STORAGE_FULL:
        back_off(slot, lease)
    while True:
        try:
            with slot.database.write() as session:
                if verdict.outcome in {AttemptOutcome.LOST, AttemptOutcome.RELEASED}:
                    return claims.requeue(session, *claim.key, outcome=verdict.outcome, reason=reason)
                status = JobStatus(verdict.outcome.value)
                claims.finish(session, *claim.key, status=status, outcome=verdict.outcome, reason=reason)
                return status
        except DatabaseUnavailable as error:
            wait_for_database(error, claim, slot, lease)


def back_off(slot: Slot, lease: Lease) -> None:
    """Keep the job for a while, so that it is not tried again at once, by this slot or another."""
    until = time.monotonic() + FULL_SECONDS
    while time.monotonic() < until and not (slot.is_draining() or lease.is_lost or lease.cancel_requested):
        time.sleep(TICK_SECONDS)


def wait_for_database(error: DatabaseUnavailable, claim: claims.Claim, slot: Slot, lease: Lease) -> None:
    """Wait a little before the next try.

    Raises:
        LeaseLost: there is no use in it.
        Abandoned: there is no time for it.
    """
    logger.warning("job %s: %s", claim.job_id, error)
    if lease.is_lost:
        raise LeaseLost(*claim.key)
    if slot.is_draining():
        raise Abandoned
    time.sleep(RETRY_SECONDS)


class Attempt:
    """One attempt, from the assignment to the child's last record."""

    def __init__(self, claim: claims.Claim, slot: Slot, run: RunDirectory, lease: Lease) -> None:
        self._claim = claim
        self._slot = slot
        self._run = run
        self._lease = lease
        self._started_at = time.monotonic()
        self._intent: Intent | None = None
        self._grace_ends_at = 0.0
        self._lingers_since: float | None = None
        self._stillness = Stillness(run.pulse)
        self._stood_still = 0.0

    def verdict(self) -> Verdict:
        """How the attempt ended; everything the child journaled is in the ledger by then.

        Raises:
            LeaseLost: the attempt no longer owns the job; its child is gone.
        """
        try:
            spec = work_of(self._claim)
            checkpoint = fetch_newest(self._claim, self._slot.artifacts, self._run.resume)
        except ValidationError as error:
            return Verdict(AttemptOutcome.FAILED, ReasonCode.INTERNAL, f"this worker cannot read the spec: {error}")
        except CheckpointUnreadable as error:
            return Verdict(AttemptOutcome.FAILED, ReasonCode.CHECKPOINT_UNREADABLE, str(error))
        except StorageFull as error:
            return without_room(str(error))
        origin = self._origin(spec, checkpoint)
        memory_kills_before = memory_kills()
        with ExitStack() as stack:
            stack.callback(self._slot.end_orphans)
            child = self._start_child()
            stack.callback(child.end)
            ledger = self._ledger(child, origin)
            child.assign(origin.assignment(self._run))
            try:
                self._watch(child, ledger, spec)
                exit_ = child.end()
                self._commit_rest(ledger)
            except StorageFull as error:
                return without_room(str(error))
            except JournalCorrupt as error:
                return Verdict(AttemptOutcome.LOST, ReasonCode.INTERNAL, f"the journal is damaged: {error}", True)
        if self._stood_still and ledger.end is None:
            words = f"the training process got nowhere for {self._stood_still:.0f} s and was killed"
            return Verdict(AttemptOutcome.LOST, ReasonCode.CHILD_HUNG, words, retryable=True)
        return judge(
            ledger.end,
            exit_,
            spec=spec,
            intent=self._intent,
            killed_for_memory=memory_kills() > memory_kills_before,
            log_tail=LogReader(self._run.log).tail(LOG_TAIL_BYTES),
        )

    def _start_child(self) -> Child:
        """A child that waits for its assignment: forked from a warm process, or started anew where that cannot be."""
        run, slot = self._run, self._slot
        if slot.fork_server is not None:
            try:
                return slot.fork_server.fork(run.log, run.scratch)
            except NotForked as error:
                logger.warning("job %s: its child starts cold: %s", self._claim.job_id, error)
        return start_child(
            run.log, variables=child_variables(os.environ, threads=1, gpu=slot.gpu), directory=run.scratch
        )

    def _origin(self, spec: Work, checkpoint: StoredCheckpoint | None) -> Origin:
        """What the attempt starts from, with what the database knows of that."""
        while True:
            try:
                with self._slot.database.read() as session:
                    known = claims.training_events_after(session, self._claim.job_id, known_after(spec, checkpoint))
                    described = workers.environment(session, spec.env.id)
                return Origin(spec, checkpoint, known, described.plugin if described is not None else None)
            except DatabaseUnavailable as error:
                wait_for_database(error, self._claim, self._slot, self._lease)

    def _ledger(self, child: Child, origin: Origin) -> Ledger:
        slot, claim, has_gpu = self._slot, self._claim, self._slot.gpu is not None
        usage = UsageMeter(child.processor_seconds, timesteps=origin.timesteps, has_gpu=has_gpu)
        return Ledger(
            slot.database,
            slot.artifacts,
            claim,
            self._run,
            origin.comparison(),
            resumed_from=origin.resumed_from,
            usage=usage,
        )

    def _watch(self, child: Child, ledger: Ledger, spec: Work) -> None:
        """Follow the child until it has ended."""
        while child.runs_on(self._pause(ledger)):
            if self._lease.is_lost:
                raise LeaseLost(*self._claim.key)
            if ledger.end is not None and self._has_lingered():
                return
            if (still := self._stillness.look()) >= spec.env.step_timeout_seconds + STILL_SECONDS:
                self._stood_still = still
                return
            self._enforce(child, spec)
            try:
                ledger.commit()
            except DatabaseUnavailable as error:
                logger.warning("job %s: the journal waits for the database: %s", self._claim.job_id, error)

    def _pause(self, ledger: Ledger) -> float:
        """How long to wait for more to commit: batches are cheap, but the first news of a job are wanted at once."""
        if ledger.is_behind:
            return 0.0
        is_young = not ledger.has_progress and time.monotonic() - self._started_at < YOUNG_SECONDS
        return FIRST_TICK_SECONDS if is_young else TICK_SECONDS

    def _has_lingered(self) -> bool:
        """Whether the child had time enough to close its environments since it said that it was done."""
        self._lingers_since = self._lingers_since or time.monotonic()
        return time.monotonic() - self._lingers_since >= LINGER_SECONDS

    def _commit_rest(self, ledger: Ledger) -> None:
        while True:
            if self._lease.is_lost:
                raise LeaseLost(*self._claim.key)
            try:
                if not ledger.commit():
                    return
            except DatabaseUnavailable as error:
                wait_for_database(error, self._claim, self._slot, self._lease)

    def _enforce(self, child: Child, spec: Work) -> None:
        """Tell the child to end where that is wanted, and make it end when it does not."""
        intent = self._wanted(spec)
        if intent is not None and intent is not self._intent and self._intent is not Intent.CANCEL:
            self._intent = intent
            self._grace_ends_at = time.monotonic() + GRACE_SECONDS[intent]
            logger.info("job %s: asked to end (%s)", self._claim.job_id, intent)
            child.command(Command(command="drain" if intent is Intent.DRAIN else "cancel"))
        if self._intent is not None and time.monotonic() >= self._grace_ends_at:
            child.terminate()

    def _wanted(self, spec: Work) -> Intent | None:
        if self._lease.cancel_requested:
            return Intent.CANCEL
        if self._slot.is_draining():
            return Intent.DRAIN
        limit = spec.budget.max_wall_seconds
        spent = self._claim.train_seconds_before + time.monotonic() - self._started_at
        return Intent.BUDGET if limit is not None and spent >= limit else None
