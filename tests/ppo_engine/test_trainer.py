import math
from pathlib import Path

import numpy as np
import pytest

from ppo_engine.checkpoint import read_arrays
from ppo_engine.components import build
from ppo_engine.errors import DeviceUnavailable, InvalidObservation
from ppo_engine.evaluate import load_policy
from ppo_engine.presets import resolve
from ppo_engine.spec import InvalidSpec, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of, timeless


def weights_after(spec: TrainingSpec) -> str:
    trainer = Trainer(spec)
    run(trainer)
    trainer.close()
    return trainer.policy_hash()


@pytest.mark.law("T22")
def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    assert weights_after(spec_of(seed=1)) == weights_after(spec_of(seed=1))
    assert weights_after(spec_of(seed=1)) != weights_after(spec_of(seed=2))


@pytest.mark.law("T2", "T16")
@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_an_update_begins_where_its_rollout_was_acted_though_statistics_move_between_them(backend: str) -> None:
    """All rows at once, so that every ratio is that of before the step: one, but for the order of sums."""
    ppo = {"batch_size": 128, "n_epochs": 1, "learning_rate": 1e-2}
    trainer = Trainer(spec_of("Pendulum-v1", ppo=ppo, normalize={"observations": True}, backend=backend))
    for step in run(trainer):
        assert step.metrics is not None
        assert abs(step.metrics["train/approx_kl"]) < 1e-7 and step.metrics["train/clip_fraction"] == 0.0


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "LunarLander-v3"])
def test_environment_processes_give_the_same_weights_as_one_process(env_id: str) -> None:
    hashes = {weights_after(spec_of(env_id, env={"vectorization": mode})) for mode in ("sync", "process")}
    assert len(hashes) == 1


def test_a_missing_seed_is_drawn_and_recorded() -> None:
    trainers = [Trainer(spec_of(seed=None)) for _ in range(2)]
    assert trainers[0].spec.seed is not None
    assert trainers[0].spec.seed != trainers[1].spec.seed
    again = Trainer(trainers[0].spec)
    assert again.policy_hash() == trainers[0].policy_hash()


def test_training_ends_with_the_iteration_that_reaches_its_timesteps() -> None:
    """1,000 steps in iterations of 128: eight of them, 1,024."""
    progress = run(Trainer(spec_of(ppo={"total_timesteps": 1000})))
    assert [step.timesteps for step in progress] == list(range(128, 1025, 128))
    assert [step.finished for step in progress] == [False] * 7 + [True]
    assert progress[-1].stop_reason == "total_timesteps"


def test_a_stop_rule_ends_training_as_soon_as_it_holds() -> None:
    """The mean return of CartPole is above 9 from the first finished episode on."""
    progress = run(Trainer(spec_of(stop={"metric": "rollout/ep_rew_mean", "threshold": 9.0})))
    assert len(progress) == 1
    assert progress[0].finished and progress[0].stop_reason == "stop_rule"


def test_metrics_have_stable_baselines_keys_and_are_finite() -> None:
    [*_, last] = run(Trainer(spec_of("Pendulum-v1", env={"max_episode_steps": 20})))
    assert last.metrics is not None
    assert {
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/saturated_actions", "time/fps"),
        *("train/approx_kl", "train/clip_fraction", "train/clip_range", "train/entropy", "train/explained_variance"),
        *("train/grad_norm", "train/learning_rate", "train/loss", "train/policy_loss", "train/std", "train/value_loss"),
    } == set(last.metrics)
    assert all(math.isfinite(value) for value in last.metrics.values())
    assert last.metrics["rollout/ep_len_mean"] == 20.0


def test_no_episode_metric_is_reported_before_an_episode_has_ended() -> None:
    first, *_ = run(Trainer(spec_of("Pendulum-v1")), 1)
    assert first.metrics is not None and "rollout/ep_rew_mean" not in first.metrics


