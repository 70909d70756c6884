import pickle

import gymnasium
import numpy as np
import pytest

from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import make_vector_environment
from ppo_engine.errors import EnvironmentFailed, EnvironmentFault, InvalidObservation, UnsupportedSpace
from ppo_engine.spec import EnvSpec
from tests.ppo_engine.envs.playing import episodes, played, random_actions, same


def spec(name: str, **settings: object) -> EnvSpec:
    return EnvSpec.model_validate({"id": f"test/{name}-v0", "n_envs": 2, **settings})


def test_it_steps_as_a_plain_loop_over_gymnasiums_environments_does() -> None:
    environment = SyncVectorEnvironment(spec("Walk"), [11, 12])
    plain = [gymnasium.make("test/Walk-v0") for _ in range(2)]
    expected = [env.reset(seed=11 + index)[0] for index, env in enumerate(plain)]
    np.testing.assert_array_equal(environment.reset(), expected)
    for actions in random_actions(environment.action_space, 2, 100):
        step = environment.step(actions)
        for index, env in enumerate(plain):
            after, reward, terminated, truncated, _ = env.step(int(actions[index, 0]))
            np.testing.assert_array_equal(step.final_observations[index], after)
            assert step.rewards[index] == reward
            assert (step.terminated[index], step.truncated[index]) == (terminated, truncated)
            following = env.reset()[0] if terminated or truncated else after
            np.testing.assert_array_equal(step.observations[index], following)
        assert step.valid.all()


def test_an_episode_is_truncated_at_its_limit_and_keeps_its_final_observation() -> None:
    environment = SyncVectorEnvironment(spec("Ramp"), [0])
    environment.reset()
    steps = [environment.step(np.zeros((1, 1), np.int64)) for _ in range(9)]
    assert not steps[-1].truncated[0]
    last = environment.step(np.zeros((1, 1), np.int64))
    # The registered limit is 10. The ramp counts 0, 1, 2 ...: the tenth step earns 9 and leads to 10, then 0 again.
    assert (last.truncated[0], last.terminated[0], last.rewards[0]) == (True, False, 9.0)
    assert (last.final_observations[0, 0], last.observations[0, 0]) == (10.0, 0.0)


def test_the_specs_episode_limit_wins_over_the_registered_one() -> None:
    environment = SyncVectorEnvironment(spec("Ramp", max_episode_steps=3), [0])
    environment.reset()
    assert [bool(environment.step(np.zeros((1, 1), np.int64)).truncated[0]) for _ in range(6)] == [
        *(False, False, True),
        *(False, False, True),
    ]


@pytest.mark.law("G6")
def test_the_final_observation_survives_an_environment_that_reuses_its_buffer() -> None:
    reusing = SyncVectorEnvironment(spec("SharedBuffer"), [5, 6])
    honest = SyncVectorEnvironment(spec("Walk"), [5, 6])
    assert same([reusing.reset()], [honest.reset()])
    actions = random_actions(honest.action_space, 2, 60)
    assert same(played(reusing, actions), played(honest, actions))


@pytest.mark.law("G14")
def test_an_environments_stream_depends_on_its_own_seed_alone() -> None:
    sequences = np.random.SeedSequence(3).spawn(5)
    few = make_vector_environment(EnvSpec(id="test/Walk-v0", n_envs=2), sequences[:2])
    many = make_vector_environment(EnvSpec(id="test/Walk-v0", n_envs=5), sequences)
    assert same([few.reset()], [many.reset()[:2]])
    for actions in random_actions(many.action_space, 5, 60):
        step, wider = few.step(actions[:2]), many.step(actions)
        assert same([step.observations, step.rewards], [wider.observations[:2], wider.rewards[:2]])


@pytest.mark.law("G14")
def test_seeds_make_runs_equal_and_other_seeds_make_them_differ() -> None:
    def returns(seed: int) -> list[float]:
        environment = SyncVectorEnvironment(spec("Walk"), [seed])
        return [
            sum(reward for _, reward, *_ in episode) for episode in episodes(environment, 4, lambda i, e, t: t % 2)[0]
        ]

    assert returns(1) == returns(1)
    assert returns(1) != returns(2)
    # Only the first reset is seeded: later episodes go on with the stream instead of repeating the first.
    assert len(set(returns(1))) == 4


