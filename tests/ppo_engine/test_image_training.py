"""Laws of training on images: bytes from the environment to the network, exact resumes, bundles that say the same."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from ppo_engine.actions import environment_actions
from ppo_engine.bundle import load_policy
from ppo_engine.components import Components, build
from ppo_engine.envs.halves import halves_of
from ppo_engine.errors import EnvironmentFailed
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.schedules import coefficients
from ppo_engine.spec import InvalidSpec, TrainingSpec
from ppo_engine.trainer import Trainer
from ppo_engine.update import Learner
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of, state_bytes, timeless

IMAGE, DICT = "test/ProbeImage-v0", "test/ProbeImageDict-v0"
SMALL: dict[str, Any] = {"total_timesteps": 192, "n_steps": 16, "batch_size": 32, "n_epochs": 2}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def small(env_id: str, **sections: Any) -> TrainingSpec:
    return spec_of(env_id, **{"ppo": SMALL, "policy": {"hidden_sizes": []}, **sections})


def collected(spec: TrainingSpec) -> tuple[Components, Rollout]:
    parts = build(spec, 1)
    collector = parts.backend.collector
    assert isinstance(collector, Collector)
    collector.last_observations = parts.environment.reset()
    return parts, collector.collect()


def test_an_image_environment_that_cannot_be_made_fails_as_any_other() -> None:
    """The network is `auto`, so that its observations are looked at before the vector of environments is made."""
    with pytest.raises(EnvironmentFailed, match=f"{IMAGE}, environment 0, episode 0, step 0: raised"):
        Trainer(small(IMAGE, env={"kwargs": {"channels": -1}}))


def test_observations_without_numbers_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="hold no numbers"):
        Trainer(small(IMAGE, env={"kwargs": {"channels": 0}}, policy={"hidden_sizes": [4]}))


def test_images_stay_bytes_from_the_environment_to_the_minibatch() -> None:
    """Raw rows and those that the policy saw are the same memory; a minibatch has bytes, too."""
    spec = small(IMAGE, policy={"network": "cnn"}, normalize={"observations": True})
    parts, rollout = collected(spec)
    assert parts.statistics.normalizer is None
    assert rollout.observations.dtype == torch.uint8 and rollout.raw_observations.dtype == np.uint8
    assert np.shares_memory(rollout.observations.numpy(), rollout.raw_observations)
    assert rollout.observations.shape == (16, 4, 36 * 36 * 3)
    learner, seen = parts.backend.learner, []
    assert isinstance(learner, Learner)
    original = parts.policy.extractor.forward
    parts.policy.extractor.forward = lambda rows: (seen.append(rows.dtype), original(rows))[1]  # type: ignore[method-assign]
    learner.learn(rollout, rollout.rewards, coefficients(spec.ppo, 0.0))  # type: ignore[arg-type]
    assert set(seen) == {torch.uint8} and len(seen) == 4


def test_statistics_are_of_the_numbers_beside_an_image_and_leave_its_pixels_alone() -> None:
    """aim [2] is about 50 and is normalised; the camera's 1,296 bytes and the bit, one-hot [2], stay as they are."""
    spec = small(DICT, policy={"network": "cnn"}, normalize={"observations": True, "clip_observations": 3.0})
    parts, rollout = collected(spec)
    normalizer = parts.statistics.normalizer
    assert normalizer is not None and rollout.observations.dtype == torch.float32
    parts.statistics.after_learning(rollout)
    rows = rollout.raw_observations.reshape(-1, 1300)
    assert normalizer.moments.mean == pytest.approx([*rows[:, :2].mean(0), 0.0, 0.0])
    seen = normalizer.normalize(rows)
    assert seen[:, 2:].tolist() == rows[:, 2:].tolist() and rows[:, 2:1298].max() > 200
    exact = (rows[:, :2] - rows[:, :2].mean(0, dtype=np.float64)) / rows[:, :2].std(0, dtype=np.float64)
    assert seen[:, :2] == pytest.approx(np.clip(exact, -3.0, 3.0), abs=1e-4)


