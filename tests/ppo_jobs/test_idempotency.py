"""A request that comes again is answered as the first time."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ppo_jobs.database import Database
from ppo_jobs.errors import IdempotencyMismatch
from ppo_jobs.repository import idempotency, jobs, tenants
from ppo_jobs.states import QueueName
from tests.ppo_jobs.builders import spec


def _post(database: Database, tenant: str, key: str, body: str = "same") -> idempotency.StoredAnswer:
    with database.write() as session:
        stored = idempotency.answered(session, tenant, key, request_hash=body)
        if stored is None:
            job = jobs.insert_job(session, tenant, spec={}, resolved=spec(), wants=QueueName.CPU)
            stored = idempotency.StoredAnswer(201, job.model_dump(mode="json"))
            idempotency.remember(session, tenant, key, request_hash=body, status=stored.status, body=stored.body)
        return stored


def _count(database: Database, tenant: str) -> int:
    with database.read() as session:
        return len(jobs.list_jobs(session, tenant, limit=99).data)


def test_fifty_parallel_equal_requests_make_one_job_and_get_equal_answers(database: Database, tenant: str) -> None:
    together = Barrier(50)

    def post(_: int) -> idempotency.StoredAnswer:
        together.wait()
        return _post(database, tenant, "key")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(post, range(50)))
    assert answers == [answers[0]] * 50
    assert answers[0].status == 201
    assert _count(database, tenant) == 1


def test_another_request_under_the_same_key_is_refused(database: Database, tenant: str) -> None:
    _post(database, tenant, "key")
    with pytest.raises(IdempotencyMismatch):
        _post(database, tenant, "key", "another")
    assert _count(database, tenant) == 1


def test_keys_of_different_tenants_do_not_meet(database: Database, tenant: str) -> None:
    with database.write() as session:
        other = tenants.create_tenant(session, "other")
    assert _post(database, tenant, "key") != _post(database, other, "key", "another")


def test_a_request_that_failed_gives_its_key_back(database: Database, tenant: str) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        1 // (idempotency.answered(session, tenant, "key", request_hash="a") is not None)
    assert _post(database, tenant, "key", "b").status == 201


def test_old_answers_are_forgotten(database: Database, tenant: str) -> None:
    first = _post(database, tenant, "key")
    with database.write() as session:
        assert idempotency.forget_answers(session, older_than_seconds=60) == 0
        assert idempotency.forget_answers(session, older_than_seconds=-1) == 1
    assert _post(database, tenant, "key") != first
