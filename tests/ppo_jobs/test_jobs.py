"""Jobs as their tenant sees them."""

import pytest

from ppo_jobs.database import Database
from ppo_jobs.errors import InvalidTransition, JobNotFound, JobNotTerminal
from ppo_jobs.repository import claims, events, jobs, logs, tenants
from ppo_jobs.states import AttemptOutcome, JobStatus, QueueName
from tests.ppo_jobs.builders import DONE, append, checkpoint, job, metrics, running, submit


def _finish(database: Database, owner: claims.Claim, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    with database.write() as session:
        outcome = AttemptOutcome(status)
        claims.finish(session, *owner.key, status=status, outcome=outcome, reason=DONE)


def test_a_new_job_is_queued_with_the_first_event_of_its_ledger(database: Database, tenant: str) -> None:
    new = submit(database, tenant, name="first", metadata={"team": "a"}, group="seeds", max_attempts=7)
    assert (new.status, new.attempt, new.last_seq, new.wants) == (JobStatus.QUEUED, 0, 1, QueueName.CPU)
    assert (new.name, new.metadata, new.group, new.max_attempts) == ("first", {"team": "a"}, "seeds", 7)
    assert new.spec == {"env": {"id": "CartPole-v1"}}
    assert new.resolved_spec["ppo"] != {}
    assert (new.progress.total_timesteps, new.progress.fraction, new.queue.position) == (1000, 0.0, 1)
    with database.read() as session:
        [event] = events.list_events(session, tenant, new.id, after=0, limit=9)
    assert (event.seq, event.type, event.data["status"], event.created_at) == (1, "status", "queued", new.created_at)


def test_another_tenant_finds_nothing(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        stranger = tenants.create_tenant(session, "stranger")
        assert jobs.list_jobs(session, stranger, limit=9).data == []
        for ask in (
            lambda: jobs.get_job(session, stranger, owner.job_id),
            lambda: jobs.patch_job(session, stranger, owner.job_id, changes={"name": "mine"}),
            lambda: jobs.request_cancel(session, stranger, owner.job_id),
            lambda: jobs.delete_job(session, stranger, owner.job_id),
            lambda: jobs.list_attempts(session, stranger, owner.job_id),
            lambda: events.list_events(session, stranger, owner.job_id, after=0, limit=9),
            lambda: events.metrics_table(session, stranger, owner.job_id),
            lambda: logs.read_log(session, stranger, owner.job_id),
        ):
            with pytest.raises(JobNotFound):
                ask()


def test_an_id_that_no_database_could_hold_is_not_found(database: Database, tenant: str) -> None:
    with database.read() as session:
        for job_id in ("job_\0", "job_\ud800", "", "job_" + "x" * 10_000):
            with pytest.raises(JobNotFound):
                jobs.get_job(session, tenant, job_id)


def test_pages_go_from_the_newest_job_to_the_oldest_without_gap_or_repetition(database: Database, tenant: str) -> None:
    made = [submit(database, tenant).id for _ in range(5)]
    seen: list[str] = []
    after = None
    with database.read() as session:
        while True:
            page = jobs.list_jobs(session, tenant, limit=2, after=after)
            seen += [each.id for each in page.data]
            assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
            if not page.has_more:
                break
            after = page.last_id
    assert seen == made[::-1]


def test_filters_narrow_the_list(database: Database, tenant: str) -> None:
    submit(database, tenant, name="a", group="g1")
    submit(database, tenant, name="b", group="g1", env_id="Pendulum-v1")
    submit(database, tenant, name="a", group="g2")

    def names(**filters: str) -> list[str | None]:
        with database.read() as session:
            return [each.name for each in jobs.list_jobs(session, tenant, limit=9, **filters).data]  # type: ignore[arg-type]  # Filters by name.

    assert names(group="g1") == ["b", "a"]
    assert names(env_id="Pendulum-v1") == ["b"]
    assert names(name="a") == ["a", "a"]
    assert names(status=JobStatus.RUNNING) == []
    assert names(status=JobStatus.QUEUED, group="g2") == ["a"]
    assert names(name="nul\0") == []


def test_a_patch_changes_what_it_names_and_null_clears(database: Database, tenant: str) -> None:
    old = submit(database, tenant, name="old", metadata={"k": "v"})
    with database.write() as session:
        renamed = jobs.patch_job(session, tenant, old.id, changes={"name": "new"})
        assert (renamed.name, renamed.metadata) == ("new", {"k": "v"})
        cleared = jobs.patch_job(session, tenant, old.id, changes={"name": None, "metadata": None})
        assert (cleared.name, cleared.metadata) == (None, {})
        with pytest.raises(ValueError, match="status cannot be changed"):
            jobs.patch_job(session, tenant, old.id, changes={"status": "running"})


def test_a_job_that_has_ended_can_still_be_renamed(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    _finish(database, owner)
    with database.write() as session:
        assert jobs.patch_job(session, tenant, owner.job_id, changes={"name": "kept"}).name == "kept"


def test_cancelling_a_queued_job_ends_it_at_once(database: Database, tenant: str) -> None:
    queued = submit(database, tenant)
    with database.write() as session:
        cancelled = jobs.request_cancel(session, tenant, queued.id)
    assert cancelled.status == JobStatus.CANCELLED
    assert cancelled.status_reason is not None
    assert cancelled.status_reason.code == "user_request"
    assert cancelled.finished_at is not None
    with database.write() as session:
        assert claims.claim(session, worker_id="w", queue=QueueName.CPU, lease_seconds=9) is None


def test_cancelling_a_running_job_is_a_request(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        asked = jobs.request_cancel(session, tenant, owner.job_id)
        again = jobs.request_cancel(session, tenant, owner.job_id)
    assert (asked.status, asked.cancel_requested) == (JobStatus.RUNNING, True)
    assert again == asked


def test_cancelling_twice_changes_nothing_and_other_ends_stay(database: Database, tenant: str) -> None:
    queued = submit(database, tenant)
    with database.write() as session:
        first = jobs.request_cancel(session, tenant, queued.id)
        assert jobs.request_cancel(session, tenant, queued.id) == first
    owner = running(database, tenant)
    _finish(database, owner)
    with pytest.raises(InvalidTransition) as refused, database.write() as session:
        jobs.request_cancel(session, tenant, owner.job_id)
    assert (refused.value.current, refused.value.wanted) == (JobStatus.SUCCEEDED, JobStatus.CANCELLED)


def test_a_job_that_succeeds_although_it_was_to_be_cancelled_has_succeeded(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    with database.write() as session:
        jobs.request_cancel(session, tenant, owner.job_id)
    _finish(database, owner)
    assert job(database, tenant, owner.job_id).status == JobStatus.SUCCEEDED


def test_only_a_job_that_has_ended_is_deleted_and_everything_of_it_goes(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, metrics(1))
    checkpoint(database, owner, 1)
    with database.write() as session:
        logs.append_log(session, *owner.key, "hello")
    with pytest.raises(JobNotTerminal), database.write() as session:
        jobs.delete_job(session, tenant, owner.job_id)
    _finish(database, owner)
    with database.write() as session:
        jobs.delete_job(session, tenant, owner.job_id)
    with pytest.raises(JobNotFound):
        job(database, tenant, owner.job_id)


def test_the_tailer_learns_the_newest_event_of_many_jobs_at_once(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    waiting = submit(database, tenant)
    with database.read() as session:
        seqs = jobs.latest_seqs(session, [owner.job_id, waiting.id, "job_unknown"])
    assert seqs == {owner.job_id: (2, JobStatus.RUNNING), waiting.id: (1, JobStatus.QUEUED)}


def test_times_never_go_back_even_if_the_clock_does(database: Database, tenant: str) -> None:
    from sqlalchemy import text

    owner = running(database, tenant)
    with database.write() as session:
        session.execute(
            text("UPDATE jobs SET updated_at = updated_at + 1000")
        )  # The clock was ahead, and was set back.
    append(database, owner, metrics(1))
    _finish(database, owner)
    with database.read() as session:
        times = [event.created_at for event in events.list_events(session, tenant, owner.job_id, after=0, limit=9)]
    ended = job(database, tenant, owner.job_id)
    assert times == sorted(times)
    assert ended.finished_at == ended.updated_at == times[-1]
