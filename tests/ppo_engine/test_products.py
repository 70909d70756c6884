"""Dict and Tuple action spaces: several actions at once, each of its own kind."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from ppo_engine.bundle import load_policy
from ppo_engine.distributions import (
    Bernoulli,
    DiagonalGaussian,
    MultiCategorical,
    Product,
    SquashedGaussian,
    StateDependentGaussian,
)
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.spaces import action_space_of
from ppo_engine.errors import EnvironmentFault
from ppo_engine.evaluate import main
from ppo_engine.presets import resolve
from ppo_engine.spec import EnvSpec, InvalidSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of, state_bytes

DICT, TUPLE = "test/DictAction-v0", "test/TupleAction-v0"
MASKS = {"env": {"kwargs": {"masks": "parts"}, "action_masks": True}, "backend": "torch"}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


PARTS = (MultiCategorical((2, 3)), DiagonalGaussian(2), Bernoulli(2), SquashedGaussian(1))


def test_log_probs_entropies_and_divergences_are_the_sums_of_those_of_the_parts() -> None:
    product = Product(PARTS)
    outputs, other, log_std, now = some(5, 10), some(5, 10, seed=1), some(3, seed=2), some(3, seed=3)
    rows = torch.cat([torch.tensor([[1, 2]] * 5), some(5, 2, seed=4), torch.tensor([[0, 1]] * 5), some(5, 1)], dim=1)
    borders = {"outputs": [5, 2, 2, 1], "columns": [2, 2, 2, 1], "log_std": [0, 2, 0, 1]}
    own = zip(
        PARTS,
        outputs.split(borders["outputs"], 1),
        other.split(borders["outputs"], 1),
        log_std.split(borders["log_std"]),
        now.split(borders["log_std"]),
        rows.split(borders["columns"], 1),
        strict=True,
    )
    expected = [torch.zeros(5, dtype=torch.float64) for _ in range(3)]
    for part, mine, theirs, std, std_now, chosen in own:
        log_probs, entropies = part.log_probs_and_entropies(mine, std, chosen.to(part.dtype))
        for total, term in zip(expected, (log_probs, entropies, part.kl(mine, std, theirs, std_now)), strict=True):
            total += term
    found = (*product.log_probs_and_entropies(outputs, log_std, rows), product.kl(outputs, log_std, other, now))
    # Rows are float32, so that numbers among them are rounded before their density is taken.
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_product_of_choices_and_numbers_integrates_to_one() -> None:
    product = Product((MultiCategorical((3,)), DiagonalGaussian(1), Bernoulli(1)))
    grid = torch.linspace(-10, 10, 2001, dtype=torch.float64).unsqueeze(1)
    outputs, log_std, total = some(1, 5).expand(len(grid), -1), torch.tensor([-0.2], dtype=torch.float64), 0.0
    for choice, bit in itertools.product(range(3), range(2)):
        rows = torch.cat([torch.full_like(grid, choice), grid, torch.full_like(grid, bit)], dim=1)
        part = product.log_probs_and_entropies(outputs, log_std, rows)[0]
        total += float(part.exp().sum() * 20 / 2000)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_log_stds_that_the_network_gives_follow_all_heads() -> None:
    """Means 1 and -1 of two Boxes around a choice of two; log-stds 0.5 and -0.5 come last."""
    product = Product((StateDependentGaussian(1), MultiCategorical((2,)), StateDependentGaussian(1)))
    assert (product.outputs, product.log_stds) == (6, 2)
    outputs = torch.tensor([[1.0, 0.3, 0.9, -1.0, 0.5, -0.5]])
    noise = torch.tensor([[1.0, 0.0, 1.0]])
    sampled = product.sample(outputs, torch.zeros(0), noise)
    assert sampled.tolist()[0] == pytest.approx([1 + np.exp(0.5), 0.0, -1 + np.exp(-0.5)])
    assert product.mode(outputs).tolist()[0] == pytest.approx([1.0, 1.0, -1.0])


def test_masks_of_a_product_are_split_by_the_choices_of_its_parts() -> None:
    product = Product((MultiCategorical((2, 3), has_masks=True), DiagonalGaussian(2), Bernoulli(2, has_masks=True)))
    assert product.masks == 5 + 4
    outputs = some(1, 9).requires_grad_()
    masks = torch.tensor([[1, 0, 0, 1, 0, 0, 1, 1, 1]]).bool()
    masked = product.masked(outputs, masks)
    assert product.mode(masked)[0, [0, 1, 4]].tolist() == [0.0, 1.0, 1.0]
    assert torch.equal(masked[:, 5:7], outputs[:, 5:7])
    log_probs, entropies = product.log_probs_and_entropies(masked, torch.zeros(2), product.mode(masked).double())
    (log_probs + entropies).sum().backward()
    assert outputs.grad is not None and (outputs.grad[0, [0, 1, 2, 3, 4, 7]] == 0).all() and outputs.grad[0, 8] != 0


def test_rows_become_actions_of_the_spaces_own_structure() -> None:
    """Parts in the order of a Dict, by their keys: arm, move, say."""
    space = make_environment(EnvSpec(id=DICT)).action_space
    ours = action_space_of(space)
    assert (ours.columns, ours.outputs, ours.masks) == (2 + 2 + 1 + 2, 2 + 2 + 3 + 5, 4 + 3 + 5)
    rows = np.array([[-5.0, 0.5, 1, 0, 2, 1, 0], [9.0, 0.0, 0, 1, 0, 0, 2]], np.float32)
    first, second = ours.decode_rows(rows)
    assert space.contains(first) and space.contains(second)
    assert first["arm"][0].tolist() == [-2.0, 0.5] and first["arm"][1].tolist() == [1, 0]
    assert first["move"] == 1 and type(first["move"]) is int and first["say"].tolist() == [1, 0]
    assert second["arm"][0].tolist() == [4.0, 0.0] and second["move"] == -1 and second["say"].tolist() == [0, 2]


SPECS: list[tuple[str, dict[str, Any]]] = [
    (DICT, {}),
    (DICT, {"policy": {"squash_output": True, "state_dependent_std": True}}),
    (DICT, MASKS),
    (TUPLE, {"policy": {"state_dependent_std": True}}),
]


@pytest.mark.parametrize(("env_id", "sections"), SPECS)
def test_a_training_cut_in_two_ends_like_one_run_through(env_id: str, sections: Any, tmp_path: Path) -> None:
    spec = spec_of(env_id, **sections, evaluation={"every_timesteps": 512, "n_episodes": 2})
    whole = Trainer(spec)
    run(whole)
    first = Trainer(spec)
    run(first, 5)
    first.save(tmp_path / "half")
    second = Trainer.resume(spec, tmp_path / "half")
    run(second)
    assert second.resumed is not None and second.resumed.kind == "exact"
    ours, theirs = state_bytes(second, tmp_path / "resumed"), state_bytes(whole, tmp_path / "whole")
    for name in ("policy.safetensors", "state.safetensors", "policy.onnx", "vectors.json"):
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize(("env_id", "sections"), SPECS)
def test_a_trained_policy_acts_the_same_in_the_trainer_in_numpy_and_in_onnx(
    env_id: str, sections: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(spec_of(env_id, **sections))
    run(trainer, 3)
    trainer.save(tmp_path / "checkpoint")
    vectors = json.loads((tmp_path / "checkpoint" / "vectors.json").read_text())
    observations = np.array(vectors["observations"], np.float32)
    masks = np.array(vectors["action_masks"]) if "action_masks" in vectors else None
    policy = load_policy(tmp_path / "checkpoint")
    np.testing.assert_allclose(policy.act(observations, masks), trainer.act(observations, masks), rtol=1e-5, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "checkpoint" / "policy.onnx", providers=["CPUExecutionProvider"])
    fed = {"observations": observations} | ({} if masks is None else {"action_masks": masks})
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, fed), strict=True))
    assert names == (
        ["actions/0", "actions/1", "heads"]
        if env_id == TUPLE
        else ["actions/arm/0", "actions/arm/1", "actions/move", "actions/say", "heads"]
    )
    for name in names[:-1]:
        expected = vectors["actions"]
        for key in name.split("/")[1:]:
            expected = expected[int(key)] if isinstance(expected, list) else expected[key]
        np.testing.assert_allclose(outputs[name], np.array(expected), rtol=1e-5, atol=1e-5, err_msg=name)
    for options in ([], ["--stochastic"]):
        assert main([str(tmp_path / "checkpoint"), "--episodes", "3", *options]) == 0
        assert "mean return" in capsys.readouterr().out


def test_each_part_learns_what_is_wanted_of_it() -> None:
    """A part is worth a third of the 20 that an episode may earn; without learning none of the numbers is right."""
    rollouts = {"total_timesteps": 5120, "n_steps": 64, "batch_size": 64, "n_epochs": 10, "gamma": 0.0}
    spec = spec_of(
        TUPLE,
        ppo={**rollouts, "learning_rate": {"kind": "linear", "initial": 5e-3}, "ent_coef": 0.0},
        normalize={"observations": False, "rewards": False},
        evaluation={"every_timesteps": 5120, "n_episodes": 4},
    )
    trainer = Trainer(spec)
    assert np.abs(trainer.act(np.zeros((1, 1), np.float32))[0, 1:]).max() < 0.1
    evaluation = run(trainer)[-1].evaluation
    assert evaluation is not None and evaluation.mean_reward > 19.0


def test_masks_by_part_and_flat_ones_are_the_same(tmp_path: Path) -> None:
    hashes = []
    for masks in ("parts", "flat"):
        trainer = Trainer(spec_of(DICT, env={"kwargs": {"masks": masks}, "action_masks": True}, backend="torch"))
        run(trainer, 3)
        hashes.append(trainer.policy_hash())
    assert hashes[0] == hashes[1]


def test_a_mask_of_a_part_that_does_not_fit_is_named() -> None:
    env = {"kwargs": {"masks": "short part"}, "action_masks": True}
    with pytest.raises(EnvironmentFault, match="action mask of 'move' has 2 entries, not 3"):
        Trainer(spec_of(DICT, env=env, backend="torch"))


@pytest.mark.parametrize(
    ("policy", "pointer"),
    [({"use_sde": True}, "/policy/use_sde"), ({}, None), ({"state_dependent_std": True, "squash_output": True}, None)],
)
def test_gsde_needs_a_box_of_its_own(policy: dict[str, bool], pointer: str | None) -> None:
    spec = spec_of(DICT, policy=policy)
    if pointer is None:
        assert resolve(spec, describe_environment(DICT)).backend == "torch"
        return
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec, describe_environment(DICT))
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


def test_compiled_loops_do_not_know_products() -> None:
    with pytest.raises(InvalidSpec, match="/backend: the fused backend does not know Dict and Tuple actions"):
        Trainer(spec_of(DICT, backend="fused"))


def test_the_catalogue_describes_products() -> None:
    described = describe_environment(DICT)
    assert described.supported and described.action_size == 12
    assert list(described.action_space["spaces"]) == ["arm", "move", "say"]
    assert not describe_environment("test/TextAction-v0").supported
