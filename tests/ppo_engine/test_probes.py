"""Probe environments, each of which isolates one link of learning: if one fails, the ones before it say where to look.

In order: the value of a constant; its dependence on the observation; discounting; the policy; policy and observation.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin

SPEC: dict[str, Any] = {
    "preset": "default",
    "policy": {"hidden_sizes": [16]},
    "ppo": {
        "total_timesteps": 2560,
        "n_steps": 16,
        "batch_size": 32,
        "n_epochs": 8,
        "gamma": 0.5,
        "gae_lambda": 0.95,
        "learning_rate": 1e-2,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
    },
    "normalize": {"observations": False, "rewards": False},
    "seed": 1,
}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


@pytest.fixture
def train() -> Iterator[Any]:
    """Trains on one environment to the end; closes what it made."""
    trainers: list[Trainer] = []

    def trained(name: str, **sections: dict[str, Any]) -> Trainer:
        body = {**SPEC, **{section: {**SPEC[section], **fields} for section, fields in sections.items()}}
        trainer = Trainer(TrainingSpec.model_validate({**body, "env": {"id": f"test/{name}-v0", "n_envs": 8}}))
        trainers.append(trainer)
        assert list(trainer.iterations())[-1].finished
        return trainer

    yield trained
    for trainer in trainers:
        trainer.close()


def values(trainer: Trainer, observations: list[float], directory: Path) -> list[float]:
    """V of observations by the critic that a checkpoint holds: one hidden layer of tanh."""
    trainer.save(directory / "checkpoint")
    critic = load_file(directory / "checkpoint" / "policy.safetensors")
    x = np.array(observations, dtype=np.float32)[:, None]
    hidden = np.tanh(x @ critic["policy/critic/0/weight"].T + critic["policy/critic/0/bias"])
    answer: list[float] = (hidden @ critic["policy/critic/1/weight"].T + critic["policy/critic/1/bias"])[:, 0].tolist()
    return answer


def actions(trainer: Trainer, observations: list[float]) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = trainer.act(np.array(observations, dtype=np.float32)[:, None])
    return rows


@pytest.mark.law("T25")
def test_the_critic_learns_a_constant(train: Any, tmp_path: Path) -> None:
    assert values(train("ProbeConstant"), [0.0], tmp_path) == pytest.approx([1.0], abs=0.05)


@pytest.mark.law("T25")
def test_the_critic_learns_to_tell_observations_apart(train: Any, tmp_path: Path) -> None:
    assert values(train("ProbeObservation"), [1.0, -1.0], tmp_path) == pytest.approx([1.0, -1.0], abs=0.05)


@pytest.mark.law("T25")
def test_a_reward_one_step_away_is_discounted_once(train: Any, tmp_path: Path) -> None:
    # observation 0, then 1 with the reward 1 at its end: V(1) = 1, V(0) = gamma = 0.5
    assert values(train("ProbeDiscount"), [0.0, 1.0], tmp_path) == pytest.approx([0.5, 1.0], abs=0.05)


@pytest.mark.law("T25")
def test_the_actor_learns_the_better_action(train: Any, tmp_path: Path) -> None:
    trainer = train("ProbeAction")
    assert actions(trainer, [0.0]).tolist() == [[1]]
    # it then earns 1 nearly always, where chance would give 0
    assert values(trainer, [0.0], tmp_path) == pytest.approx([1.0], abs=0.1)


@pytest.mark.law("T25")
def test_the_actor_learns_which_action_fits_which_observation(train: Any, tmp_path: Path) -> None:
    trainer = train("ProbeObservationAction")
    assert actions(trainer, [1.0, -1.0]).tolist() == [[1], [0]]
    assert values(trainer, [1.0, -1.0], tmp_path) == pytest.approx([1.0, 1.0], abs=0.1)


@pytest.mark.law("T4")
def test_a_truncated_episode_is_worth_what_would_have_followed(train: Any, tmp_path: Path) -> None:
    # reward 1 forever, cut off after 10 steps: V = 1 / (1 - 0.5) = 2; taken for an end, it would be below 2 on average
    trainer = train("ConstantReward", ppo={"gae_lambda": 0.0})
    assert values(trainer, [0.0], tmp_path) == pytest.approx([2.0], abs=0.05)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("MultiDiscreteAction", [2, 1]), ("MatrixAction", [1, 2, 3, 0]), ("MultiBinaryAction", [1, 0, 1])],
)
def test_every_head_of_a_composed_action_learns(train: Any, name: str, wanted: list[int]) -> None:
    assert actions(train(name, ppo={"total_timesteps": 5120}), [0.0]).tolist() == [wanted]


def test_squashed_actions_learn_where_the_reward_lies(train: Any) -> None:
    # bounds -3 to 1 and 0 to 10, half the reward within 0.5 of -2 and half within 0.5 of 1
    trainer = train("AsymmetricAction", policy={"squash_output": True})
    assert actions(trainer, [0.0])[0] == pytest.approx([-2.0, 1.0], abs=0.5)


def test_a_choice_counted_from_a_start_learns(train: Any) -> None:
    # actions -1, 0 and 1, of which -1 is right: the first choice
    assert actions(train("OffsetAction"), [0.0]).tolist() == [[0]]
