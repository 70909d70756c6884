"""Workers, the catalogue, and what a waiting job is told."""

from typing import Any

import pytest
from sqlalchemy import event, update

from ppo_engine.spec import EnvironmentDescription
from ppo_jobs import tables
from ppo_jobs.database import Database
from ppo_jobs.repository import workers
from ppo_jobs.states import QueueName
from tests.ppo_jobs.builders import claim, job, submit


def _register(database: Database, id: str = "w1", **fields: Any) -> None:
    known = {"host": "h", "queue": QueueName.CPU, "slots": 1, "devices": [], "versions": {}, "environments": []}
    with database.write() as session:
        workers.register_worker(session, id=id, **known | fields)


def _beat(database: Database, id: str, **fields: Any) -> bool:
    with database.write() as session:
        return workers.beat(session, id, **fields)


def _die(database: Database, id: str) -> None:
    with database.write() as session:
        session.execute(update(tables.workers).where(tables.workers.c.id == id).values(heartbeat_at=1.0))


def _environment(id: str, size: int = 4) -> EnvironmentDescription:
    return EnvironmentDescription(
        id=id, origin="test", supported=True, observation_space={}, action_space={}, observation_size=size,
        action_size=2, kwargs_schema={},
    )  # fmt: skip


def _reason(database: Database, tenant: str, job_id: str) -> tuple[int | None, str | None]:
    place = job(database, tenant, job_id).queue
    return place.position, place.reason


def test_a_worker_shows_what_it_offers_and_what_is_free(database: Database, tenant: str) -> None:
    _register(database, slots=3, devices=[{"name": "cpu"}], versions={"torch": "2.13"})
    submit(database, tenant)
    claim(database, worker_id="w1")
    with database.read() as session:
        [worker] = workers.list_workers(session)
    assert (worker.id, worker.slots, worker.free_slots, worker.alive, worker.draining) == ("w1", 3, 2, True, False)
    assert (worker.devices, worker.versions) == ([{"name": "cpu"}], {"torch": "2.13"})


def test_a_worker_lives_as_long_as_it_beats(database: Database) -> None:
    _register(database)
    _die(database, "w1")
    with database.read() as session:
        [worker] = workers.list_workers(session)
    assert (worker.alive, worker.free_slots) == (False, 0)
    assert _beat(database, "w1")
    with database.read() as session:
        assert workers.list_workers(session)[0].alive


def test_a_worker_that_nobody_knows_must_register_again(database: Database) -> None:
    assert not _beat(database, "unknown")
    _register(database)
    with database.write() as session:
        workers.remove_worker(session, "w1")
    assert not _beat(database, "w1")


def test_the_dead_are_forgotten_after_a_while(database: Database) -> None:
    _register(database, "dead")
    _register(database, "alive")
    _die(database, "dead")
    with database.write() as session:
        assert workers.forget_dead_workers(session, older_than_seconds=60) == 1
        assert [worker.id for worker in workers.list_workers(session)] == ["alive"]


def test_the_catalogue_holds_what_past_and_present_workers_described_last(database: Database) -> None:
    _register(database, "w1", environments=[_environment("B-v1"), _environment("A-v1", 4)])
    _register(database, "w2", environments=[_environment("A-v1", 6)])
    with database.write() as session:
        workers.remove_worker(session, "w1")
        catalogue = workers.environments(session)
    assert [(each.id, each.observation_size) for each in catalogue] == [("A-v1", 6), ("B-v1", 4)]


def test_a_job_waits_because_nobody_works(database: Database, tenant: str) -> None:
    waiting = submit(database, tenant)
    assert _reason(database, tenant, waiting.id) == (1, "no live worker")
    _register(database)
    _die(database, "w1")
    assert _reason(database, tenant, waiting.id) == (1, "no live worker")


def test_a_job_that_wants_a_gpu_where_there_is_none_says_so(database: Database, tenant: str) -> None:
    _register(database)
    waiting = submit(database, tenant, queue=QueueName.CUDA)
    assert _reason(database, tenant, waiting.id) == (1, "no worker offers cuda")


def test_a_job_waits_because_every_slot_is_busy(database: Database, tenant: str) -> None:
    _register(database, "w1", slots=2)
    first, second, third, fourth = (submit(database, tenant).id for _ in range(4))
    assert _reason(database, tenant, second) == (2, "starting")
    assert _reason(database, tenant, third) == (3, "2 jobs ahead")
    claim(database, worker_id="w1")
    assert _reason(database, tenant, first) == (None, None)
    assert _reason(database, tenant, third) == (2, "1 job ahead")
    claim(database, worker_id="w1")
    assert _reason(database, tenant, third) == (1, "all 2 slots of queue cpu are busy; 0 jobs ahead")
    assert _reason(database, tenant, fourth) == (2, "all 2 slots of queue cpu are busy; 1 job ahead")


def test_slots_of_draining_workers_do_not_count(database: Database, tenant: str) -> None:
    _register(database, "w1")
    _beat(database, "w1", draining=True)
    waiting = submit(database, tenant)
    assert _reason(database, tenant, waiting.id) == (1, "every worker of queue cpu is shutting down")
    _register(database, "w2")
    assert _reason(database, tenant, waiting.id) == (1, "starting")
    claim(database, worker_id="w2")
    waiting = submit(database, tenant)
    assert _reason(database, tenant, waiting.id) == (1, "the only slot of queue cpu is busy; 0 jobs ahead")


@pytest.mark.parametrize(("ahead", "position"), [(0, 3), (5, 1)])
def test_priority_moves_a_job_ahead_in_its_queue_only(
    database: Database, tenant: str, ahead: int, position: int
) -> None:
    for queue in (QueueName.CPU, QueueName.CUDA, QueueName.CPU):
        submit(database, tenant, queue=queue)
    waiting = submit(database, tenant, priority=ahead)
    assert _reason(database, tenant, waiting.id)[0] == position


def test_places_and_claims_are_found_in_the_index_of_what_is_queued(database: Database, tenant: str) -> None:
    """Otherwise each submission would look at every job that there ever was."""
    if database.engine.dialect.name != "sqlite":
        pytest.skip("of some rows, PostgreSQL reads the table")
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    waiting = submit(database, tenant)
    event.listen(database.engine, "before_cursor_execute", note)
    assert _reason(database, tenant, waiting.id)[0] == 1
    claim(database, worker_id="w1")
    event.remove(database.engine, "before_cursor_execute", note)
    ordered = [
        (statement, parameters) for statement, parameters in sent if "priority" in statement.partition("WHERE")[2]
    ]
    assert len(ordered) == 2
    with database.read() as session:
        for statement, parameters in ordered:
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            told = [row.detail for row in plan]
            assert any("ix_jobs_queue_order" in detail for detail in told), told
            assert not [detail for detail in told if detail.startswith("SCAN jobs")], told
