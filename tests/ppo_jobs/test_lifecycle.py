"""Any order of events, against a model of a few lines: ledgers without gaps, ends that stay, one owner at most."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text

from ppo_jobs import tables
from ppo_jobs.database import Database
from ppo_jobs.errors import InvalidTransition, LeaseLost
from ppo_jobs.repository import claims, jobs
from ppo_jobs.repository.claims import Claim
from ppo_jobs.states import TERMINAL, AttemptOutcome, JobStatus, QueueName
from tests.ppo_jobs.builders import DONE, LOST, append, checkpoint, expire_lease, metrics, submit

# How each job of the model ends an attempt that it owns.
ENDS = {
    JobStatus.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    JobStatus.FAILED: AttemptOutcome.FAILED,
    JobStatus.CANCELLED: AttemptOutcome.CANCELLED,
}


@dataclass
class ModelJob:
    """What a job must be like; its age is its place in the model's list."""

    id: str
    priority: int
    max_attempts: int
    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    fruitless: int = 0
    is_fruitful: bool = False
    is_expired: bool = False
    cancel_requested: bool = False
    ledger: list[str] = field(default_factory=lambda: ["status"])

    def owns(self, claim: Claim) -> bool:
        return self.status == JobStatus.RUNNING and self.attempt == claim.attempt

    def move(self, to: JobStatus) -> None:
        self.status = to
        self.ledger.append("status")

    def give_back(self, *, counts: bool) -> None:
        is_fruitless = counts and not self.is_fruitful
        self.fruitless += is_fruitless
        if self.cancel_requested:
            self.move(JobStatus.CANCELLED)
        elif is_fruitless and self.fruitless >= self.max_attempts:
            self.move(JobStatus.FAILED)
        else:
            self.move(JobStatus.QUEUED)


