"""Whole trainings on device-resident environments: on the CPU everywhere, and on a GPU where there is one."""

from pathlib import Path

import pytest
import torch

from ppo_engine.errors import CheckpointMismatch
from ppo_engine.spec import InvalidSpec
from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of, state_bytes, timeless

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_training_cut_in_two_ends_like_one_run_through(env_id: str, device: str, tmp_path: Path) -> None:
    spec = spec_of(env_id, env={"vectorization": "device", "max_episode_steps": 50}, device=device)
    whole = Trainer(spec)
    expected = timeless(run(whole))
    first = Trainer(spec)
    reported = timeless(run(first, 4))
    first.save(tmp_path / "cut")
    second = Trainer.resume(spec, tmp_path / "cut")
    reported += timeless(run(second))
    assert second.resumed is not None and second.resumed.kind == "exact"
    assert reported == expected
    assert state_bytes(second, tmp_path / "second") == state_bytes(whole, tmp_path / "whole")


def test_the_runtime_tells_where_the_environments_live() -> None:
    runtime = Trainer(spec_of(env={"vectorization": "device"})).runtime
    assert (runtime["vectorization"], runtime["backend"], runtime["device"]) == ("device", "torch", "cpu")
    assert runtime["backend_reason"] == 'the fused backend does not know env.vectorization = "device"'


def test_the_fused_backend_is_refused_for_them() -> None:
    with pytest.raises(InvalidSpec, match="/backend: the fused backend does not know"):
        Trainer(spec_of(env={"vectorization": "device"}, backend="fused"))


def test_an_environment_without_that_form_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="/env/vectorization: LunarLander-v3 has no device form"):
        Trainer(spec_of("LunarLander-v3", env={"vectorization": "device"}))


def test_a_checkpoint_of_the_device_is_of_another_training_than_one_of_the_host(tmp_path: Path) -> None:
    trainer = Trainer(spec_of(env={"vectorization": "device"}))
    run(trainer, 1)
    trainer.save(tmp_path)
    with pytest.raises(CheckpointMismatch, match="env was"):
        Trainer.resume(spec_of(backend="torch"), tmp_path)


def test_evaluation_is_gymnasiums_own_environment_and_moves_nothing() -> None:
    with_it = spec_of(env={"vectorization": "device"}, evaluation={"every_timesteps": 256, "n_episodes": 2})
    plain, evaluated = Trainer(spec_of(env={"vectorization": "device"})), Trainer(with_it)
    run(plain)
    assert sum(step.evaluation is not None for step in run(evaluated)) == 5
    assert evaluated.policy_hash() == plain.policy_hash()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_auto_keeps_classic_control_on_the_cuda_device_and_no_other_environment() -> None:
    assert Trainer(spec_of(device="cuda")).runtime["vectorization"] == "device"
    assert Trainer(spec_of("LunarLander-v3", device="cuda")).runtime["vectorization"] != "device"
