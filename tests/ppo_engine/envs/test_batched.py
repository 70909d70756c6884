from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec as Registration
from gymnasium.envs.registration import WrapperSpec
from numpy.typing import NDArray

from ppo_engine.envs.batched import BatchedKernel, BatchedVectorEnvironment, is_batched, step_all
from ppo_engine.envs.registry import Registered
from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import Step, VectorEnvironment, make_vector_environment
from ppo_engine.errors import InvalidObservation, UnknownEnvironment
from ppo_engine.spec import EnvSpec, InvalidSpec
from tests.ppo_engine.envs.playing import copied, same

N_ENVS = 8
IDS = ("CartPole-v0", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1")
FIRST_VELOCITY = {"MountainCar-v0": 1, "MountainCarContinuous-v0": 1, "Acrobot-v1": 5, "Pendulum-v1": 2}
"""The feature whose sign says which way to push, so that energy grows and episodes end."""


def spec(env_id: str, **settings: Any) -> EnvSpec:
    return EnvSpec(id=env_id, **{"n_envs": N_ENVS, **settings})


def batched(env: EnvSpec, *, seed: int = 0) -> BatchedVectorEnvironment:
    return BatchedVectorEnvironment(env, range(seed, seed + env.n_envs))


def stepped(env: EnvSpec, *, seed: int = 0) -> SyncVectorEnvironment:
    return SyncVectorEnvironment(env, range(seed, seed + env.n_envs))


def pushes(env_id: str, space: ActionSpace, observations: NDArray[Any], draw: np.random.Generator) -> NDArray[Any]:
    """Rows [N, 1]: at random in the first half of the environments, along the motion in the others.

    Those of a Box are beyond its bounds as often as within.
    """
    shape = (len(observations), 1)
    along = np.arange(len(observations)) >= len(observations) // 2
    forward = observations[:, [FIRST_VELOCITY[env_id]]] > 0 if env_id in FIRST_VELOCITY else draw.random(shape) > 0.5
    if space.kind == "discrete":
        last = space.sizes[0] - 1
        return np.where(along[:, None], last * forward, draw.integers(0, last + 1, shape))
    assert space.high is not None
    strength = draw.uniform(0.0, 2.0, shape)
    sign = np.where(along[:, None], 2.0 * forward - 1.0, draw.choice([-1.0, 1.0], shape))
    rows: NDArray[Any] = (sign * strength * space.high).astype(np.float32)
    return rows


def differences(env: EnvSpec, steps: int, *, seed: int = 0) -> tuple[int, int, int]:
    """Steps that differ from Gymnasium's in any bit, and how many episodes ended and were cut."""
    ours, theirs = batched(env, seed=seed), stepped(env, seed=seed)
    draw = np.random.default_rng(seed)
    different = int(not same([ours.reset()], [theirs.reset()]))
    ended = cut = 0
    for _ in range(steps):
        actions = pushes(env.id, ours.action_space, ours.arrays.observations, draw)
        step = ours.step(actions)
        different += not same(copied(step), copied(theirs.step(actions)))
        ended += int(step.terminated.sum())
        cut += int(step.truncated.sum())
    return different, ended, cut


def played(environment: VectorEnvironment, actions: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return [array for row in actions for array in copied(environment.step(row))]


@pytest.mark.parametrize("env_id", IDS)
def test_every_number_is_gymnasiums_to_the_bit(env_id: str) -> None:
    different, ended, cut = differences(spec(env_id), 1200)
    assert different == 0
    assert ended > 3 or env_id == "Pendulum-v1"
    assert cut > 3 or env_id.startswith("CartPole")


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("MountainCar-v0", {"goal_velocity": 0.03}),
        ("MountainCar-v0", {"goal_velocity": 1}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.03}),
        # The speed limit itself, and a number that is above it but not when rounded to 32 bits.
        ("MountainCarContinuous-v0", {"goal_velocity": 0.07}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.07 + 1e-12}),
        ("Pendulum-v1", {"g": 3.7}),
        ("Pendulum-v1", {"g": 9}),
    ],
)
def test_arguments_change_the_dynamics_as_gymnasiums_do(env_id: str, kwargs: dict[str, Any]) -> None:
    # With a limit of its own, and so with more episodes.
    different, _, cut = differences(spec(env_id, kwargs=kwargs, max_episode_steps=150), 600, seed=3)
    assert different == 0
    assert cut > 0 or env_id == "CartPole-v1"


