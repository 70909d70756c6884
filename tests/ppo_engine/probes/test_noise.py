"""How widely a Gaussian policy spreads its actions under an entropy bonus, which is known in closed form."""

from math import sqrt
from typing import Any

import numpy as np
import pytest

from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin

BONUS, STEEP, FLAT = 0.1, 5.0, 0.2
"""The bonus per nat, and by how much the square of an action costs in the two states."""


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def trained(policy: dict[str, Any]) -> Trainer:
    document = {
        "preset": "default",
        "env": {"id": "test/Dither-v0", "n_envs": 16},
        "policy": {"hidden_sizes": [16], **policy},
        "ppo": {
            "total_timesteps": 40_960,
            "n_steps": 32,
            "batch_size": 128,
            "n_epochs": 4,
            "learning_rate": {"kind": "linear", "initial": 1e-2, "final": 0.0},
            "ent_coef": BONUS,
            "normalize_advantage": "off",
        },
        "normalize": {"observations": False, "rewards": False},
        "seed": 1,
    }
    trainer = Trainer(TrainingSpec.model_validate(document))
    for _ in trainer.iterations():
        pass
    return trainer


def test_each_state_has_the_deviation_that_suits_it() -> None:
    """Cost k s² less bonus times log s is least where s² = bonus / 2k."""
    trainer = trained({"state_dependent_std": True})
    rollout = trainer._components.backend.collector.collect()
    is_steep = rollout.raw_observations[..., 0] > 0
    deviations = np.exp(rollout.outputs.numpy()[..., 1])
    assert deviations[is_steep].mean() == pytest.approx(sqrt(BONUS / (2 * STEEP)), rel=0.1)
    assert deviations[~is_steep].mean() == pytest.approx(sqrt(BONUS / (2 * FLAT)), rel=0.1)
    assert rollout.outputs.numpy()[..., 0] == pytest.approx(0.0, abs=0.1)
    trainer.close()


def test_one_deviation_for_all_states_suits_their_mean() -> None:
    trainer = trained({})
    deviation = float(trainer._components.policy.log_std.detach().exp())
    assert deviation == pytest.approx(sqrt(BONUS / (STEEP + FLAT)), rel=0.1)
    trainer.close()
