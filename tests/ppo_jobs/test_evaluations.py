"""Laws of the records of evaluations."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ppo_engine.spec import EnvSpec, EvaluationPlan
from ppo_jobs.database import Database
from ppo_jobs.errors import CheckpointInUse, CheckpointNotFound, EvaluationNotFound, JobNotFound
from ppo_jobs.repository import checkpoints, evaluations, jobs
from ppo_jobs.repository.tenants import create_tenant
from ppo_jobs.schemas import Evaluation
from ppo_jobs.states import QueueName
from tests.ppo_jobs import builders

WAITS_SECONDS = 0.5
PLAN = EvaluationPlan(env=EnvSpec(id="CartPole-v1"), n_episodes=3, seed=1)


@pytest.fixture
def checkpoint_id(database: Database, tenant: str) -> str:
    """Of a running job, which neither would go on from it nor keeps it: a newer one is there."""
    owner = builders.running(database, tenant, checkpoints=builders.keep(last=1, best=0))
    first = builders.checkpoint(database, owner, 1)
    builders.checkpoint(database, owner, 2)
    return first


def evaluate(session, tenant: str, checkpoint_id: str) -> Evaluation:
    return evaluations.insert_evaluation(session, tenant, checkpoint_id, spec={}, plan=PLAN, wants=QueueName.CPU)


def test_a_checkpoint_cannot_go_while_its_evaluation_is_being_written(
    database: Database, tenant: str, checkpoint_id: str
) -> None:
    def delete() -> str:
        with database.write() as session:
            return checkpoints.delete_checkpoint(session, tenant, checkpoint_id)

    def retain(job_id: str) -> list[str]:
        with database.write() as session:
            return [id for id, _ in checkpoints.expired_by_retention(session, job_id)]

    with database.read() as session:
        job_id = checkpoints.get_checkpoint(session, tenant, checkpoint_id).job_id
    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            evaluate(session, tenant, checkpoint_id)
            deletion, retention = pool.submit(delete), pool.submit(retain, job_id)
            time.sleep(WAITS_SECONDS)
            assert not deletion.done() and not retention.done()
        with pytest.raises(CheckpointInUse):
            deletion.result()
        assert checkpoint_id not in retention.result()


def test_a_checkpoint_that_is_being_deleted_cannot_be_evaluated(
    database: Database, tenant: str, checkpoint_id: str
) -> None:
    def insert() -> Evaluation:
        with database.write() as session:
            return evaluate(session, tenant, checkpoint_id)

    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            checkpoints.delete_checkpoint(session, tenant, checkpoint_id)
            insertion = pool.submit(insert)
            time.sleep(WAITS_SECONDS)
            assert not insertion.done()
        with pytest.raises(CheckpointNotFound):
            insertion.result()


def test_evaluations_and_jobs_are_not_found_as_each_other(database: Database, tenant: str, checkpoint_id: str) -> None:
    with database.write() as session:
        id = evaluate(session, tenant, checkpoint_id).id
        job_id = checkpoints.get_checkpoint(session, tenant, checkpoint_id).job_id
        with pytest.raises(JobNotFound):
            jobs.get_job(session, tenant, id)
        with pytest.raises(JobNotFound):
            evaluations.checkpoint_of_job(session, tenant, id, which="latest")
        with pytest.raises(EvaluationNotFound):
            evaluations.get_evaluation(session, tenant, job_id)
        assert [job.id for job in jobs.list_jobs(session, tenant, limit=9).data] == [job_id]
        assert [found.id for found in evaluations.list_evaluations(session, tenant, limit=9).data] == [id]


def test_another_tenants_evaluation_is_not_there(database: Database, tenant: str, checkpoint_id: str) -> None:
    with database.write() as session:
        id = evaluate(session, tenant, checkpoint_id).id
        other = create_tenant(session, "other")
        for look in (evaluations.get_evaluation, evaluations.request_cancel):
            with pytest.raises(EvaluationNotFound):
                look(session, other, id)
        with pytest.raises(CheckpointNotFound):
            evaluate(session, other, checkpoint_id)
        assert evaluations.list_evaluations(session, other, limit=9).data == []
        assert evaluations.newest_succeeded(session, other, [checkpoint_id]) == []
