"""Environments of the host under a policy on a CUDA device; trainings that stay there have tests in `cuda/`.

What is equal to the last bit is what one device computes twice.
"""

from pathlib import Path

import pytest
import torch

from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of, timeless

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_training_on_cuda_cut_in_two_ends_like_one_run_through(env_id: str, tmp_path: Path) -> None:
    spec = spec_of(env_id, env={"vectorization": "sync"}, device="cuda")
    whole = Trainer(spec)
    expected = timeless(run(whole))
    first = Trainer(spec)
    reported = timeless(run(first, 4))
    first.save(tmp_path)
    second = Trainer.resume(spec, tmp_path)
    reported += timeless(run(second))
    assert second.resumed is not None and second.resumed.kind == "exact"
    assert reported == expected
    assert second.policy_hash() == whole.policy_hash()


def test_cuda_and_cpu_draw_the_same_actions() -> None:
    """The noise comes from one stream, so first rollouts agree as far as rounding lets them."""
    specs = [spec_of(env={"vectorization": "sync"}, device=device, backend="torch") for device in ("cpu", "cuda")]
    metrics = [run(Trainer(spec), 1)[0].metrics for spec in specs]
    assert metrics[0] is not None and metrics[1] is not None
    assert metrics[0]["rollout/ep_rew_mean"] == metrics[1]["rollout/ep_rew_mean"]
    assert metrics[0]["train/value_loss"] == pytest.approx(metrics[1]["train/value_loss"], rel=1e-3)


def test_the_runtime_names_the_cuda_device() -> None:
    trainer = Trainer(spec_of(device="cuda"))
    assert trainer.runtime["device"] == torch.cuda.get_device_name()
    assert next(iter(trainer.iterations())).metrics