@pytest.mark.parametrize(
    ("env_id", "low", "high", "dtype"),
    [
        ("CartPole-v1", [-2.5, -4.0, -0.3, -4.0], [2.5, 4.0, 0.3, 4.0], np.float64),
        ("MountainCar-v0", [-1.2, -0.08], [0.6, 0.08], np.float64),
        ("MountainCarContinuous-v0", [-1.2, -0.08], [0.6, 0.08], np.float32),
        ("Acrobot-v1", [-np.pi, -np.pi, -13.0, -29.0], [np.pi, np.pi, 13.0, 29.0], np.float64),
        ("Pendulum-v1", [-50.0, -8.0], [50.0, 8.0], np.float64),
    ],
)
def test_a_step_from_any_state_is_gymnasiums_to_the_bit(
    env_id: str, low: list[float], high: list[float], dtype: type
) -> None:
    # Fast and far out, where bounds and walls are, and where few episodes come.
    kwargs = {"goal_velocity": 0.07} if env_id.startswith("Mountain") else {}
    env, draw = spec(env_id, n_envs=50, kwargs=kwargs), np.random.default_rng(1)
    ours, theirs = batched(env), stepped(env)
    ours.reset(), theirs.reset()
    ended = 0
    for _ in range(40):
        states: NDArray[Any] = draw.uniform(low, high, (50, len(low))).astype(dtype)
        ours.kernel.physics[:], ours.kernel.lengths[:] = states, 1
        for single, state in zip(theirs._envs, states, strict=True):
            unwrapped: Any = single.unwrapped
            unwrapped.state = state
            unwrapped.steps_beyond_terminated = None
        theirs._lengths = [1] * 50
        actions = pushes(env_id, ours.action_space, ours.arrays.observations, draw)
        step = ours.step(actions)
        assert same(copied(step), copied(theirs.step(actions)))
        ended += int(step.terminated.sum())
    assert ended > 5 or env_id == "Pendulum-v1"


@pytest.mark.parametrize(("env_id", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500), ("Pendulum-v1", 200)])
def test_the_registered_limit_holds_where_the_spec_has_none(env_id: str, limit: int) -> None:
    assert batched(spec(env_id)).kernel.limit == limit
    assert batched(spec(env_id, max_episode_steps=9)).kernel.limit == 9


def test_an_episode_is_cut_at_its_limit_and_keeps_its_final_observation() -> None:
    environment = batched(spec("Pendulum-v1", max_episode_steps=3))
    environment.reset()
    rows = np.zeros((N_ENVS, 1), np.float32)
    steps = [copied(environment.step(rows)) for _ in range(3)]
    truncated, observations, final = (
        Step.__slots__.index(n) for n in ("truncated", "observations", "final_observations")
    )
    assert [step[truncated].all() for step in steps] == [False, False, True]
    assert same([steps[0][observations]], [steps[0][final]])
    assert (steps[2][observations] != steps[2][final]).any(axis=1).all()
    assert environment.kernel.episodes.tolist() == [1] * N_ENVS
    assert environment.kernel.lengths.tolist() == [0] * N_ENVS


def test_choices_may_be_integers_or_whole_floats() -> None:
    env = spec("Acrobot-v1")
    theirs = batched(env)
    theirs.reset()
    ours = batched(env)
    ours.reset()
    draw = np.random.default_rng(5)
    for _ in range(50):
        rows = draw.integers(0, 3, (N_ENVS, 1))
        step = ours.arrays
        step_all(*ours.kernel, rows, *outputs(step))
        assert same(copied(step), copied(theirs.step(rows.astype(np.float32))))


def outputs(step: Step) -> tuple[NDArray[Any], ...]:
    return step.observations, step.rewards, step.terminated, step.truncated, step.final_observations


# Not by `compiled`, which keeps the code of the engine's own sources and of no others.
@numba.njit(nogil=True, error_model="numpy")
def rollout(
    kernel: BatchedKernel,
    actions: NDArray[np.float32],
    observations: NDArray[np.float32],
    rewards: NDArray[np.float64],
    ends: NDArray[np.bool_],
    final_observations: NDArray[np.float32],
) -> None:
    for t in range(len(actions)):
        step_all(
            kernel.kind,
            kernel.parameters,
            kernel.limit,
            kernel.physics,
            kernel.generators,
            kernel.lengths,
            kernel.episodes,
            actions[t],
            observations[t],
            rewards[t],
            ends[t, 0],
            ends[t, 1],
            final_observations,
        )


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0"])
def test_what_compiled_code_steps_goes_on_from_python(env_id: str) -> None:
    env, steps = spec(env_id, max_episode_steps=30), 70
    ours, theirs = batched(env), batched(env)
    ours.reset(), theirs.reset()
    draw = np.random.default_rng(0)
    actions = np.stack([pushes(env_id, ours.action_space, ours.arrays.observations, draw) for _ in range(steps)])
    observations = np.zeros((steps, *ours.arrays.observations.shape), np.float32)
    rewards, ends = np.zeros((steps, N_ENVS)), np.zeros((steps, 2, N_ENVS), np.bool_)
    rollout(ours.kernel, actions.astype(np.float32), observations, rewards, ends, np.zeros_like(observations[0]))
    expected = [copied(theirs.step(row)) for row in actions]
    assert same(list(observations), [step[0] for step in expected])
    assert same(list(rewards), [step[1] for step in expected])
    # The environment knows where it stands though it was not told.
    assert same([np.asarray(ours.state()["env/0/observation"])], [observations[-1, 0]])
    assert same(copied(ours.step(actions[0])), copied(theirs.step(actions[0])))


