"""Laws of the policy bundle: manifest, NumPy reader, ONNX graph and test vectors say the same thing."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ppo_engine.actions import ActionManifest, environment_actions
from ppo_engine.bundle import (
    EnvironmentManifest,
    LayerManifest,
    NormalizerManifest,
    PolicyManifest,
    load_policy,
)
from ppo_engine.errors import CheckpointCorrupt
from ppo_engine.export import BUNDLE_FILES, Example, environment_manifest, spec_sha256, write_bundle
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of

SPACES = {
    "discrete": ActionManifest(kind="discrete", sizes=(3,), shape=(), dtype="int64", start=(-1,)),
    "multi_discrete": ActionManifest(kind="multi_discrete", sizes=(2, 4, 3), shape=(3,), dtype="int64"),
    "multi_binary": ActionManifest(kind="multi_binary", sizes=(2, 2, 2, 2), shape=(2, 2), dtype="int8"),
    "box": ActionManifest(
        kind="box", sizes=(4,), shape=(2, 2), dtype="float32", low=(-0.1, -0.2, None, -0.3), high=(0.1, 0.2, 0.3, None)
    ),
    "squashed": ActionManifest(
        kind="box", sizes=(4,), shape=(4,), dtype="float32", low=(-3.0, 0.0, -0.1, 0.1), high=(1.0, 10.0, 0.1, 0.7)
    ),
    "squashed_integers": ActionManifest(
        kind="box", sizes=(2,), shape=(2,), dtype="int32", low=(-2.0, 0.0), high=(2.0, 9.0)
    ),
}
NORMALIZER = NormalizerManifest(
    mean="normalizer/observations/mean", variance="normalizer/observations/variance", epsilon=1e-8, clip=2.0
)


def write_policy(
    directory: Path, space: ActionManifest, *, activation: str = "tanh", normalizer: NormalizerManifest | None = None
) -> tuple[PolicyManifest, NDArray[np.float32]]:
    """Random weights of a 5→6→7→outputs actor, and observations of many scales for it."""
    generator = np.random.default_rng(3)
    widths = (5, 6, 7, len(space.sizes) if space.kind == "multi_binary" else sum(space.sizes))
    tensors: dict[str, NDArray[Any]] = {"policy/log_std": np.full(widths[-1], -1.0, dtype=np.float32)}
    layers = []
    for depth, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(LayerManifest(weight=f"policy/actor/{depth}/weight", bias=f"policy/actor/{depth}/bias"))
        tensors[layers[-1].weight] = generator.normal(size=(fan_out, fan_in)).astype(np.float32)
        tensors[layers[-1].bias] = generator.normal(size=fan_out).astype(np.float32)
    scale = np.array([1.0, 1e3, 1e-2, 1.0, 10.0])
    if normalizer is not None:
        tensors[normalizer.mean] = scale * 3.0
        tensors[normalizer.variance] = scale**2
    else:
        scale = np.ones(5)
    save_file(tensors, directory / "policy.safetensors")
    manifest = PolicyManifest.model_validate(
        {
            "env": EnvironmentManifest(id="Foo-v0"),
            "spec_sha256": "0" * 64,
            "observation_size": 5,
            "observation_space": {"type": "Box", "shape": [5]},
            "action_space": space,
            "normalizer": normalizer,
            "activation": activation,
            "layers": tuple(layers),
            "log_std": "policy/log_std" if space.kind == "box" else None,
        }
    )
    manifest = manifest.model_copy(update={"squash_output": space in (SPACES["squashed"], SPACES["squashed_integers"])})
    (directory / "policy.json").write_text(manifest.model_dump_json())
    observations = (scale * 3.0 + scale * 2.0 * generator.normal(size=(64, 5))).astype(np.float32)
    return manifest, observations


def write_whole_bundle(directory: Path, space: ActionManifest, **options: Any) -> NDArray[np.float32]:
    manifest, observations = write_policy(directory, space, **options)
    actions = load_policy(directory).act(observations)
    write_bundle(directory, manifest, examples=[Example(observations, actions)])
    return observations


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("normalizer", [None, NORMALIZER], ids=["raw", "normalized"])
@pytest.mark.parametrize("kind", sorted(SPACES))
def test_onnx_runtime_and_numpy_agree(
    tmp_path: Path, kind: str, normalizer: NormalizerManifest | None, activation: str
) -> None:
    observations = write_whole_bundle(tmp_path, SPACES[kind], activation=activation, normalizer=normalizer)
    policy = load_policy(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    actions, heads = session.run(["actions", "heads"], {"observations": observations})
    np.testing.assert_allclose(heads, policy.heads(observations), rtol=1e-5, atol=1e-5)
    expected = environment_actions(policy.act(observations), policy.manifest.action_space)
    assert actions.shape == expected.shape == (64, *SPACES[kind].shape)
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(SPACES))
def test_onnx_takes_any_number_of_observations(tmp_path: Path, kind: str) -> None:
    observations = write_whole_bundle(tmp_path, SPACES[kind])
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    [one] = session.run(["actions"], {"observations": observations[:1]})
    [all_of_them] = session.run(["actions"], {"observations": observations})
    np.testing.assert_allclose(one[0], all_of_them[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(SPACES))
def test_the_vectors_replay_from_the_files_alone(tmp_path: Path, kind: str) -> None:
    observations = write_whole_bundle(tmp_path, SPACES[kind], normalizer=NORMALIZER)
    policy = load_policy(tmp_path)
    vectors = json.loads((tmp_path / "vectors.json").read_text())
    stored = np.array(vectors["observations"], dtype=np.float32)
    assert np.array_equal(stored, observations)  # float32 survives JSON exactly
    actions = environment_actions(policy.act(stored), policy.manifest.action_space)
    np.testing.assert_allclose(np.array(vectors["actions"]), actions)


def test_a_bundle_is_written_to_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_whole_bundle(tmp_path / name, SPACES["box"], normalizer=NORMALIZER)
    for name in BUNDLE_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_policy_that_acts_otherwise_than_its_files_is_refused(tmp_path: Path) -> None:
    manifest, observations = write_policy(tmp_path, SPACES["discrete"])
    wrong = (load_policy(tmp_path).act(observations) + 1) % 3
    with pytest.raises(CheckpointCorrupt, match="acts otherwise"):
        write_bundle(tmp_path, manifest, examples=[Example(observations, wrong)])
    assert not (tmp_path / "policy.onnx").exists()


def test_a_two_layer_policy_by_hand(tmp_path: Path) -> None:
    # x = clip((obs - [1, 0]) / sqrt([4, 1]), ±2); hidden = relu(x0 - x1); heads = [hidden + 1, 1 - hidden]
    save_file(
        {
            "w0": np.array([[1.0, -1.0]], dtype=np.float32),
            "b0": np.zeros(1, dtype=np.float32),
            "w1": np.array([[1.0], [-1.0]], dtype=np.float32),
            "b1": np.ones(2, dtype=np.float32),
            "m": np.array([1.0, 0.0]),
            "v": np.array([4.0, 1.0]),
        },
        tmp_path / "policy.safetensors",
    )
    manifest = {
        "format": 1,
        "env": {"id": "Foo-v0"},
        "spec_sha256": "",
        "observation_size": 2,
        "observation_space": {},
        "action_space": {"kind": "discrete", "sizes": [2], "shape": [], "dtype": "int64", "start": [5]},
        "normalizer": {"mean": "m", "variance": "v", "epsilon": 0.0, "clip": 2.0},
        "activation": "relu",
        "layers": [{"weight": "w0", "bias": "b0"}, {"weight": "w1", "bias": "b1"}],
    }
    (tmp_path / "policy.json").write_text(json.dumps(manifest))
    policy = load_policy(tmp_path)
    observations = np.array([[2.0, -0.25], [1.0, 0.5], [99.0, 0.0]], dtype=np.float32)
    # row 0: x = (0.5, -0.25), hidden 0.75; row 1: x = (0, 0.5), hidden 0; row 2: x0 = 49 is clipped to 2, hidden 2
    assert policy.heads(observations).tolist() == [[1.75, 0.25], [1.0, 1.0], [3.0, -1.0]]
    assert policy.act(observations).tolist() == [[0], [0], [0]]
    assert environment_actions(policy.act(observations), policy.manifest.action_space).tolist() == [5, 5, 5]


def test_box_actions_are_clipped_to_finite_bounds_only(tmp_path: Path) -> None:
    rows = np.array([[9.0, -9.0, -9.0, 9.0]], dtype=np.float32)
    # low (-0.1, -0.2, -inf, -0.3), high (0.1, 0.2, 0.3, inf)
    np.testing.assert_allclose(environment_actions(rows, SPACES["box"]), [[[0.1, -0.2], [-9.0, 9.0]]], rtol=1e-6)


def test_samples_follow_the_distribution_of_the_heads(tmp_path: Path) -> None:
    _, observations = write_policy(tmp_path, SPACES["discrete"])
    policy = load_policy(tmp_path)
    one = np.repeat(observations[:1], 20_000, axis=0)
    sampled = policy.act(one, deterministic=False, generator=np.random.default_rng(0))
    logits = policy.heads(observations[:1])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    frequencies = np.bincount(np.asarray(sampled)[:, 0], minlength=3) / 20_000
    # three standard deviations of a frequency are at most 3 * sqrt(0.25 / 20000) = 0.0106
    np.testing.assert_allclose(frequencies, expected, atol=0.0106)


def test_squashed_actions_are_the_scaled_tanh_of_the_heads_and_of_samples_around_them(tmp_path: Path) -> None:
    """Bounds -3 to 1 and 0 to 10, the other two around 0 and 0.4; σ = exp(-1), so atanh of the rows spreads by that."""
    _, observations = write_policy(tmp_path, SPACES["squashed"])
    policy = load_policy(tmp_path)
    centre, reach = np.array([-1, 5, 0, 0.4]), np.array([2, 5, 0.1, 0.3])
    heads = policy.heads(observations)
    np.testing.assert_allclose(policy.act(observations), centre + reach * np.tanh(heads), rtol=1e-5, atol=1e-6)
    calmest = observations[np.abs(heads).max(1).argmin()][None]
    samples = policy.act(np.repeat(calmest, 5000, 0), deterministic=False, generator=np.random.default_rng(0))
    assert (samples >= SPACES["squashed"].low).all() and (samples <= SPACES["squashed"].high).all()
    unsquashed = np.arctanh((samples.astype(np.float64) - centre) / reach)
    # three standard errors of a mean and of a deviation are at most 3 · 0.368/√5000 = 0.016
    np.testing.assert_allclose(unsquashed.mean(0), policy.heads(calmest)[0], atol=0.016)
    np.testing.assert_allclose(unsquashed.std(0), math.exp(-1), atol=0.016)


def test_a_bundle_that_squashes_actions_without_bounds_is_refused(tmp_path: Path) -> None:
    manifest, _ = write_policy(tmp_path, SPACES["box"])
    (tmp_path / "policy.json").write_text(manifest.model_copy(update={"squash_output": True}).model_dump_json())
    with pytest.raises(ValueError, match="no finite bounds"):
        load_policy(tmp_path)


def test_a_squashing_policy_that_acts_otherwise_than_its_files_is_refused(tmp_path: Path) -> None:
    manifest, observations = write_policy(tmp_path, SPACES["squashed"])
    heads = load_policy(tmp_path).heads(observations)
    with pytest.raises(CheckpointCorrupt, match="acts otherwise"):
        write_bundle(tmp_path, manifest, examples=[Example(observations, heads)])


def test_sampling_without_a_generator_is_refused(tmp_path: Path) -> None:
    _, observations = write_policy(tmp_path, SPACES["box"])
    with pytest.raises(ValueError, match="generator"):
        load_policy(tmp_path).act(observations, deterministic=False)


def test_a_bundle_that_lacks_a_tensor_names_it(tmp_path: Path) -> None:
    manifest, _ = write_policy(tmp_path, SPACES["box"])
    (tmp_path / "policy.json").write_text(manifest.model_copy(update={"log_std": "policy/gone"}).model_dump_json())
    with pytest.raises(ValueError, match="policy/gone"):
        load_policy(tmp_path)


def test_a_truncated_bundle_says_that_it_is_damaged(tmp_path: Path) -> None:
    write_whole_bundle(tmp_path, SPACES["discrete"])
    whole = (tmp_path / "policy.safetensors").read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "policy.safetensors").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"policy\.safetensors is damaged"):
            load_policy(tmp_path)


def test_a_bundle_of_a_later_format_is_refused(tmp_path: Path) -> None:
    manifest, _ = write_policy(tmp_path, SPACES["box"])
    (tmp_path / "policy.json").write_text(manifest.model_dump_json().replace('"format":1', '"format":4'))
    with pytest.raises(ValueError, match="format"):
        load_policy(tmp_path)


def test_reading_a_bundle_needs_neither_torch_nor_gymnasium_nor_onnx(tmp_path: Path) -> None:
    write_whole_bundle(tmp_path, SPACES["box"])
    probe = (
        "import sys, pathlib; from ppo_engine.bundle import load_policy; load_policy(pathlib.Path(sys.argv[1]));"
        "print([m for m in ('torch', 'gymnasium', 'onnx') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", probe, tmp_path], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_spec_hash_counts_what_trains_and_not_how_it_is_labelled() -> None:
    def named(**fields: Any) -> str:
        return spec_sha256(resolve(TrainingSpec.model_validate({"env": {"id": "CartPole-v1"}, "seed": 1, **fields})))

    assert named() == named(name="x", metadata={"a": "b"}, checkpoints={"keep_last": 9}, max_attempts=9)
    assert len({named(), named(seed=2), named(ppo={"gamma": 0.5}), named(policy={"hidden_sizes": [8]})}) == 4


def test_the_spec_hash_counts_a_younger_field_only_where_it_is_not_its_default() -> None:
    def named(**policy: Any) -> str:
        return spec_sha256(TrainingSpec.model_validate({"env": {"id": "Pendulum-v1"}, "seed": 1, "policy": policy}))

    assert named() == named(squash_output=False) != named(squash_output=True)


def test_the_manifest_keeps_what_rebuilds_the_environment() -> None:
    spec = TrainingSpec.model_validate({"env": {"id": "Foo-v0", "kwargs": {"x": 1}, "max_episode_steps": 9}})
    assert environment_manifest(spec) == EnvironmentManifest(id="Foo-v0", kwargs={"x": 1}, max_episode_steps=9)


@pytest.mark.parametrize(
    ("env_id", "policy_spec"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"squash_output": True}),
        ("Pendulum-v1", {"use_sde": True, "log_std_init": -1.0}),
        ("Pendulum-v1", {"state_dependent_std": True, "squash_output": True}),
        ("test/MatrixAction-v0", {}),
        ("test/MultiBinaryAction-v0", {}),
        ("test/OffsetAction-v0", {}),
        ("test/MatrixBoxAction-v0", {}),
        ("test/AsymmetricAction-v0", {}),
        ("test/AsymmetricAction-v0", {"squash_output": True}),
        ("test/DictObservation-v0", {}),
    ],
)
def test_a_trained_policy_acts_the_same_in_the_trainer_in_numpy_and_in_onnx(
    env_id: str, policy_spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    ppo = {"total_timesteps": 64, "n_steps": 16, "batch_size": 32, "n_epochs": 2}
    env = {"id": env_id, "n_envs": 4}
    body = {"preset": "default", "env": env, "policy": policy_spec, "ppo": ppo, "seed": 2}
    trainer = Trainer(TrainingSpec.model_validate(body))
    list(trainer.iterations())
    trainer.save(tmp_path / "checkpoint")
    trainer.close()
    vectors = json.loads((tmp_path / "checkpoint" / "vectors.json").read_text())
    observations = np.array(vectors["observations"], dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "checkpoint" / "policy.onnx", providers=["CPUExecutionProvider"])
    actions, heads = session.run(["actions", "heads"], {"observations": observations})
    policy = load_policy(tmp_path / "checkpoint")
    np.testing.assert_allclose(heads, policy.heads(observations), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actions, np.array(vectors["actions"]), rtol=1e-5, atol=1e-5)
    rows = trainer.act(observations)
    expected = environment_actions(rows, policy.manifest.action_space)
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


def test_a_training_and_its_bundle_normalize_with_the_epsilon_of_the_spec(tmp_path: Path) -> None:
    trainer = Trainer(spec_of("Pendulum-v1", normalize={"observations": True, "epsilon": 4.0}))
    run(trainer, 2)
    collector = trainer._components.backend.collector
    raw, moments = collector.last_observations, collector.normalizer.moments
    expected = (raw - moments.mean) / np.sqrt(moments.variance + 4.0)
    np.testing.assert_allclose(trainer._components._normalized(raw), expected, rtol=1e-5, atol=1e-6)
    trainer.save(tmp_path / "checkpoint")
    policy = load_policy(tmp_path / "checkpoint")
    assert policy.manifest.normalizer is not None
    assert policy.manifest.normalizer.epsilon == 4.0
    np.testing.assert_allclose(policy.act(raw), trainer.act(raw), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy_spec", [{"use_sde": True, "log_std_init": -1.0}, {"state_dependent_std": True}, {}])
def test_a_bundle_draws_its_samples_with_the_deviations_of_the_trained_policy(
    policy_spec: dict[str, Any], tmp_path: Path
) -> None:
    trainer = Trainer(spec_of("Pendulum-v1", policy=policy_spec))
    run(trainer, 3)
    trainer.save(tmp_path / "checkpoint")
    observations = trainer._components.backend.collector.last_observations
    policy, loaded = trainer._components.policy, load_policy(tmp_path / "checkpoint")
    outputs, _ = policy(torch.from_numpy(trainer._components._normalized(observations)))
    _, log_stds = policy.distribution.moments(outputs, policy.log_std)
    expected = log_stds.detach().expand(4, 1).numpy()
    np.testing.assert_allclose(loaded.log_stds(observations), expected, rtol=1e-4, atol=1e-5)
    one = np.repeat(observations[:1], 20_000, axis=0)
    samples = loaded.act(one, deterministic=False, generator=np.random.default_rng(0))
    # three standard errors of a deviation are 3 σ/√40000 = 0.015 σ
    assert samples.std() == pytest.approx(math.exp(expected[0, 0]), rel=0.015)