@pytest.mark.parametrize("network", ["cnn", "impala"])
@pytest.mark.parametrize("env_id", [IMAGE, DICT])
def test_what_has_not_learned_yet_gives_its_actions_the_very_probability_they_were_drawn_with(
    env_id: str, network: str
) -> None:
    """In batches of the same shape, which are halves: the ratio of every row of the first minibatch is exactly 1."""
    policy_spec = {"network": network, "activation": "relu", "hidden_sizes": [], "layer_norm": True}
    parts, rollout = collected(small(env_id, policy=policy_spec, normalize={"observations": True}))
    for t, half in itertools.product(range(16), halves_of(4)):
        seen, chosen = rollout.observations[t, half], rollout.actions[t, half]
        log_probs, _, values = parts.policy.evaluate_actions(seen, chosen)
        assert torch.equal(log_probs, rollout.log_probs[t, half]) and torch.equal(values, rollout.values[t, half])


@pytest.mark.parametrize(
    ("env_id", "policy", "vectorization"),
    [
        (IMAGE, {"network": "cnn", "activation": "relu"}, "sync"),
        (IMAGE, {"network": "impala", "layer_norm": True, "autocast": "bf16"}, "process"),
        (DICT, {"network": "cnn", "activation": "silu", "hidden_sizes": [8], "share_features": True}, "sync"),
        (IMAGE, {"network": "mlp", "activation": "elu"}, "sync"),
    ],
)
def test_a_training_on_images_cut_in_two_ends_like_one_run_through(
    env_id: str, policy: dict[str, Any], vectorization: str, tmp_path: Path
) -> None:
    env = {"n_envs": 3, "vectorization": vectorization}
    spec = small(env_id, policy=policy, env=env, ppo={**SMALL, "batch_size": 20}, evaluation={"every_timesteps": 96})
    whole, first = Trainer(spec), Trainer(spec)
    expected, reported = timeless(run(whole)), timeless(run(first, 2))
    first.save(tmp_path / "half")
    second = Trainer.resume(spec, tmp_path / "half")
    reported += timeless(run(second))
    assert second.resumed is not None and second.resumed.kind == "exact"
    assert reported == expected
    ours, theirs = state_bytes(second, tmp_path / "resumed"), state_bytes(whole, tmp_path / "whole")
    for name in ("policy.safetensors", "state.safetensors", "policy.onnx", "vectors.json"):
        assert ours[name] == theirs[name]
    for trainer in (whole, first, second):
        trainer.close()


def test_processes_hand_over_the_bytes_that_stepping_here_gives() -> None:
    spec = small(IMAGE, policy={"network": "cnn"})
    here, there = (
        collected(spec.model_copy(update={"env": spec.env.model_copy(update={"vectorization": kind})}))
        for kind in ("sync", "process")
    )
    for parts, rollout in (here, there):
        assert parts.environment.step(rollout.actions[0].numpy()).observations.dtype == np.uint8
    assert torch.equal(here[1].observations, there[1].observations)
    assert torch.equal(here[1].log_probs, there[1].log_probs)
    for parts, _ in (here, there):
        parts.environment.close()


def test_compiled_loops_are_refused_where_the_environment_settles_on_convolutions() -> None:
    with pytest.raises(InvalidSpec) as refused:
        Trainer(small(IMAGE, env={"kwargs": {"channels": 1}}, backend="fused"))
    assert [fault.pointer for fault in refused.value.faults] == ["/backend"]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("backend", "activation"), [("torch", "tanh"), ("fused", "tanh"), ("torch", "gelu")])
def test_an_mlp_takes_the_bytes_of_an_image_as_numbers(backend: str, activation: str, normalized: bool) -> None:
    policy = {"network": "mlp", "activation": activation, "hidden_sizes": [8]}
    trainer = Trainer(small(IMAGE, policy=policy, backend=backend, normalize={"observations": normalized}))
    run(trainer, 1)
    rows = trainer.state().arrays["observations"]
    assert trainer.act(rows).tolist() == trainer.act(rows.astype(np.float32)).tolist()
    trainer.close()


