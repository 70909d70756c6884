"""Laws of evaluations that take long, within training and by themselves: nobody has to wait for their end."""

from collections.abc import Callable
from typing import Any

import pytest

from ppo_engine.spec import EnvSpec
from ppo_jobs.repository import jobs, logs
from ppo_jobs.schemas import Job
from ppo_jobs.states import EventType, JobStatus, ReasonCode
from tests.worker.test_evaluation import ask, found, plan, trained
from tests.worker.workplace import Workplace, eventually, spec_of
from worker.supervisor import supervise

ENDLESS = "CliffWalking-v1"
"""It has no time limit, and a policy of a few steps walks into a wall for ever."""

pytestmark = pytest.mark.processes


def evaluated(env_id: str, n_episodes: int, **more: Any) -> dict[str, Any]:
    """Three iterations, and an evaluation after the second."""
    evaluation = {"every_timesteps": 128, "n_episodes": n_episodes}
    return spec_of(env_id, iterations=3, evaluation=evaluation, **more)


def is_evaluating(place: Workplace, job_id: str) -> Callable[[], bool]:
    """What the child says in its log when an evaluation takes longer than a second."""

    def look() -> bool:
        with place.database.read() as session:
            return "evaluating at 128 timesteps: " in logs.read_log(session, place.tenant, job_id).text

    return look


def checkpoints_of(place: Workplace, job_id: str) -> list[int]:
    """The iteration of each, in the order of the ledger."""
    return [event.data["iteration"] for event in place.events(job_id) if event.type is EventType.CHECKPOINT]


def interrupted(place: Workplace, spec: dict[str, Any], how: Callable[[str], None]) -> Job:
    """The job after an attempt to which something happened while it evaluated."""
    job_id = place.accept(spec)
    with place.running(place.claim()):
        eventually(is_evaluating(place, job_id))
        how(job_id)
    return place.job(job_id)


def test_a_draining_worker_gives_a_job_back_while_it_evaluates_and_nothing_is_lost(place: Workplace) -> None:
    spec = evaluated("test/Slow-v0", 16, kwargs={"seconds_per_step": 0.01})
    undisturbed = place.run(spec)
    job = interrupted(place, spec, lambda _: place.draining.set())
    place.draining.clear()
    assert (job.status, checkpoints_of(place, job.id)) == (JobStatus.QUEUED, [2])
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    told = [event for event in place.events(job.id) if event.type is EventType.EVALUATION]
    expected = [event for event in place.events(undisturbed.id) if event.type is EventType.EVALUATION]
    assert [event.data for event in told] == [event.data for event in expected] and len(told) == 1
    assert place.iterations(job.id) == [1, 2, 3]
    assert not [event for event in place.events(job.id) if event.type is EventType.REWIND]
    assert place.policy_sha256(job.id) == place.policy_sha256(undisturbed.id)


def test_a_job_that_evaluates_for_ever_is_saved_when_that_is_due_and_cancelled_at_once(place: Workplace) -> None:
    """One checkpoint is enough: an evaluation changes nothing that is saved."""

    def cancel(job_id: str) -> None:
        eventually(lambda: checkpoints_of(place, job_id) == [2])
        with place.database.write() as session:
            jobs.request_cancel(session, place.tenant, job_id)

    checkpoints = {"every_seconds": None, "every_timesteps": 128, "keep_best": 0}
    job = interrupted(place, evaluated(ENDLESS, 10_000, checkpoints=checkpoints), cancel)
    assert (job.status, checkpoints_of(place, job.id)) == (JobStatus.CANCELLED, [2])


def test_an_evaluation_has_a_budget_and_says_that_it_was_spent(place: Workplace) -> None:
    endless = EnvSpec(id="test/Slow-v0", n_envs=2, kwargs={"seconds_per_step": 0.01})
    id = ask(place, trained(place), plan(10_000, endless, block_episodes=10_000, budget={"max_wall_seconds": 4.0}))
    assert supervise(place.claim(), place.slot()) is JobStatus.FAILED
    evaluation = found(place, id)
    assert evaluation.status_reason is not None
    assert evaluation.status_reason.code == ReasonCode.BUDGET_EXHAUSTED
    assert evaluation.status_reason.message == "played for budget.max_wall_seconds = 4"
    assert evaluation.progress.episodes == 0


def test_a_draining_worker_does_not_wait_for_a_block_of_episodes(place: Workplace) -> None:
    slow = EnvSpec(id="test/Slow-v0", n_envs=2, kwargs={"seconds_per_step": 0.01})
    id = ask(place, trained(place), plan(10_000, slow, block_episodes=10_000))
    with place.running(place.claim()):
        eventually(lambda: found(place, id).progress.timesteps > 0)
        place.draining.set()
    place.draining.clear()
    evaluation = found(place, id)
    assert evaluation.status is JobStatus.QUEUED and evaluation.status_reason is not None
    assert evaluation.status_reason.code == ReasonCode.WORKER_DRAINING
    assert evaluation.usage.env_steps == 0
