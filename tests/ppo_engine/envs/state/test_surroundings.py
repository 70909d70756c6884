import os
import warnings

import numpy as np
import pytest
import torch

from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of

SMALL = {"total_timesteps": 256}


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def trained(name: str, backend: str, **env: object) -> str:
    spec = spec_of(f"test/{name}-v0", backend=backend, env={"n_envs": 2, **env}, ppo=SMALL)
    trainer = Trainer(spec)
    run(trainer)
    trainer.close()
    return trainer.policy_hash()


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_what_an_environment_sets_for_its_process_reaches_no_learner(backend: str) -> None:
    plain = trained("Walk", backend)
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), os.getcwd(), np.geterr())
    filters = list(warnings.filters)
    for name in ("DoubleByDefault", "WithoutGradients", "SwitchesInStep"):
        assert trained(name, backend) == plain, name
        now = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), os.getcwd(), np.geterr())
        assert now == before, name
        assert list(warnings.filters) == filters, name


@pytest.mark.parametrize("name", ["SharedTensor", "SharedArrayLike", "SharedBuffer"])
def test_stacked_frames_share_no_memory_with_what_an_environment_hands_out(name: str) -> None:
    stacked = {"frame_stack": 2}
    assert trained(name, "fused", **stacked) == trained("Walk", "fused", **stacked)