def test_a_number_that_is_not_finite_names_environment_episode_and_step() -> None:
    environment = batched(spec("Pendulum-v1", n_envs=3, max_episode_steps=5))
    environment.reset()
    rows = np.zeros((3, 1), np.float32)
    for _ in range(6):
        environment.step(rows)
    rows[1] = np.nan
    with pytest.raises(InvalidObservation) as failed:
        environment.step(rows)
    # Step 7 of its life; episodes are cut after 5, so that is step 2 of the second, episode 1.
    assert str(failed.value) == "Pendulum-v1, environment 1, episode 1, step 2: observation is nan at flat index 0"


def test_the_fault_of_an_episodes_last_step_names_that_episode() -> None:
    environment = batched(spec("MountainCarContinuous-v0", n_envs=1, max_episode_steps=1))
    environment.reset()
    environment.step(np.zeros((1, 1), np.float32))
    with pytest.raises(InvalidObservation, match="episode 1, step 1: observation is nan at flat index 0"):
        environment.step(np.full((1, 1), np.nan, np.float32))


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        *((spec(env_id), True) for env_id in IDS),
        (spec("CartPole-v1", kwargs={"sutton_barto_reward": True}, max_episode_steps=7), True),
        (spec("CartPole-v1", kwargs={"render_mode": "rgb_array"}), False),
        (spec("CartPole-v1", kwargs={"gravity": 1.0}), False),
        (spec("LunarLander-v3"), False),
        (spec("test/Walk-v0"), False),
        (spec("NoSuchEnvironment-v0"), False),
    ],
)
def test_gymnasiums_own_classes_are_batched_with_arguments_that_are_known(env: EnvSpec, expected: bool) -> None:
    assert is_batched(env) is expected


PENDULUM = "gymnasium.envs.classic_control.pendulum:PendulumEnv"
WRAPPER = WrapperSpec("Other", "somewhere.else:Other", {})


@pytest.mark.parametrize(
    ("registration", "expected"),
    [
        (Registration("Pendulum-v1", entry_point="somewhere.else:PendulumEnv"), False),
        (Registration("Pendulum-v1", entry_point=None, vector_entry_point="somewhere.else:PendulumVectorEnv"), False),
        (Registration("Pendulum-v1", entry_point=PENDULUM, additional_wrappers=(WRAPPER,)), False),
        (Registration("Pendulum-v1", entry_point=PENDULUM, kwargs={"render_mode": "rgb_array"}), False),
        (Registration("Pendulum-v1", entry_point=PENDULUM, kwargs={"g": 1.0}), True),
        (Registration("theirs/Swing-v0", entry_point=PENDULUM), True),
    ],
)
def test_what_counts_is_the_registered_class_and_not_the_id(
    registration: Registration, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Registered(registration, "theirs 1.0", plugin=True)
    monkeypatch.setattr("ppo_engine.envs.batched.kinds.find_environment", lambda _: found)
    assert is_batched(spec(registration.id)) is expected


def made(env: EnvSpec) -> VectorEnvironment:
    return make_vector_environment(env, np.random.SeedSequence(0).spawn(env.n_envs))


def test_auto_picks_the_batched_form_where_there_is_one() -> None:
    assert [made(spec(env_id)).vectorization for env_id in ("Pendulum-v1", "CartPole-v1")] == ["batched", "batched"]
    assert made(spec("test/Walk-v0")).vectorization != "batched"


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"env_id": "LunarLander-v3"}, "/env/vectorization"),
        ({"env_id": "Acrobot-v1", "kwargs": {"g": 1.0}}, "/env/vectorization"),
        ({"env_id": "Pendulum-v1", "kwargs": {"g": True}}, "/env/kwargs/g"),
    ],
)
def test_what_cannot_be_batched_is_refused(settings: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        batched(spec(**settings))
    assert [fault.pointer for fault in refused.value.faults] == [pointer]


def test_an_unknown_environment_is_unknown() -> None:
    with pytest.raises(UnknownEnvironment):
        batched(spec("NoSuchEnvironment-v0"))
