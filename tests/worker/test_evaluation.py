"""Laws of evaluations on a worker: the same result whatever is killed, and no block of episodes played twice."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppo_engine.aggregates import interquartile_mean, mean_bootstrap
from ppo_engine.bundle import load_policy
from ppo_engine.evaluate import evaluate_blocks, joined
from ppo_engine.spec import EnvSpec, EvaluationPlan
from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.errors import CheckpointInUse, LeaseLost
from ppo_jobs.repository import checkpoints, claims, evaluations, jobs
from ppo_jobs.schemas import Evaluation
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus, QueueName, ReasonCode
from tests.worker.workplace import Workplace, children_of, eventually, spec_of
from worker.supervisor import supervise

WALK = EnvSpec(id="test/Walk-v0", n_envs=2)
SLOW = EnvSpec(id="test/Slow-v0", n_envs=2, kwargs={"seconds_per_step": 0.003})


def trained(place: Workplace, **more: Any) -> str:
    """The final checkpoint of a short training."""
    final = place.run(spec_of(iterations=2, **more)).final_checkpoint_id
    assert final is not None
    return final


def plan(n_episodes: int = 10, env: EnvSpec = WALK, **more: Any) -> EvaluationPlan:
    return EvaluationPlan(env=env, n_episodes=n_episodes, **{"seed": 3, "block_episodes": 4, **more})


def ask(place: Workplace, checkpoint_id: str, wanted: EvaluationPlan) -> str:
    with place.database.write() as session:
        return evaluations.insert_evaluation(
            session, place.tenant, checkpoint_id, spec={}, plan=wanted, wants=QueueName.CPU
        ).id


def found(place: Workplace, id: str) -> Evaluation:
    with place.database.read() as session:
        return evaluations.get_evaluation(session, place.tenant, id)


def played(place: Workplace, id: str, blocks: int) -> Callable[[], bool]:
    return lambda: len([event for event in place.events(id) if event.type is EventType.EVALUATION]) >= blocks


def fetched(place: Workplace, checkpoint_id: str, directory: Path) -> Path:
    with place.database.read() as session:
        _, key = checkpoints.checkpoint_location(session, place.tenant, checkpoint_id)
    open_artifacts(place.settings.artifacts_url).fetch(key, directory)
    return directory


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_result_is_that_of_the_same_plan_played_by_hand(
    place: Workplace, tmp_path: Path, deterministic: bool
) -> None:
    checkpoint_id = trained(place)
    wanted = plan(deterministic=deterministic)
    id = ask(place, checkpoint_id, wanted)
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    evaluation = found(place, id)
    by_hand = joined(evaluate_blocks(load_policy(fetched(place, checkpoint_id, tmp_path / "bundle")), wanted))
    result = evaluation.result
    assert result is not None
    assert (result.returns, result.lengths) == (list(by_hand.returns), list(by_hand.lengths))
    assert len(by_hand.returns) == result.n_episodes == 10
    assert result.mean_reward == np.mean(by_hand.returns)
    assert result.ci95 == mean_bootstrap(by_hand.returns)
    assert result.iqm_reward == interquartile_mean(by_hand.returns)
    assert evaluation.status_reason is not None and evaluation.status_reason.code == ReasonCode.EPISODES_PLAYED
    assert (evaluation.progress.episodes, evaluation.progress.fraction) == (10, 1.0)
    assert evaluation.usage.env_steps == evaluation.progress.timesteps == sum(by_hand.lengths)
    assert evaluation.runtime is not None and evaluation.runtime["backend"] == "bundle"


def test_one_seed_gives_one_result_and_another_seed_another(place: Workplace) -> None:
    checkpoint_id = trained(place)
    ids = [ask(place, checkpoint_id, plan(seed=seed, deterministic=False)) for seed in (5, 5, 6)]
    for _ in ids:
        assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    first, again, other = (found(place, id).result for id in ids)
    assert first == again != other


def test_an_evaluation_whose_child_is_killed_goes_on_behind_its_last_block_to_the_same_result(place: Workplace) -> None:
    checkpoint_id = trained(place)
    undisturbed = ask(place, checkpoint_id, plan(16, deterministic=False))
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    killed = ask(place, checkpoint_id, plan(16, SLOW, deterministic=False))
    with place.running(place.claim()):
        eventually(played(place, killed, 2))
        children_of()[0].send_signal(signal.SIGKILL)
    halfway = found(place, killed)
    assert (halfway.status, halfway.result) == (JobStatus.QUEUED, None)
    assert halfway.status_reason is not None and halfway.status_reason.code == ReasonCode.CHILD_DIED
    before = [event for event in place.events(killed) if event.type is EventType.EVALUATION]
    assert 2 <= len(before) < 4
    assert halfway.progress.episodes == 4 * len(before)
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    evaluation = found(place, killed)
    assert evaluation.result == found(place, undisturbed).result
    told = [event for event in place.events(killed) if event.type is EventType.EVALUATION]
    assert [event.data["iteration"] for event in told] == [1, 2, 3, 4]
    assert [event.attempt for event in told] == [1] * len(before) + [2] * (4 - len(before))
    assert evaluation.result is not None and evaluation.result.lengths is not None
    assert evaluation.usage.env_steps == sum(evaluation.result.lengths)
    assert [event.seq for event in place.events(killed)] == list(range(1, evaluation.last_seq + 1))


def test_an_attempt_that_finished_a_block_is_not_counted_against_the_evaluation(place: Workplace) -> None:
    id = ask(place, trained(place), plan(400, SLOW))
    for kills in range(1, 5):  # One more than max_attempts.
        with place.running(place.claim()):
            eventually(played(place, id, kills * 2))
            children_of()[0].send_signal(signal.SIGKILL)
        assert found(place, id).status is JobStatus.QUEUED


def test_an_evaluation_whose_child_always_dies_is_given_up(place: Workplace) -> None:
    id = ask(place, trained(place), plan(env=EnvSpec(id="test/KillsItself-v0")))
    outcomes = [supervise(place.claim(), place.slot()) for _ in range(evaluations.MAX_ATTEMPTS)]
    assert outcomes == [JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.FAILED]
    reason = found(place, id).status_reason
    assert reason is not None
    assert reason.code == ReasonCode.ATTEMPTS_EXHAUSTED
    assert "block of episodes" in reason.message


def test_a_running_evaluation_is_cancelled_and_keeps_no_result(place: Workplace) -> None:
    id = ask(place, trained(place), plan(4000, SLOW))
    with place.running(place.claim()):
        eventually(played(place, id, 1))
        (child,) = children_of()
        with place.database.write() as session:
            assert evaluations.request_cancel(session, place.tenant, id).cancel_requested
        eventually(lambda: found(place, id).status is JobStatus.CANCELLED, seconds=15)
    assert not child.is_running()
    assert found(place, id).result is None


def test_a_draining_worker_gives_an_evaluation_back_with_its_blocks(place: Workplace) -> None:
    id = ask(place, trained(place), plan(40, SLOW))
    with place.running(place.claim()):
        eventually(played(place, id, 1))
        place.draining.set()
    place.draining.clear()
    evaluation = found(place, id)
    assert evaluation.status is JobStatus.QUEUED
    assert evaluation.status_reason is not None and evaluation.status_reason.code == ReasonCode.WORKER_DRAINING
    assert 4 <= evaluation.progress.episodes < 40
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    assert found(place, id).progress.episodes == 40


def test_an_attempt_that_lost_its_lease_sets_no_result(place: Workplace) -> None:
    id = ask(place, trained(place), plan())
    claim = place.claim()
    with place.database.write() as session:
        reason = claims.Reason(ReasonCode.WORKER_LOST, "said the sweeper", True)
        claims.requeue(session, *claim.key, outcome=AttemptOutcome.LOST, reason=reason)
    for write in (
        lambda session: evaluations.set_result(session, *claim.key, {"mean_reward": 1.0}),
        lambda session: claims.bear_fruit(session, *claim.key, 1),
    ):
        with pytest.raises(LeaseLost), place.database.write() as session:
            write(session)
    assert found(place, id).status is JobStatus.QUEUED


def test_a_faulty_environment_fails_the_evaluation_naming_itself_and_its_step(place: Workplace) -> None:
    id = ask(place, trained(place), plan(env=EnvSpec(id="test/RaisesInStep-v0", kwargs={"at_step": 5})))
    assert supervise(place.claim(), place.slot()) is JobStatus.FAILED
    reason = found(place, id).status_reason
    assert reason is not None
    assert reason.code == "env_error"
    assert "test/RaisesInStep-v0" in reason.message and "step 5" in reason.message


def test_a_damaged_policy_fails_the_evaluation_and_says_which(place: Workplace) -> None:
    checkpoint_id = trained(place)
    with place.database.read() as session:
        _, key = checkpoints.checkpoint_location(session, place.tenant, checkpoint_id)
    path = open_artifacts(place.settings.artifacts_url).path(key, "policy.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    id = ask(place, checkpoint_id, plan())
    assert supervise(place.claim(), place.slot()) is JobStatus.FAILED
    reason = found(place, id).status_reason
    assert reason is not None
    assert reason.code == ReasonCode.CHECKPOINT_UNREADABLE
    assert checkpoint_id in reason.message


def test_a_checkpoint_stays_until_its_evaluation_has_ended(place: Workplace) -> None:
    """Neither retention, nor its tenant, nor the deletion of its job takes it away."""
    spec = {**spec_of("test/Slow-v0", iterations=4, kwargs={"seconds_per_step": 0.01}), "checkpoints": KEEPS_ONE}
    job_id = place.accept(spec)
    first: list[str] = []

    def evaluated_first() -> bool:
        latest = place.job(job_id).latest_checkpoint_id
        if latest is not None and not first:
            ask(place, latest, plan())
            first.append(latest)
        return bool(first)

    with place.running(place.claim()):
        eventually(evaluated_first)
    (checkpoint_id,) = first
    job = place.job(job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.final_checkpoint_id != checkpoint_id
    with place.database.write() as session, pytest.raises(CheckpointInUse):
        checkpoints.delete_checkpoint(session, place.tenant, checkpoint_id)
    with place.database.write() as session, pytest.raises(CheckpointInUse):
        jobs.delete_job(session, place.tenant, job_id)
    assert supervise(place.claim(), place.slot()) is JobStatus.SUCCEEDED
    with place.database.write() as session:
        assert [id for id, _ in checkpoints.expired_by_retention(session, job_id)] == [checkpoint_id]
        checkpoints.delete_checkpoint(session, place.tenant, checkpoint_id)


KEEPS_ONE = {"every_timesteps": 64, "keep_last": 1, "keep_best": 0}


def test_every_policy_that_was_evaluated_in_training_is_saved_and_the_best_of_them_kept(place: Workplace) -> None:
    """Saved at each of nine iterations, evaluated at every other one: what follows an evaluation has not its score."""
    spec = spec_of(iterations=9, evaluation={"every_timesteps": 128, "n_episodes": 2, "deterministic": False})
    job = place.run({**spec, "checkpoints": {"every_timesteps": 64, "keep_last": 1, "keep_best": 1}})
    told = {
        event.data["iteration"]: event.data["metrics"]["eval/mean_reward"]
        for event in place.events(job.id)
        if event.type is EventType.EVALUATION
    }
    assert sorted(told) == [2, 4, 6, 8]
    with place.database.read() as session:
        best = checkpoints.get_checkpoint(session, place.tenant, str(job.best_checkpoint_id))
    assert told.get(best.iteration) == max(told.values())
    event = next(event for event in place.events(job.id) if event.type is EventType.EVALUATION)
    assert {"eval/n_episodes", "eval/std_reward", "eval/iqm_reward", "eval/mean_reward_low"} < set(
        event.data["metrics"]
    )


def test_a_policy_that_was_evaluated_is_saved_though_no_checkpoint_is_due(place: Workplace) -> None:
    evaluation = {"every_timesteps": 64, "n_episodes": 1}
    saved = place.run({**spec_of(iterations=3, evaluation=evaluation), "checkpoints": {"keep_last": 9}})
    unsaved = place.run({**spec_of(iterations=3, evaluation=evaluation), "checkpoints": {"keep_best": 0}})
    counts = [
        len([event for event in place.events(job.id) if event.type is EventType.CHECKPOINT]) for job in (saved, unsaved)
    ]
    assert counts == [3, 1]
