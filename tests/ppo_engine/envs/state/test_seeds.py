import random
from typing import Any

import numpy as np
import pytest
import torch

from ppo_engine.envs.state.generators import apart
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def trained(name: str, *, seed: int = 1, **sections: Any) -> str:
    sections = {"env": {"n_envs": 1}, "ppo": {"total_timesteps": 256}, **sections}
    trainer = Trainer(spec_of(f"test/{name}-v0", seed=seed, **sections))
    run(trainer)
    trainer.close()
    return trainer.policy_hash()


@pytest.mark.parametrize("name", ["GlobalRandom", "SampledActions", "ForgetsItsSeed"])
def test_a_seed_determines_what_environments_draw_wherever_they_draw_it_from(name: str) -> None:
    expected = trained(name)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert trained(name) == expected
    assert trained(name, seed=2) != expected
    assert trained(name, env={"n_envs": 1, "vectorization": "process"}) == expected


def test_an_evaluation_leaves_the_generators_of_a_training_alone() -> None:
    assert trained("GlobalRandom", evaluation={"every_timesteps": 64, "n_episodes": 2}) == trained("GlobalRandom")


def test_what_runs_apart_leaves_no_trace_in_the_generators() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with apart():
        random.random(), np.random.normal(), torch.rand(3)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
