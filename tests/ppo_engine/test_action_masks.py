"""Action masks from the environment to the update: what is not valid is never done, nor learned about."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from ppo_engine.actions import environment_actions
from ppo_engine.bundle import load_policy
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.masks import masks_method
from ppo_engine.envs.registry import make_environment
from ppo_engine.errors import EnvironmentFault
from ppo_engine.evaluate import main
from ppo_engine.fused.heads import BERNOULLI, CATEGORICAL, Head, forbid, sample
from ppo_engine.presets import resolve
from ppo_engine.rollout import Collector
from ppo_engine.spec import EnvSpec, InvalidSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of, state_bytes

KINDS = ["test/Masked-v0", "test/MaskedMulti-v0", "test/MaskedBits-v0"]
BACKENDS = ["fused", "torch"]


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def masked(env_id: str, *, vectorization: str = "sync", **sections: Any) -> Any:
    env = {"action_masks": True, "vectorization": vectorization, **sections.pop("env", {})}
    return spec_of(env_id, env=env, **sections)


@pytest.mark.parametrize("env_id", KINDS)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"by": "method"},
        {"form": "heads"},
        {"form": "lists"},
        {"by": "method", "form": "integers"},
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_never_takes_an_action_that_is_not_valid(env_id: str, kwargs: dict[str, str], backend: str) -> None:
    """512 steps, of which a third would be refused, and an evaluation by sampled actions."""
    evaluation = {"every_timesteps": 512, "n_episodes": 8, "deterministic": False}
    sections = {"ppo": {"total_timesteps": 512}, "evaluation": evaluation, "backend": backend}
    trainer = Trainer(masked(env_id, env={"kwargs": kwargs}, **sections))
    assert run(trainer)[-1].evaluation is not None


@pytest.mark.parametrize("env_id", KINDS)
def test_without_masks_such_an_environment_soon_refuses_an_action(env_id: str) -> None:
    with pytest.raises(EnvironmentFault, match="is not valid in state"):
        run(Trainer(spec_of(env_id)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_learned_is_the_best_of_what_is_valid(backend: str) -> None:
    schedule = {"kind": "linear", "initial": 5e-3}
    rollouts = {"total_timesteps": 12800, "n_steps": 64, "batch_size": 64, "n_epochs": 8}
    ppo = {**rollouts, "learning_rate": schedule, "gamma": 0.0, "ent_coef": 0.03}
    evaluation = {"every_timesteps": 12800, "n_episodes": 20}
    spec = masked("test/MaskedMulti-v0", ppo=ppo, evaluation=evaluation, backend=backend)
    reached = run(Trainer(spec))[-1].evaluation
    assert reached is not None
    # every step of each episode earns 1
    assert reached.returns == tuple(map(float, reached.lengths))


@pytest.mark.parametrize("env_id", KINDS)
def test_the_masks_of_a_rollout_are_those_of_the_states_that_were_acted_in(env_id: str) -> None:
    trainer = Trainer(masked(env_id, backend="torch"))
    collector = trainer._components.backend.collector
    assert isinstance(collector, Collector)
    for _ in range(2):
        rollout = collector.collect()
        assert rollout.action_masks is not None
        states = rollout.raw_observations.argmax(-1)
        sizes = collector.environment.action_space.sizes
        for head, part in enumerate(rollout.action_masks.split(sizes, dim=-1)):
            choices = np.arange(sizes[head])
            expected = ((states[..., None] + head + choices) % 3 != 0) | (choices == 0)
            assert (part.numpy() == expected).all()


@pytest.mark.law("T14")
@pytest.mark.parametrize("env_id", KINDS)
def test_the_update_begins_with_the_log_probs_of_the_rollout(env_id: str) -> None:
    """T2: the same masks at the update."""
    trainer = Trainer(masked(env_id, backend="torch"))
    parts = trainer._components
    rollout = parts.backend.collector.collect()
    for t in range(len(rollout.actions)):
        log_probs, _, _ = parts.policy.evaluate_actions(
            rollout.observations[t], rollout.actions[t], rollout.action_masks[t]
        )
        assert (log_probs - rollout.log_probs[t]).abs().max() < 1e-6
        without, _, _ = parts.policy.evaluate_actions(rollout.observations[t], rollout.actions[t])
        assert (without < log_probs + 1e-6).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", KINDS)
def test_while_nothing_is_learned_the_ratio_stays_one(env_id: str, backend: str) -> None:
    metrics = run(Trainer(masked(env_id, ppo={"learning_rate": 1e-30}, backend=backend)), 1)[0].metrics
    assert abs(metrics["train/approx_kl"]) < 1e-7 and metrics["train/clip_fraction"] == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_entropy_is_that_of_the_valid_choices(backend: str) -> None:
    """In the states of Masked-v0 there are 4, 4, 3 and 4 valid choices of 5: the policy begins nearly uniform."""
    trainer = Trainer(masked("test/Masked-v0", ppo={"learning_rate": 1e-30}, backend=backend))
    entropy = run(trainer, 1)[0].metrics["train/entropy"]
    assert math.log(3) < entropy < math.log(4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", KINDS)
def test_a_masked_training_cut_in_two_ends_like_one_run_through(env_id: str, backend: str, tmp_path: Path) -> None:
    spec = masked(env_id, evaluation={"every_timesteps": 512, "n_episodes": 2}, backend=backend)
    whole = Trainer(spec)
    run(whole)
    first = Trainer(spec)
    run(first, 5)
    first.save(tmp_path / "half")
    second = Trainer.resume(spec, tmp_path / "half")
    masks = second._components.action_masks()
    assert masks is not None and (masks == first._components.action_masks()).all()
    run(second)
    assert second.resumed is not None and second.resumed.kind == "exact"
    ours, theirs = state_bytes(second, tmp_path / "resumed"), state_bytes(whole, tmp_path / "whole")
    for name in ("policy.safetensors", "state.safetensors", "policy.onnx", "vectors.json"):
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize(("kwargs", "backend"), [({}, "fused"), ({}, "torch"), ({"by": "method"}, "fused")])
def test_processes_hand_on_the_same_masks_and_learn_the_same_bits(
    kwargs: dict[str, str], backend: str, tmp_path: Path
) -> None:
    hashes, sections = [], {"env": {"kwargs": kwargs}, "backend": backend}
    for vectorization in ("sync", "process"):
        trainer = Trainer(masked("test/MaskedMulti-v0", vectorization=vectorization, **sections))
        run(trainer, 3)
        hashes.append(trainer.policy_hash())
        trainer.save(tmp_path / vectorization)
        trainer.close()
    assert hashes[0] == hashes[1]
    resumed = Trainer.resume(masked("test/MaskedMulti-v0", vectorization="process", **sections), tmp_path / "sync")
    assert resumed.resumed is not None and resumed.resumed.kind == "exact"
    resumed.close()


FAULTS = [
    ("test/Masked-v0", "nothing valid", "leaves no valid choice to head$"),
    ("test/MaskedMulti-v0", "nothing valid", "leaves no valid choice to head 2 of 3"),
    ("test/MaskedBits-v0", "nothing valid", "leaves no valid choice to head 2 of 3"),
    ("test/Masked-v0", "short", "has 4 entries, its space 5 choices"),
    ("test/MaskedMulti-v0", "short", "has 9 entries, its space 10 choices"),
    ("test/MaskedMulti-v0", "unequal heads", "of head 0 has 1 entries, not 2"),
    ("test/Masked-v0", "floats", "is of float32, not made of booleans"),
    ("test/Masked-v0", "text", "not made of booleans"),
    ("test/MaskedBits-v0", "two", "not made of booleans"),
    ("test/Masked-v0", "missing", "no action mask"),
]


@pytest.mark.law("T14")
@pytest.mark.parametrize(
    ("env_id", "fault", "message", "vectorization"),
    [(*fault, "sync") for fault in FAULTS] + [(*fault, "process") for fault in (FAULTS[1], FAULTS[-1])],
)
def test_a_mask_that_does_not_fit_is_a_fault_of_that_environment_at_that_step(
    env_id: str, fault: str, message: str, vectorization: str
) -> None:
    trainer = Trainer(masked(env_id, vectorization=vectorization, env={"kwargs": {"fault": fault, "at_step": 3}}))
    with pytest.raises(EnvironmentFault, match=message) as caught:
        run(trainer)
    place = caught.value.place
    assert place.env_id == env_id
    # Steps of its life are counted by the environment; resets in between count none.
    assert place.env_index < 4 and (place.episode > 0 or place.step == 3)
    trainer.close()


def test_an_environment_without_masks_is_at_fault_at_its_first_reset() -> None:
    with pytest.raises(EnvironmentFault, match=r"CartPole-v1, environment 0, episode 0, step 0: no action mask"):
        Trainer(masked("CartPole-v1"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_taxi_gives_its_masks_by_itself_and_never_drives_into_a_wall(backend: str) -> None:
    """Gymnasium's Taxi has int8 masks in its `info`."""
    trainer = Trainer(masked("Taxi-v4", backend=backend))
    run(trainer, 2)
    rollout = trainer._components.backend.collector.collect()
    assert rollout.action_masks is not None
    masks, actions = np.asarray(rollout.action_masks), np.asarray(rollout.actions, np.int64)
    assert np.take_along_axis(masks, actions, axis=-1).all()
    assert not masks.all()


