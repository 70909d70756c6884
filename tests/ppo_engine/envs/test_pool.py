"""Laws of EnvPool's environments: on a module that offers what EnvPool does, and on EnvPool where it is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppo_engine.envs.pool import PoolVectorEnvironment
from ppo_engine.envs.vector import make_vector_environment
from ppo_engine.errors import UnknownEnvironment
from ppo_engine.spec import EnvSpec, InvalidSpec
from ppo_engine.trainer import Trainer
from tests.ppo_engine.envs import fake_envpool
from tests.ppo_engine.envs.playing import played, random_actions, same
from tests.ppo_engine.trainings import spec_of

# EnvPool's own, of the spaces that it makes.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting")

POOLS = ["fake", "real"] if find_spec("envpool") else ["fake"]
SEEDS = [40, 2**32 - 1, 7]


@pytest.fixture(autouse=True, params=POOLS)
def _envpool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "fake":
        monkeypatch.setitem(sys.modules, "envpool", fake_envpool)


def pool(env_id: str = "CartPole-v1", *, seeds: list[int] = SEEDS, threads: int = 1, **settings: Any) -> Any:
    spec = EnvSpec(id=env_id, n_envs=len(seeds), vectorization="envpool", **settings)
    return PoolVectorEnvironment(spec, seeds, threads=threads)


@pytest.mark.law("G13")
def test_an_episode_ends_with_its_last_observation_and_the_next_row_is_no_step() -> None:
    environment = pool(max_episode_steps=4)
    environment.reset()
    steps = []
    for time in range(11):
        step = environment.step(np.full((3, 1), time % 2))
        assert same([step.observations], [step.final_observations])
        steps.append((bool(step.truncated[0]), bool(step.valid[0]), float(step.rewards[0])))
    # Four steps, a reset, four steps, a reset, a step; each step of CartPole's earns 1.
    assert [truncated for truncated, _, _ in steps] == [time in (3, 8) for time in range(11)]
    assert [valid for _, valid, _ in steps] == [time not in (4, 9) for time in range(11)]
    assert [reward for _, _, reward in steps] == [0.0 if time in (4, 9) else 1.0 for time in range(11)]


def test_each_environment_draws_from_its_own_seed() -> None:
    three, one = pool().reset().copy(), pool(seeds=[7]).reset()
    assert same([three[2]], [one[0]])
    assert len({row.tobytes() for row in three}) == 3


def test_equal_seeds_give_equal_plays() -> None:
    actions = random_actions(pool().action_space, 3, 60)
    plays = []
    for _ in range(2):
        environment = pool()
        plays.append([environment.reset().copy(), *played(environment, actions)])
    assert same(*plays)


def test_actions_of_a_box_are_clipped_to_its_bounds() -> None:
    outcomes = []
    for size in (1.0, 50.0):
        environment = pool("HalfCheetah-v5")
        environment.reset()
        outcomes.append(played(environment, [np.full((3, 6), size, np.float32)] * 5))
    assert same(*outcomes)


def test_a_restored_pool_begins_new_episodes_and_says_so() -> None:
    original = pool()
    first = original.reset().copy()
    played(original, random_actions(original.action_space, 3, 9))
    restored = pool()
    begun = restored.restore(original.state()).copy()
    assert (restored.resume.kind, restored.resume.reason) == ("approximate", PoolVectorEnvironment.not_restored)
    assert not np.isin(begun, first).any()
    assert np.isfinite(played(restored, random_actions(restored.action_space, 3, 30))[0]).all()


def test_it_uses_the_threads_it_is_given_and_no_more_than_environments() -> None:
    assert pool(threads=2).vectorization_reason == "stepped by EnvPool on 2 threads"
    spec = EnvSpec(id="CartPole-v1", n_envs=2, vectorization="envpool")
    environment = make_vector_environment(spec, np.random.SeedSequence(0).spawn(2), cores=64)
    assert (environment.vectorization, environment.vectorization_reason[-9:]) == ("envpool", "2 threads")


@pytest.mark.parametrize(
    ("env_id", "kwargs", "pointer", "message"),
    [
        ("test/Walk-v0", {}, "/env/vectorization", "EnvPool has no test/Walk-v0"),
        ("HalfCheetah-v5", {"frame_skip": 2}, "/env/kwargs", "EnvPool's environments take no arguments"),
        ("FrozenLake-v1", {}, "/env/vectorization", "observations of a Discrete space are not read from EnvPool"),
    ],
)
def test_what_envpool_cannot_do_is_refused(env_id: str, kwargs: Any, pointer: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        pool(env_id, kwargs=kwargs)
    assert [(fault.pointer, fault.message) for fault in refused.value.faults] == [(pointer, message)]


def test_it_is_refused_where_envpool_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes the import fail.
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(InvalidSpec, match=r"EnvPool is missing, pip install 'ppo-service\[envpool\]' installs it"):
        pool()


def test_an_id_that_nobody_has_is_unknown() -> None:
    with pytest.raises(UnknownEnvironment):
        pool("Nowhere-v0")


def test_a_training_goes_on_approximately_and_says_why(tmp_path: Path) -> None:
    spec = spec_of("CartPole-v1", env={"vectorization": "envpool"})
    trainer = Trainer(spec)
    for progress in trainer.iterations():
        assert progress.timesteps > 0
        break
    trainer.save(tmp_path / "checkpoint")
    resumed = Trainer.resume(trainer.spec, tmp_path / "checkpoint")
    assert resumed.resumed is not None
    assert resumed.resumed.kind == "approximate"
    assert PoolVectorEnvironment.not_restored in str(resumed.resumed.reason)
    assert next(resumed.iterations()).timesteps > progress.timesteps