def test_episode_returns_are_raw_whatever_is_normalized() -> None:
    """Ramp pays 0 + 1 + ... + 9 = 45 in each episode of ten steps."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        add_plugin(monkeypatch)
        [last] = run(Trainer(spec_of("test/Ramp-v0")), 1)
    assert last.metrics is not None and last.metrics["rollout/ep_rew_mean"] == 45.0


def test_metrics_are_reported_once_per_window_and_at_the_end() -> None:
    """Ten iterations in windows of four: rows after 4, 8 and 10, the means of what single rows would be."""
    single = run(Trainer(spec_of()))
    windows = run(Trainer(spec_of(metrics={"every_iterations": 4})))
    assert [step.iteration for step in windows if step.metrics] == [4, 8, 10]
    losses = [step.metrics["train/loss"] for step in single if step.metrics]
    assert windows[3].metrics and windows[9].metrics and single[7].metrics and windows[7].metrics
    assert windows[3].metrics["train/loss"] == pytest.approx(np.mean(losses[:4]))
    assert windows[9].metrics["train/loss"] == pytest.approx(np.mean(losses[8:]))
    assert windows[7].metrics["rollout/ep_rew_mean"] == single[7].metrics["rollout/ep_rew_mean"]


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluating_draws_from_no_stream_of_the_training(deterministic: bool) -> None:
    evaluation = {"every_timesteps": 256, "n_episodes": 3, "deterministic": deterministic}
    trainer = Trainer(spec_of(evaluation=evaluation))
    progress = run(trainer)
    assert [step.iteration for step in progress if step.evaluation] == [2, 4, 6, 8, 10]
    assert trainer.policy_hash() == weights_after(spec_of())
    assert timeless(progress) == timeless(run(Trainer(spec_of(evaluation=evaluation))))
    assert progress[1].evaluation and progress[1].metrics
    assert progress[1].metrics["eval/mean_reward"] == progress[1].evaluation.mean_reward
    assert len(progress[1].evaluation.returns) == 3


def test_training_learns_cart_pole() -> None:
    """An untrained policy balances for about 20 steps."""
    spec = spec_of(
        env={"n_envs": 8},
        ppo={"total_timesteps": 20_480, "n_steps": 64, "batch_size": 128, "n_epochs": 8, "learning_rate": 2e-3},
        policy={"hidden_sizes": [32, 32]},
    )
    [*_, last] = run(Trainer(spec))
    assert last.metrics is not None and last.metrics["rollout/ep_rew_mean"] > 100


@pytest.mark.parametrize(
    "env_id",
    [
        *("test/DictObservation-v0", "test/TupleObservation-v0", "test/MultiDiscreteAction-v0", "test/MatrixAction-v0"),
        *("test/MultiBinaryAction-v0", "test/OffsetAction-v0", "test/AsymmetricAction-v0", "test/MatrixBoxAction-v0"),
    ],
)
@pytest.mark.parametrize("share_features", [False, True])
def test_every_kind_of_space_trains_and_its_bundle_acts_like_the_trained_policy(
    env_id: str, share_features: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    trainer = Trainer(spec_of(env_id, policy={"share_features": share_features}))
    run(trainer, 2)
    trainer.save(tmp_path)
    policy = load_policy(tmp_path)
    rows = np.random.default_rng(0).normal(size=(32, policy.manifest.observation_size)).astype(np.float32)
    assert policy.act(rows) == pytest.approx(trainer.act(rows), abs=1e-5)


@pytest.mark.parametrize("env_id", ["test/AsymmetricAction-v0", "test/MatrixBoxAction-v0", "Pendulum-v1"])
def test_squashed_actions_train_and_their_bundle_acts_like_the_trained_policy(
    env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    trainer = Trainer(spec_of(env_id, policy={"squash_output": True}, ppo={"ent_coef": 0.01}))
    run(trainer, 3)
    trainer.save(tmp_path)
    policy = load_policy(tmp_path)
    assert policy.manifest.squash_output
    rows = np.random.default_rng(0).normal(size=(32, policy.manifest.observation_size)).astype(np.float32)
    assert policy.act(rows) == pytest.approx(trainer.act(rows), abs=1e-4)


def test_sampled_actions_of_an_evaluation_are_squashed_too() -> None:
    """Pendulum's bounds are -2 and 2; the weights, and so the numbers before the tanh, are those of the plain one."""
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    plain, squashing = (
        build(resolve(spec_of("Pendulum-v1", policy={"squash_output": squash})), 1) for squash in (False, True)
    )
    numbers, actions = (parts.sampler(np.random.default_rng(0))(rows) for parts in (plain, squashing))
    assert np.abs(numbers).max() > 1
    assert actions == pytest.approx(2 * np.tanh(numbers), abs=1e-6)


