"""The device's learner beside the plain one: the same rollout, the same order of rows."""

import numpy as np
import pytest
import torch

from ppo_engine.cuda.learner import DeviceLearner
from ppo_engine.cuda.rollout import DeviceRollout, allocate_rollout
from ppo_engine.cuda.uploaded import UploadingLearner
from ppo_engine.errors import TrainingDiverged
from ppo_engine.policy import Policy
from ppo_engine.rollout import Rollout
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import PolicySpec, PPOSpec
from ppo_engine.update import Learner
from tests.ppo_engine.cuda.parts import NOW, numbers, parts_of

T, N = 12, 5


def rollout_of(env_id: str) -> tuple[DeviceRollout, np.ndarray]:
    """A rollout of random numbers, and rewards; actions and log-probs are those of the initial policy."""
    policy = policy_of(env_id)
    rollout, generator = allocate_rollout(policy, T, N), np.random.default_rng(0)
    rollout.observations.copy_(torch.from_numpy(generator.normal(size=rollout.observations.shape)))
    flat = rollout.observations.flatten(0, 1)
    noise = torch.from_numpy(policy.distribution.noise(generator, (T * N,)))
    with torch.no_grad():
        actions, _, values = policy.act(flat, noise)
        log_probs, _, _ = policy.evaluate_actions(flat, actions)
    rollout.actions.copy_(actions.view_as(rollout.actions))
    rollout.log_probs.copy_(log_probs.view(T, N))
    rollout.values.copy_(values.view(T, N))
    rollout.next_values.copy_(torch.from_numpy(generator.normal(size=(T, N))))
    rollout.terminated.copy_(torch.from_numpy(generator.random((T, N)) < 0.1))
    rollout.truncated.copy_(torch.from_numpy(generator.random((T, N)) < 0.1))
    return rollout, generator.normal(size=(T, N))


def policy_of(env_id: str) -> Policy:
    environment = parts_of(env_id).environment
    spec = PolicySpec(hidden_sizes=(16, 16), squash_output=env_id == "MountainCarContinuous-v0")
    size = environment.observation_size
    return Policy(spec, size, environment.action_space, generator=np.random.default_rng(3))


def plain(rollout: DeviceRollout, rewards: np.ndarray) -> Rollout:
    return Rollout(
        raw_observations=numbers(rollout.raw_observations),
        rewards=rewards,
        terminated=numbers(rollout.terminated),
        truncated=numbers(rollout.truncated),
        valid=np.ones((T, N), np.bool_),
        observations=rollout.observations,
        actions=rollout.actions,
        log_probs=rollout.log_probs,
        values=rollout.values,
        next_values=rollout.next_values,
        outputs=rollout.outputs,
        log_std=torch.zeros(0),
        last_observation=rollout.observations[-1],
        final_observations=rollout.observations[-1, :0],
    )


def both(env_id: str, ppo: PPOSpec, nows: list[Coefficients]) -> tuple[Learner, DeviceLearner, list[dict], list[dict]]:
    """Both learners after an update per element of `nows`, and the metrics of each."""
    rollout, rewards = rollout_of(env_id)
    expected_policy, policy = policy_of(env_id), policy_of(env_id)
    expected = Learner(expected_policy, ppo, np.random.default_rng(7))
    learner = DeviceLearner(
        policy, ppo, rollout, torch.from_numpy(rewards).float(), torch.Generator(torch.device("cpu"))
    )
    orders, expected_metrics, metrics = np.random.default_rng(7), [], []
    for now in nows:
        before = expected.generator.bit_generator.state
        expected_metrics.append(expected.learn(plain(rollout, rewards), rewards, now))
        orders.bit_generator.state = before
        learner.order.copy_(torch.from_numpy(np.stack([orders.permutation(T * N) for _ in range(ppo.n_epochs)])))
        learner.run(now)
        report = {name: numbers(part) for name, part in learner.report().items()}
        metrics.append(learner.metrics(report, now) | policy.metrics())
    return expected, learner, expected_metrics, metrics