@pytest.mark.parametrize(
    ("name", "kind", "fault"),
    [
        ("RaisesInStep", EnvironmentFailed, "raised RuntimeError: this environment cannot be stepped"),
        ("ExitsInStep", EnvironmentFailed, "raised SystemExit: 4"),
        ("ShortStep", EnvironmentFailed, "raised ValueError: not enough values to unpack (expected 5, got 4)"),
        ("NaNObservation", InvalidObservation, "observation is nan at flat index 1"),
        ("InfiniteObservation", InvalidObservation, "observation is -inf at flat index 0"),
        ("HugeObservation", InvalidObservation, "observation is inf at flat index 0"),
        (
            "OutsideItsSpace",
            InvalidObservation,
            "observation is 12.5 at flat index 0, outside its space, whose numbers are taken from -12 to 12",
        ),
        (
            "OutsideItsIntegers",
            InvalidObservation,
            "observation is 1001 at flat index 0, outside its space, whose numbers are taken from -1000 to 1000",
        ),
        ("NaNReward", InvalidObservation, "reward is nan"),
        ("InfiniteReward", InvalidObservation, "reward is inf"),
        ("WrongShape", InvalidObservation, "observation has shape (1,), its space (2,)"),
        ("WrongType", InvalidObservation, "observation is of type <U5, its space of float32"),
        ("ArrayReward", InvalidObservation, "reward is a ndarray, not a number"),
        ("TextReward", InvalidObservation, "reward is a str, not a number"),
        ("NumberEnd", InvalidObservation, "terminated is a int, not a bool"),
    ],
)
def test_a_fault_names_environment_episode_and_step(name: str, kind: type[EnvironmentFault], fault: str) -> None:
    # In step 7 of its life; episodes are cut after 5, so that is step 2 of the second, episode 1.
    environment = SyncVectorEnvironment(spec(name, kwargs={"at_step": 7}, max_episode_steps=5), [1], first_index=3)
    environment.reset()
    with pytest.raises(kind) as failed:
        played(environment, [np.array([[step % 2]]) for step in range(10)])
    assert str(failed.value) == f"test/{name}-v0, environment 3, episode 1, step 2: {fault}"


def test_a_fault_in_a_later_reset_names_the_episode_that_was_to_begin() -> None:
    environment = SyncVectorEnvironment(spec("RaisesInReset", kwargs={"at_reset": 2}, max_episode_steps=3), [1, 2])
    environment.reset()
    with pytest.raises(EnvironmentFailed) as failed:
        played(environment, [np.zeros((2, 1), np.int64)] * 6)
    assert str(failed.value).startswith("test/RaisesInReset-v0, environment 0, episode 2, step 0: raised RuntimeError")


def test_a_fault_keeps_the_environments_own_traceback_also_when_pickled() -> None:
    environment = SyncVectorEnvironment(spec("RaisesInStep", kwargs={"at_step": 1}), [1])
    environment.reset()
    with pytest.raises(EnvironmentFailed) as failed:
        environment.step(np.zeros((1, 1), np.int64))
    revived = pickle.loads(pickle.dumps(failed.value))
    assert "faulty.py" in revived.traceback_text
    assert revived.traceback_text.rstrip().endswith("RuntimeError: this environment cannot be stepped")


def test_an_environment_that_cannot_be_made_is_a_fault_of_its() -> None:
    with pytest.raises(EnvironmentFailed, match="raised RuntimeError: this environment cannot be made"):
        SyncVectorEnvironment(spec("RaisesInConstructor"), [1])


def test_an_invalid_first_observation_is_found_at_step_0() -> None:
    environment = SyncVectorEnvironment(spec("NaNInReset"), [1])
    with pytest.raises(InvalidObservation, match="episode 0, step 0: observation is nan"):
        environment.reset()


@pytest.mark.parametrize(
    "name",
    ["MultiDiscreteAction", "MatrixAction", "MultiBinaryAction", "OffsetAction", "AsymmetricAction", "MatrixBoxAction"],
)
def test_every_kind_of_action_reaches_the_environment_within_its_space(name: str) -> None:
    environment = SyncVectorEnvironment(spec(name), [1, 2])
    environment.reset()
    rewards = [environment.step(row).rewards.copy() for row in random_actions(environment.action_space, 2, 60)]
    assert np.max(rewards) == 1.0


@pytest.mark.parametrize(("name", "size"), [("DictObservation", 2 + 3 + 2 + 2 + 3), ("TupleObservation", 4 + 4)])
def test_composite_observations_are_flattened_at_every_step(name: str, size: int) -> None:
    environment = SyncVectorEnvironment(spec(name), [1, 2])
    assert environment.reset().shape == (2, size)
    outcomes = played(environment, random_actions(environment.action_space, 2, 50))
    assert all(np.isfinite(array).all() for array in outcomes)


def test_an_action_space_of_text_is_unsupported() -> None:
    with pytest.raises(UnsupportedSpace, match="Text"):
        SyncVectorEnvironment(spec("TextAction"), [1])


def test_a_single_environment_has_the_same_episodes_as_a_vector_of_one() -> None:
    env = make_environment(spec("Walk", max_episode_steps=4))
    observation, _ = env.reset(seed=9)
    environment = SyncVectorEnvironment(spec("Walk", max_episode_steps=4), [9])
    np.testing.assert_array_equal(environment.reset()[0], observation)
    for expected in (False, False, False, True):
        _, _, _, truncated, _ = env.step(1)
        assert (truncated, bool(environment.step(np.array([[1]])).truncated[0])) == (expected, expected)


@pytest.mark.parametrize("name", ["HangsInClose", "Walk"])
def test_closing_neither_hangs_nor_fails(name: str) -> None:
    environment = SyncVectorEnvironment(spec(name), [1])
    environment.reset()
    environment.close()
    environment.close()
