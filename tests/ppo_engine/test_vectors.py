"""The vectors of a bundle fail a runtime that leaves out masks, memory or normalisation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppo_engine.actions import environment_actions
from ppo_engine.bundle import LoadedPolicy, load_policy
from ppo_engine.envs.registry import registered_environments
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of

MASKED: dict[str, Any] = {"env": {"action_masks": True}, "normalize": {"observations": False}}
GRU: dict[str, Any] = {"policy": {"memory": "gru", "memory_size": 8}}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)
    registered_environments()


def replays(policy: LoadedPolicy, directory: Path, *, leave_out: str | None = None) -> bool:
    """Whether the actions in `vectors.json` follow from its inputs, as a runtime would check that."""
    document = json.loads((directory / "vectors.json").read_text())
    state, follows = None, True
    for step in document.get("steps", [document]):
        rows = np.array(step["observations"], np.float32)
        state = np.zeros((len(rows), policy.state_size), np.float32) if state is None else state
        masks = None if leave_out == "masks" or "action_masks" not in step else np.array(step["action_masks"])
        actions, after = policy.step(rows, state, masks)
        state = state if leave_out == "state" else after
        expected = np.array(step["actions"])
        follows &= np.allclose(environment_actions(actions, policy.manifest.action_space), expected, atol=1e-4)
    return follows


@pytest.mark.parametrize(
    ("env_id", "sections", "leave_out"),
    [
        ("test/Masked-v0", MASKED, "masks"),
        ("test/MaskedMulti-v0", MASKED, "masks"),
        ("test/MaskedBits-v0", MASKED, "masks"),
        ("test/Masked-v0", {**MASKED, **GRU}, "masks"),
        ("CartPole-v1", GRU, "state"),
        ("Pendulum-v1", {"policy": {"memory": "lstm", "memory_size": 8}}, "state"),
        ("CartPole-v1", {}, "normalizer"),
        ("Pendulum-v1", {}, "normalizer"),
        ("CartPole-v1", GRU, "normalizer"),
    ],
)
def test_vectors_fail_whoever_leaves_something_out(
    env_id: str, sections: dict[str, Any], leave_out: str, tmp_path: Path
) -> None:
    """Even after a single iteration, when a policy hardly prefers anything."""
    trainer = Trainer(spec_of(env_id, **sections))
    run(trainer, 1)
    trainer.save(tmp_path)
    policy = load_policy(tmp_path)
    assert replays(policy, tmp_path)
    if leave_out == "normalizer":
        raw = policy.manifest.model_copy(update={"normalizer": None})
        assert not replays(LoadedPolicy(raw, policy.tensors), tmp_path)
    else:
        assert not replays(policy, tmp_path, leave_out=leave_out)


def test_vectors_are_few_and_every_choice_of_theirs_is_valid(tmp_path: Path) -> None:
    trainer = Trainer(spec_of("test/MaskedMulti-v0", **MASKED))
    trainer.save(tmp_path)
    vectors = json.loads((tmp_path / "vectors.json").read_text())
    masks = np.array(vectors["action_masks"])
    assert 4 <= len(masks) <= 16
    sizes = load_policy(tmp_path).manifest.action_space.sizes
    for part in np.split(masks, np.cumsum(sizes)[:-1], axis=1):
        assert part.any(axis=1).all()