@pytest.mark.law("T23")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0"])
@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, 3 * 2 * 3),
        ({"batch_size": 20}, 3 * 2 * 3),
        ({"batch_size": 60}, 3 * 2),
        ({"batch_size": 500}, 3 * 2),
        ({"normalize_advantage": "batch", "ent_coef": 0.01}, 3 * 2 * 3),
        ({"normalize_advantage": "off", "vf_coef": 1.0, "max_grad_norm": 0.05}, 3 * 2 * 3),
        ({"clip_range_vf": 0.1}, 3 * 2 * 3),
    ],
)
def test_updates_and_metrics_are_those_of_the_plain_learner(env_id: str, fields: dict, steps: int) -> None:
    """Three updates with a falling learning rate and clip range; 60 rows, minibatches of 25 where nothing is said."""
    ppo = PPOSpec(**({"n_steps": T, "batch_size": 25, "n_epochs": 2} | fields))
    vf = None if ppo.clip_range_vf is None else 0.1
    nows = [Coefficients(1e-3, 0.2, vf), Coefficients(5e-4, 0.1, vf and 0.05), Coefficients(1e-4, 0.02, vf and 0.01)]
    expected, learner, expected_metrics, metrics = both(env_id, ppo, nows)
    assert learner.adam.steps == expected.adam.steps == steps
    for ours, theirs in ((learner.adam.parameters, expected.policy.flat), (learner.adam.m, expected.adam.m)):
        np.testing.assert_allclose(numbers(ours), numbers(theirs), atol=1e-6)
    np.testing.assert_allclose(numbers(learner.adam.v), numbers(expected.adam.v), atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(metrics, expected_metrics, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6, rel=1e-5)


@pytest.mark.parametrize("stop", range(1, 6))
def test_target_kl_stops_where_the_plain_learner_stops(stop: int) -> None:
    """Three minibatches per epoch; the stop comes at different places, in an epoch and between two."""
    ppo = PPOSpec(n_steps=T, batch_size=20, n_epochs=4)
    fast = Coefficients(3e-3, 0.2, None)
    _, learner, _, _ = both("CartPole-v1", ppo, [fast])
    # Between the greatest approx_kl so far and the one that shall stop it.
    kls = numbers(learner.report()["learner/table"])[:, 4]
    first = next(i for i in range(1, len(kls)) if kls[i] > kls[:i].max() and i >= stop)
    target = (kls[:first].max() + kls[first]) / 2 / 1.5
    expected, learner, expected_metrics, metrics = both(
        "CartPole-v1", ppo.model_copy(update={"target_kl": float(target)}), [fast, fast]
    )
    assert learner.adam.steps == expected.adam.steps < 24
    np.testing.assert_allclose(numbers(learner.adam.parameters), numbers(expected.policy.flat), atol=1e-6)
    np.testing.assert_allclose(numbers(learner.adam.m), numbers(expected.adam.m), atol=1e-6)
    for ours, theirs in zip(metrics, expected_metrics, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6, rel=1e-5)


def test_after_a_stop_nothing_moves_whatever_the_gradients_are() -> None:
    """The target is so small that the first step is the only one; learning on would be seen at this rate."""
    ppo = PPOSpec(n_steps=T, batch_size=60, n_epochs=50, target_kl=1e-9)
    _, learner, _, metrics = both("CartPole-v1", ppo, [Coefficients(0.1, 0.2, None)])
    assert learner.adam.steps == 1
    assert float(torch.linalg.vector_norm(learner.adam.m)) <= 0.1 * 0.5 + 1e-6
    assert metrics[0]["train/grad_norm"] > 0


def test_a_rollout_of_the_host_is_uploaded_and_learned_from_alike() -> None:
    """Two updates; both learners draw the order of rows from one stream, which no stop cuts short."""
    rollout, rewards = rollout_of("Pendulum-v1")
    ppo = PPOSpec(n_steps=T, batch_size=25, n_epochs=3)
    expected = Learner(policy_of("Pendulum-v1"), ppo, np.random.default_rng(7))
    learner = UploadingLearner(policy_of("Pendulum-v1"), ppo, N, np.random.default_rng(7))
    for scale in (1.0, 2.0):
        metrics = learner.learn(plain(rollout, scale * rewards), scale * rewards, NOW)
        assert metrics == pytest.approx(
            expected.learn(plain(rollout, scale * rewards), scale * rewards, NOW), abs=2e-6, rel=1e-5
        )
    assert learner.adam.steps == expected.adam.steps == 18
    np.testing.assert_allclose(numbers(learner.adam.parameters), numbers(expected.policy.flat), atol=1e-6)
    assert learner.generator.bit_generator.state == expected.generator.bit_generator.state


def test_epochs_are_drawn_as_permutations_and_none_is_like_another() -> None:
    learner = parts_of(n_epochs=6).backend.learner
    learner.learn(NOW)
    orders = learner.order.tolist()
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_a_number_that_is_not_finite_is_named() -> None:
    learner = parts_of().backend.learner
    learner._rewards[3, 1] = float("nan")
    learner.learn(NOW)
    with pytest.raises(TrainingDiverged, match="loss is nan in minibatch 0 of the update"):
        learner.metrics({name: numbers(part) for name, part in learner.report().items()}, NOW)


def test_a_count_of_steps_is_restored_exactly() -> None:
    adam = parts_of().backend.learner.adam
    adam.steps = 123_457
    assert adam.steps == 123_457