class Lifecycle(RuleBasedStateMachine):
    def __init__(self, database: Database, tenant: str) -> None:
        super().__init__()
        self.database = database
        self.tenant = tenant
        self.jobs: list[ModelJob] = []
        self.claims: list[tuple[ModelJob, Claim]] = []
        self.ends: dict[str, Any] = {}

    @initialize()
    def begin_with_an_empty_database(self) -> None:
        with self.database.write() as session:
            session.execute(
                text(
                    "UPDATE jobs SET status = 'cancelled', finished_at = updated_at, worker_id = NULL, "
                    "lease_expires_at = NULL WHERE finished_at IS NULL"
                )
            )
            session.execute(text("DELETE FROM jobs"))

    @rule(priority=st.integers(-1, 1), max_attempts=st.integers(1, 2))
    def submit(self, priority: int, max_attempts: int) -> None:
        new = submit(self.database, self.tenant, priority=priority, max_attempts=max_attempts)
        self.jobs.append(ModelJob(new.id, priority, max_attempts))

    @rule()
    def claim(self) -> None:
        with self.database.write() as session:
            claimed = claims.claim(session, worker_id="w", queue=QueueName.CPU, lease_seconds=1000)
        waiting = [job for job in self.jobs if job.status == JobStatus.QUEUED]
        if not waiting:
            assert claimed is None
            return
        first = max(waiting, key=lambda job: job.priority)  # Of equal ones max takes the first, which is the oldest.
        assert claimed is not None
        assert (claimed.job_id, claimed.attempt) == (first.id, first.attempt + 1)
        first.attempt += 1
        first.is_fruitful = first.is_expired = False
        first.move(JobStatus.RUNNING)
        self.claims.append((first, claimed))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), count=st.integers(1, 3))
    def append(self, data: st.DataObject, count: int) -> None:
        job, owner = self._any_claim(data)
        entries = [metrics(len(job.ledger) + number) for number in range(count)]
        if self._is_fenced_off(job, owner, lambda: append(self.database, owner, *entries)):
            return
        job.ledger += ["metrics"] * count

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        job, owner = self._any_claim(data)
        if self._is_fenced_off(job, owner, lambda: checkpoint(self.database, owner, len(job.ledger))):
            return
        job.is_fruitful, job.fruitless = True, 0
        job.ledger.append("checkpoint")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        job, owner = self._any_claim(data)

        def renew() -> None:
            with self.database.write() as session:
                renewal = claims.renew(session, owner.key, lease_seconds=1000)
            assert renewal.cancel_requested == job.cancel_requested

        if not self._is_fenced_off(job, owner, renew):
            job.is_expired = False

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), status=st.sampled_from(sorted(ENDS)))
    def finish(self, data: st.DataObject, status: JobStatus) -> None:
        job, owner = self._any_claim(data)

        def finish() -> None:
            with self.database.write() as session:
                claims.finish(session, *owner.key, status=status, outcome=ENDS[status], reason=DONE)

        if not self._is_fenced_off(job, owner, finish):
            job.move(status)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), outcome=st.sampled_from([AttemptOutcome.LOST, AttemptOutcome.RELEASED]))
    def give_back(self, data: st.DataObject, outcome: AttemptOutcome) -> None:
        job, owner = self._any_claim(data)

        def requeue() -> None:
            with self.database.write() as session:
                claims.requeue(session, *owner.key, outcome=outcome, reason=LOST)

        if not self._is_fenced_off(job, owner, requeue):
            job.give_back(counts=outcome is AttemptOutcome.LOST)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        with self.database.write() as session:
            try:
                jobs.request_cancel(session, self.tenant, job.id)
            except InvalidTransition:
                assert job.status in {JobStatus.SUCCEEDED, JobStatus.FAILED}
                return
        assert job.status not in {JobStatus.SUCCEEDED, JobStatus.FAILED}
        job.cancel_requested = True
        if job.status == JobStatus.QUEUED:
            job.move(JobStatus.CANCELLED)

    @precondition(lambda self: any(job.status == JobStatus.RUNNING for job in self.jobs))
    @rule(data=st.data())
    def lose_the_lease(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if job.status == JobStatus.RUNNING]))
        expire_lease(self.database, job.id)
        job.is_expired = True

    @rule()
    def reap(self) -> None:
        with self.database.write() as session:
            reaped = claims.reap_expired(session)
        expired = [job for job in self.jobs if job.status == JobStatus.RUNNING and job.is_expired]
        assert sorted(reaped) == sorted((job.id, QueueName.CPU) for job in expired)
        for job in expired:
            job.give_back(counts=True)

    @invariant()
    def the_database_agrees_with_the_model(self) -> None:
        with self.database.read() as session:
            rows = {row.id: row for row in session.execute(select(tables.jobs))}
            ledger: dict[str, list[Any]] = {job.id: [] for job in self.jobs}
            for event in session.execute(select(tables.events).order_by(tables.events.c.seq)):
                ledger[event.job_id].append(event)
            opened = session.execute(
                select(tables.attempts.c.job_id, tables.attempts.c.number).where(
                    tables.attempts.c.finished_at.is_(None)
                )
            ).all()
        assert rows.keys() == {job.id for job in self.jobs}
        assert sorted(opened) == sorted((job.id, job.attempt) for job in self.jobs if job.status == JobStatus.RUNNING)
        for job in self.jobs:
            row, written = rows[job.id], ledger[job.id]
            assert (row.status, row.attempt, row.fruitless_attempts) == (job.status, job.attempt, job.fruitless)
            assert [event.seq for event in written] == list(range(1, row.last_seq + 1))
            assert [event.type for event in written] == job.ledger
            times = [row.created_at, *(event.created_at for event in written), row.updated_at]
            assert times == sorted(times)
            if job.status in TERMINAL:
                assert self.ends.setdefault(job.id, tuple(row)) == tuple(row)

    def _any_claim(self, data: st.DataObject) -> tuple[ModelJob, Claim]:
        """A claim that was ever made, stale or not."""
        return data.draw(st.sampled_from(self.claims))

    def _is_fenced_off(self, job: ModelJob, owner: Claim, write: Callable[[], object]) -> bool:
        """Writes; true if the model says that the attempt is stale, and it was indeed refused."""
        if job.owns(owner):
            write()
            return False
        with pytest.raises(LeaseLost):
            write()
        return True


def test_every_order_of_events_keeps_the_laws_of_a_job(database: Database, tenant: str) -> None:
    run_state_machine_as_test(
        lambda: Lifecycle(database, tenant),
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
