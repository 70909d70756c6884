"""Policies with memory from spec to bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ppo_engine import evaluate as evaluation
from ppo_engine.actions import environment_actions
from ppo_engine.bundle import load_policy
from ppo_engine.evaluate import acting, evaluate
from ppo_engine.presets import resolve
from ppo_engine.presets.budget import parameter_count
from ppo_engine.recurrent.acting import Remembering
from ppo_engine.recurrent.collector import RecurrentCollector
from ppo_engine.recurrent.learner import RecurrentLearner
from ppo_engine.spec import InvalidSpec, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of

LSTM = {"memory": "lstm", "memory_size": 8}
GRU = {"memory": "gru", "memory_size": 8}


@pytest.mark.parametrize(
    ("env_id", "policy_spec"),
    [
        ("CartPole-v1", LSTM),
        ("CartPole-v1", {**GRU, "share_features": True, "hidden_sizes": []}),
        ("Pendulum-v1", {**LSTM, "squash_output": True}),
        ("Pendulum-v1", {**GRU, "use_sde": True, "log_std_init": -1.0}),
        ("Pendulum-v1", {**LSTM, "state_dependent_std": True}),
        ("test/MultiDiscreteAction-v0", GRU),
        ("test/MultiBinaryAction-v0", LSTM),
        ("test/DictObservation-v0", GRU),
        ("test/ProbeImage-v0", LSTM),
        ("test/ProbeImageDict-v0", GRU),
    ],
)
def test_a_trained_policy_acts_the_same_in_the_trainer_in_numpy_and_in_onnx(
    env_id: str, policy_spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step after step, each from the state that the last one gave; the trainer's actions are checked by `save`."""
    add_plugin(monkeypatch)
    trainer = Trainer(spec_of(env_id, policy=policy_spec, ppo={"total_timesteps": 256}))
    run(trainer)
    trainer.save(tmp_path / "checkpoint")
    trainer.close()
    policy = load_policy(tmp_path / "checkpoint")
    vectors = json.loads((tmp_path / "checkpoint" / "vectors.json").read_text())
    session = onnxruntime.InferenceSession(tmp_path / "checkpoint" / "policy.onnx", providers=["CPUExecutionProvider"])
    assert len(vectors["steps"]) == 4
    state = np.zeros((len(vectors["steps"][0]["observations"]), policy.state_size), np.float32)
    heads_seen = []
    for step in vectors["steps"]:
        observations = np.array(step["observations"], dtype=policy.manifest.observation_dtype)
        np.testing.assert_allclose(state, step["state"], atol=1e-6)
        inputs = {"observations": observations, "state": state}
        actions, heads, after = session.run(["actions", "heads", "next_state"], inputs)
        np.testing.assert_allclose(heads, step["heads"], rtol=1e-5, atol=1e-5)
        rows, state = policy.step(observations, state)
        np.testing.assert_allclose(after, state, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(actions, environment_actions(rows, policy.manifest.action_space), atol=1e-5)
        np.testing.assert_allclose(actions, np.array(step["actions"]), rtol=1e-5, atol=1e-5)
        heads_seen.append(heads)
    assert np.abs(state).max() > 1e-3
    with pytest.raises(ValueError, match="memory"):
        policy.act(observations)


def test_the_parameter_count_of_the_budget_is_that_of_the_policy() -> None:
    for memory in ("lstm", "gru", "none"):
        spec = resolve(spec_of(policy={"memory": memory, "memory_size": 24}))
        trainer = Trainer(spec)
        assert parameter_count(spec, 4, 2) == trainer._components.policy.flat.numel()
        trainer.close()


def test_acting_without_what_came_before_is_refused_also_where_the_shapes_would_fit() -> None:
    """As many units as the observation has numbers."""
    trainer = Trainer(spec_of(policy={"memory": "gru", "memory_size": 4, "sequence_length": 8}))
    with pytest.raises(RuntimeError, match="memory"):
        trainer.act(np.zeros((2, 4), np.float32))
    trainer.close()


def test_what_is_remembered_ends_with_its_episode() -> None:
    """The state counts the steps of each row."""

    def step(observations: Any, state: Any, masks: Any) -> Any:
        return state[:, 0], state + 1

    remembering = Remembering(step, 1)
    seen = []
    for ended in ([False, False], [False, True], [True, False], [False, False]):
        seen.append(remembering(np.zeros((2, 3))).tolist())
        remembering.forget(np.array(ended))
    assert seen == [[0, 0], [1, 1], [2, 0], [0, 1]]


@pytest.mark.law("T15")
def test_nothing_is_remembered_of_an_episode_that_a_resume_could_not_bring_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    spec = spec_of("test/Unrepeatable-v0", policy=LSTM)
    trainer = Trainer(spec)
    before = trainer._components.backend.collector
    assert isinstance(before, RecurrentCollector)
    while not before.state.any():  # Now and then all episodes have just begun.
        assert run(trainer, 1)
    trainer.save(tmp_path)
    after = Trainer.resume(spec, tmp_path)._components.backend.collector
    assert isinstance(after, RecurrentCollector) and not after.state.any()


def test_an_evaluation_forgets_at_the_end_of_each_episode(tmp_path: Path) -> None:
    """So episodes that are played one after another are those that are played side by side."""
    trainer = Trainer(spec_of(policy={**LSTM, "memory_size": 16}, ppo={"total_timesteps": 512}))
    run(trainer)
    trainer.save(tmp_path / "checkpoint")
    policy = load_policy(tmp_path / "checkpoint")
    seeds = np.random.SeedSequence(4)
    alone = evaluate(acting(policy), trainer.spec.env, n_episodes=1, seeds=seeds, n_envs=1)
    ours = evaluate(acting(policy), trainer.spec.env, n_episodes=6, seeds=seeds, n_envs=3)
    theirs = evaluate(trainer.acting(), trainer.spec.env, n_episodes=6, seeds=seeds, n_envs=3)
    assert ours == theirs
    assert ours.returns[0] == alone.returns[0]
    plan = evaluation.EvaluationPlan(env=trainer.spec.env, n_episodes=4, seed=3, deterministic=False)
    assert list(evaluation.evaluate_blocks(policy, plan)) == list(evaluation.evaluate_blocks(policy, plan))


@pytest.mark.parametrize(
    ("sections", "pointer", "reason"),
    [
        ({"policy": {**LSTM, "sequence_length": 33}}, "/policy/sequence_length", "n_steps = 32"),
        (
            {"policy": {**LSTM, "sequence_length": 9}, "ppo": {"batch_size": 8}},
            "/policy/sequence_length",
            "batch_size = 8",
        ),
        ({"policy": LSTM, "env": {"vectorization": "device"}}, "/env/vectorization", "memory"),
        ({"policy": GRU, "backend": "fused"}, "/backend", "memory"),
        ({"policy": GRU, "ppo": {"objective": "trpo", "n_epochs": 1}}, "/ppo/objective", "share"),
        ({"policy": LSTM, "ppo": {"critic": {"n_epochs": 1}}}, "/ppo/critic", "share"),
    ],
)
def test_what_memory_cannot_go_with_is_refused(sections: dict[str, Any], pointer: str, reason: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        resolve(spec_of(**sections))
    faults = {fault.pointer: fault.message for fault in refused.value.faults}
    assert reason in faults[pointer]


def test_a_length_that_means_nothing_without_memory_is_no_fault() -> None:
    resolve(TrainingSpec.model_validate({"env": {"id": "CartPole-v1"}, "ppo": {"n_steps": 8, "batch_size": 8}}))


@pytest.mark.parametrize(
    ("env_id", "ppo"),
    [
        ("CartPole-v1", {"kl_penalty": {"kind": "adaptive"}, "normalize_advantage": "batch"}),
        ("CartPole-v1", {"objective": "none", "n_epochs": 1, "normalize_advantage": "off"}),
        ("CartPole-v1", {"objective": "dual_clip", "target_kl": 0.01}),
        ("Pendulum-v1", {"rpo_alpha": 0.3, "learning_rate": {"kind": "kl_adaptive"}}),
    ],
)
def test_memory_goes_with_the_objectives(env_id: str, ppo: dict[str, Any]) -> None:
    """Sequences of 12 of rollouts of 32 steps: padded."""
    trainer = Trainer(spec_of(env_id, policy={**GRU, "sequence_length": 12}, ppo={"total_timesteps": 384, **ppo}))
    rows = [progress.metrics for progress in run(trainer)]
    trainer.close()
    assert len(rows) == 3 and all(row is not None and np.isfinite(list(row.values())).all() for row in rows)


def test_memory_goes_with_action_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment raises at an action that is not valid; the stored masks are replayed, so the ratio is one."""
    add_plugin(monkeypatch)
    spec = spec_of("test/MaskedMulti-v0", policy={**LSTM, "sequence_length": 12}, env={"action_masks": True})
    trainer = Trainer(spec)
    run(trainer, 3)
    backend = trainer._components.backend
    collector, learner = backend.collector, backend.learner
    assert isinstance(collector, RecurrentCollector) and isinstance(learner, RecurrentLearner)
    batch = learner.batch(rollout := collector.collect(), rollout.rewards).cleared()
    assert batch.action_masks is not None and batch.mask is not None and not batch.action_masks[batch.mask].all()
    log_probs = learner.evaluate(batch).log_probs[batch.mask]
    np.testing.assert_allclose(log_probs.detach(), batch.log_probs[batch.mask], atol=1e-6)
    trainer.save(tmp_path / "checkpoint")
    masks = json.loads((tmp_path / "checkpoint" / "vectors.json").read_text())["steps"][0]["action_masks"]
    assert not np.all(masks)
    played = evaluate(trainer.acting(), trainer.spec.env, n_episodes=3, seeds=np.random.SeedSequence(1))
    assert len(played.returns) == 3
    trainer.close()


@pytest.mark.parametrize("memory", ["lstm", "gru", "none"])
def test_a_choice_that_a_sign_four_steps_ago_tells_is_learned_by_memory_alone(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """+1 for the right turn, -1 for the wrong one: 1 at the best; without memory a turn is worth 0."""
    add_plugin(monkeypatch)
    spec = spec_of(
        "test/TMaze-v0",
        env={"n_envs": 16, "kwargs": {"delay": 4}},
        policy={"memory": memory, "memory_size": 16, "sequence_length": 16},
        ppo={"total_timesteps": 24_576, "n_steps": 32, "batch_size": 128, "n_epochs": 4, "learning_rate": 3e-3},
        normalize={"observations": False, "rewards": False},
    )
    trainer = Trainer(spec)
    run(trainer)
    played = evaluate(trainer.acting(), trainer.spec.env, n_episodes=200, seeds=np.random.SeedSequence(1), n_envs=20)
    trainer.close()
    # 200 turns at random are right 50 % ± 3 · 3.5 %: a mean return of 0 ± 0.21.
    if memory == "none":
        assert played.mean_reward < 0.25
    else:
        assert played.mean_reward > 0.95