def vectors_of(directory: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    vectors = json.loads((directory / "vectors.json").read_text())
    dtype = json.loads((directory / "policy.json").read_text()).get("observation_dtype", "float32")
    return np.array(vectors["observations"], dtype), np.array(vectors["heads"]), np.array(vectors["actions"])


@pytest.mark.parametrize(
    ("env_id", "policy", "bytes_alone"),
    [
        (IMAGE, {"network": "cnn", "activation": "relu", "hidden_sizes": []}, True),
        (IMAGE, {"network": "impala", "activation": "silu", "layer_norm": True, "hidden_sizes": [5]}, True),
        (IMAGE, {"network": "cnn", "activation": "tanh", "autocast": "bf16", "hidden_sizes": []}, True),
        (DICT, {"network": "cnn", "activation": "gelu", "hidden_sizes": [6, 5]}, False),
        (DICT, {"network": "impala", "activation": "elu", "layer_norm": True, "share_features": True}, False),
        (DICT, {"network": "mlp", "activation": "leaky_relu", "layer_norm": True}, False),
    ],
)
def test_torch_numpy_and_onnx_give_the_test_vectors(
    env_id: str, policy: dict[str, Any], bytes_alone: bool, tmp_path: Path
) -> None:
    trainer = Trainer(small(env_id, policy=policy, normalize={"observations": True}))
    run(trainer, 2)
    trainer.save(tmp_path / "checkpoint")
    trainer.close()
    rows, heads, actions = vectors_of(tmp_path / "checkpoint")
    assert rows.dtype == (np.uint8 if bytes_alone else np.float32)
    loaded = load_policy(tmp_path / "checkpoint")
    session = onnxruntime.InferenceSession(tmp_path / "checkpoint" / "policy.onnx", providers=["CPUExecutionProvider"])
    exported = dict(zip(("actions", "heads"), session.run(["actions", "heads"], {"observations": rows}), strict=True))
    parts = trainer._components
    seen = torch.tensor(parts._normalized(rows))
    outputs, _ = parts.policy.readout(parts.policy.extractor.in_float32(seen))
    for given in (outputs.detach().numpy(), loaded.heads(rows), exported["heads"]):
        np.testing.assert_allclose(given, heads, rtol=1e-4, atol=1e-5)
    for chosen in (loaded.act(rows), trainer.act(rows)):
        assert environment_actions(chosen, loaded.manifest.action_space).tolist() == actions.tolist()
    assert exported["actions"].tolist() == actions.tolist()
    assert loaded.manifest.format == 2 and loaded.manifest.activation == policy["activation"]


def test_a_plain_policy_is_written_as_the_first_format_knows_it(tmp_path: Path) -> None:
    trainer = Trainer(spec_of("CartPole-v1"))
    run(trainer, 1)
    trainer.save(tmp_path / "checkpoint")
    manifest = json.loads((tmp_path / "checkpoint" / "policy.json").read_text())
    assert manifest["format"] == 1
    assert not {"images", "observation_dtype"} & manifest.keys()
    assert all(layer.keys() == {"weight", "bias"} for layer in manifest["layers"])


def test_test_vectors_of_images_are_few(tmp_path: Path) -> None:
    """4 environments give 4 of 36 · 36 · 3 numbers each; with 64 channels, 82,944 numbers, one is more than 2¹⁶."""
    for channels, count in ((3, 4), (64, 1)):
        trainer = Trainer(small(IMAGE, env={"kwargs": {"channels": channels}}, policy={"network": "cnn"}))
        trainer.save(tmp_path / str(channels))
        assert len(vectors_of(tmp_path / str(channels))[0]) == count


@pytest.mark.parametrize(
    ("env_id", "kwargs", "policy", "steps"),
    [
        (IMAGE, {"channels": 1, "channels_first": True}, {"network": "cnn", "hidden_sizes": []}, 3072),
        (DICT, {}, {"network": "cnn", "hidden_sizes": [64]}, 8192),
    ],
)
def test_what_stands_in_a_picture_is_learned(
    env_id: str, kwargs: dict[str, Any], policy: dict[str, Any], steps: int
) -> None:
    """The bright quadrant, or its opposite, is the right action: 5 a game, where chance gets 1.25."""
    ppo = {"total_timesteps": steps, "n_steps": 32, "batch_size": 64, "n_epochs": 4, "learning_rate": 1e-3}
    env, evaluation = {"n_envs": 8, "kwargs": kwargs}, {"every_timesteps": steps}
    spec = spec_of(env_id, env=env, policy={"activation": "relu", **policy}, ppo=ppo, evaluation=evaluation)
    trainer = Trainer(spec)
    [*_, last] = run(trainer)
    trainer.close()
    assert last.evaluation is not None and last.evaluation.mean_reward > 4.5