def test_the_entropy_bonus_spreads_squashed_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a standard deviation far below the flattest one after the tanh, which is near 0.9, and from far above."""
    add_plugin(monkeypatch)
    for log_std_init, sign in ((-1.5, 1), (1.5, -1)):
        stds = []
        for ent_coef in (0.0, 1.0):
            policy = {"squash_output": True, "log_std_init": log_std_init}
            ppo = {"ent_coef": ent_coef, "vf_coef": 0.0, "learning_rate": 1e-2}
            [*_, last] = run(Trainer(spec_of("test/MatrixBoxAction-v0", policy=policy, ppo=ppo)))
            assert last.metrics is not None
            stds.append(last.metrics["train/std"])
        assert sign * (stds[1] - stds[0]) > 0.05


def test_squashing_is_refused_where_the_environment_as_it_was_made_has_no_bounds() -> None:
    """By default LunarLander's actions are discrete, and with `continuous` they are not."""
    squash = {"squash_output": True}
    continuous = Trainer(spec_of("LunarLander-v3", env={"kwargs": {"continuous": True}}, policy=squash))
    assert run(continuous, 1)
    for kwargs in ({}, {"continuous": False}):
        with pytest.raises(InvalidSpec, match="/policy/squash_output"):
            Trainer(spec_of("LunarLander-v3", env={"kwargs": kwargs}, policy=squash))


def test_one_hot_features_are_not_normalized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TupleObservation: three one-hot features of a Discrete, then four numbers."""
    add_plugin(monkeypatch)
    trainer = Trainer(spec_of("test/TupleObservation-v0", normalize={"observations": True}))
    run(trainer, 2)
    trainer.save(tmp_path)
    arrays = read_arrays(tmp_path / "policy.safetensors")
    size = arrays["normalizer/mean"].size
    assert arrays["normalizer/mean"][: size - 4].tolist() == [0.0] * (size - 4)
    assert arrays["normalizer/variance"][: size - 4].tolist() == [1.0] * (size - 4)
    assert (arrays["normalizer/variance"][-4:] != 1.0).all()


def test_a_foreign_vector_environment_counts_only_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk resets in steps of its own; they are no timesteps."""
    add_plugin(monkeypatch)
    spec = spec_of("test/NextStep-v0", env={"vectorization": "native"})
    progress = run(Trainer(spec), 4)
    assert progress[-1].timesteps < 4 * 128
    assert progress[-1].metrics is not None and progress[-1].metrics["rollout/ep_len_mean"] <= 20.0


@pytest.mark.law("T21")
@pytest.mark.parametrize("env_id", ["test/NaNObservation-v0", "test/InfiniteReward-v0"])
def test_an_environments_bad_number_fails_the_iteration_in_which_it_appears(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    trainer = Trainer(spec_of(env_id))
    with pytest.raises(InvalidObservation, match=rf"^{env_id}, environment 0, episode 0, step \d+: "):
        run(trainer)
    assert trainer.iteration == 0


def test_a_spec_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="batch_size"):
        Trainer(spec_of(ppo={"batch_size": 1000}))


def test_the_runtime_says_what_was_decided() -> None:
    runtime = Trainer(spec_of()).runtime
    assert (runtime["device"], runtime["backend"], runtime["threads"]) == ("cpu", "fused", 1)
    assert runtime["backend_reason"] == "compiled loops are faster for an MLP on the CPU"
    assert runtime["vectorization"] == "batched"
    assert isinstance(runtime["versions"], dict) and {"torch", "numpy", "gymnasium"} <= runtime["versions"].keys()


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="cuda"):
        Trainer(spec_of(device="cuda"))
