"""Which environments are compiled, and what tells one from another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppo_engine.envs.batched.arithmetic import TWO, numpy_takes_polynomials
from ppo_engine.envs.batched.batch import ACROBOT, CARTPOLE, MOUNTAIN_CAR, MOUNTAIN_CAR_CONTINUOUS, PENDULUM
from ppo_engine.envs.registry import find_environment
from ppo_engine.errors import UnknownEnvironment
from ppo_engine.spec import EnvSpec


@dataclass(frozen=True)
class Kind:
    """One of the environments that are compiled.

    Attributes:
        number: `BatchedKernel.kind`.
        features: numbers of its physics (S).
        draws: of its generator in a reset.
        arguments: those of its constructor that it may be given.
        parameters: `BatchedKernel.parameters` of an environment that Gymnasium made.
    """

    number: int
    features: int
    draws: int
    arguments: frozenset[str]
    parameters: Callable[[Any], Sequence[float]]


CLASSIC_CONTROL = "gymnasium.envs.classic_control"
KINDS: Mapping[str, Kind] = {
    f"{CLASSIC_CONTROL}.cartpole:CartPoleEnv": Kind(
        CARTPOLE,
        features=4,
        draws=4,
        arguments=frozenset({"sutton_barto_reward"}),
        parameters=lambda env: [env._sutton_barto_reward],
    ),
    f"{CLASSIC_CONTROL}.mountain_car:MountainCarEnv": Kind(
        MOUNTAIN_CAR,
        features=2,
        draws=1,
        arguments=frozenset({"goal_velocity"}),
        parameters=lambda env: [env.goal_velocity],
    ),
    f"{CLASSIC_CONTROL}.continuous_mountain_car:Continuous_MountainCarEnv": Kind(
        MOUNTAIN_CAR_CONTINUOUS,
        features=2,
        draws=1,
        arguments=frozenset({"goal_velocity"}),
        parameters=lambda env: [env.goal_velocity],
    ),
    f"{CLASSIC_CONTROL}.acrobot:AcrobotEnv": Kind(
        ACROBOT,
        features=4,
        draws=4,
        arguments=frozenset(),
        parameters=lambda _: [TWO, numpy_takes_polynomials()],
    ),
    f"{CLASSIC_CONTROL}.pendulum:PendulumEnv": Kind(
        PENDULUM,
        features=2,
        draws=2,
        arguments=frozenset({"g"}),
        parameters=lambda env: [3 * env.g / (2 * env.l), TWO],
    ),
}
"""By the entry point that Gymnasium registers for the class."""


def is_batched(env: EnvSpec) -> bool:
    """Whether `BatchedVectorEnvironment` steps that environment as Gymnasium does.

    It does so for Gymnasium's own classes alone, whatever the id, and with no other arguments than those that it knows.
    """
    return kind_of(env) is not None


def will_be_batched(env: EnvSpec) -> bool:
    """Whether that is how `make_vector_environment` has it stepped, be it asked for or the best there is."""
    can_be = env.frame_stack == 1 and not env.action_masks and is_batched(env)
    return env.vectorization == "batched" or (env.vectorization == "auto" and can_be)


def kind_of(env: EnvSpec) -> Kind | None:
    """What an environment is compiled as; None where it is not `is_batched`."""
    try:
        registration = find_environment(env.id).registration
    except UnknownEnvironment:
        return None
    entry_point = registration.entry_point
    kind = KINDS.get(entry_point) if isinstance(entry_point, str) else None
    if kind is None or registration.additional_wrappers:
        return None
    return kind if kind.arguments >= {*registration.kwargs, *env.kwargs} else None