@pytest.mark.parametrize("vectorization", ["native", "envpool", "batched", "device"])
def test_what_hands_out_no_masks_of_single_environments_is_refused(vectorization: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolve(masked("CartPole-v1", vectorization=vectorization), describe_environment("CartPole-v1"))
    assert "/env/action_masks" in [fault.pointer for fault in caught.value.faults]


def test_numbers_cannot_be_masked() -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolve(masked("Pendulum-v1"), describe_environment("Pendulum-v1"))
    assert [fault.pointer for fault in caught.value.faults] == ["/env/action_masks"]


@pytest.mark.law("T14")
@pytest.mark.parametrize("uniform", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_compiled_loops_draw_nothing_that_is_not_valid_at_the_edges_of_chance(uniform: float) -> None:
    """Of four choices the first and the last are not valid, of two bits one must be 1 and one 0."""
    choices = np.array([[3.0, -2.0, 0.0, 5.0]], np.float32)
    head = Head(CATEGORICAL, np.array([4]), *[np.zeros(0, np.float32)] * 4)
    forbid(head, np.array([[False, True, True, False]]), choices)
    drawn, noise = np.full((1, 1), -1, np.float32), np.full((1, 1), uniform, np.float32)
    sample(head, choices, np.zeros(0, np.float32), noise, drawn)
    assert drawn.item() == (1 if uniform == 0.0 else 2)
    bits, head = np.zeros((1, 2), np.float32), head._replace(kind=BERNOULLI, sizes=np.array([2, 2]))
    forbid(head, np.array([[False, True, True, False]]), bits)
    drawn, noise = np.full((1, 2), -1, np.float32), np.full((1, 2), uniform, np.float32)
    sample(head, bits, np.zeros(0, np.float32), noise, drawn)
    assert drawn.tolist() == [[1, 0]]


@pytest.mark.law("T14")
def test_compiled_loops_draw_what_is_valid_however_sums_were_rounded() -> None:
    """Chances add up to another number in another order: the greatest uniform number may lie beyond them all."""
    logits = np.random.default_rng(0).normal(size=(5000, 128)).astype(np.float32)
    masks = np.arange(128) < np.full((5000, 1), 64)
    head = Head(CATEGORICAL, np.array([128]), *[np.zeros(0, np.float32)] * 4)
    forbid(head, masks, logits)
    noise, drawn = np.full((5000, 1), np.nextafter(np.float32(1), np.float32(0))), np.empty((5000, 1), np.float32)
    sample(head, logits, np.zeros(0, np.float32), noise, drawn)
    assert drawn.max() < 64


def test_the_catalogue_says_which_environments_have_the_method() -> None:
    assert not describe_environment("CartPole-v1").action_masks
    assert not describe_environment("test/Masked-v0").action_masks  # by default they stand in info
    by_method = make_environment(EnvSpec(id="test/Masked-v0", kwargs={"by": "method"}))
    assert masks_method(by_method) is not None


@pytest.mark.parametrize("env_id", KINDS)
def test_a_masked_policy_acts_the_same_in_the_trainer_in_numpy_and_in_onnx(env_id: str, tmp_path: Path) -> None:
    trainer = Trainer(masked(env_id))
    run(trainer)
    trainer.save(tmp_path / "checkpoint")
    trainer.close()
    vectors = json.loads((tmp_path / "checkpoint" / "vectors.json").read_text())
    observations, stored = np.array(vectors["observations"], np.float32), np.array(vectors["action_masks"])
    policy = load_policy(tmp_path / "checkpoint")
    session = onnxruntime.InferenceSession(tmp_path / "checkpoint" / "policy.onnx", providers=["CPUExecutionProvider"])
    draw, sizes = np.random.default_rng(0), policy.manifest.action_space.sizes
    random = np.concatenate([np.eye(size, dtype=bool)[draw.integers(size, size=4)] for size in sizes], axis=1)
    random = random[np.arange(len(observations)) % 4]
    for masks in (stored, random, np.ones_like(random)):
        rows = policy.act(observations, masks)
        (actions,) = session.run(["actions"], {"observations": observations, "action_masks": masks})
        assert (actions == environment_actions(rows, policy.manifest.action_space)).all()
        assert (rows == trainer.act(observations, masks)).all()
        drawn = policy.act(observations, masks, deterministic=False, generator=draw)
        for head, part in enumerate(np.split(masks, np.cumsum(sizes)[:-1], axis=1)):
            assert part[np.arange(len(rows)), rows[:, head]].all()
            assert part[np.arange(len(rows)), drawn[:, head]].all()
    np.testing.assert_array_equal(
        environment_actions(policy.act(observations, stored), policy.manifest.action_space), vectors["actions"]
    )
    assert (policy.manifest.format, policy.manifest.action_masks) == (3, masks.shape[1])
    # Runtimes drop inputs with a default: it has none.
    assert [given.name for given in session.get_inputs()] == ["observations", "action_masks"]
    assert not session.get_overridable_initializers()
    with pytest.raises(ValueError, match="action_masks"):
        session.run(["actions"], {"observations": observations})


def test_the_command_line_evaluates_a_masked_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(masked("test/MaskedMulti-v0"))
    run(trainer, 1)
    trainer.save(tmp_path / "checkpoint")
    for options in ([], ["--stochastic"]):
        assert main([str(tmp_path / "checkpoint"), "--episodes", "5", *options]) == 0
        assert "mean return" in capsys.readouterr().out


def test_the_gradient_of_what_was_never_valid_is_zero() -> None:
    """Choice 2 of Masked-v0 is not valid in state 1, choices 1 and 4 not in state 2."""
    trainer = Trainer(masked("test/Masked-v0", policy={"hidden_sizes": []}, normalize={"observations": False}))
    policy = trainer._components.policy
    observations = torch.eye(4)[1:2].expand(6, 4)
    masks = torch.tensor([[True, True, False, True, True]]).expand(6, 5)
    log_probs, entropies, _ = policy.evaluate_actions(observations, torch.zeros(6, 1, dtype=torch.int64), masks)
    (log_probs + entropies).sum().backward()
    gradient = policy.named_views(policy.gradients)["actor/0/bias"]
    assert gradient[2] == 0.0 and (gradient[[0, 1, 3, 4]] != 0).all()
