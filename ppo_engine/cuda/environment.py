"""Classic-control environments whose states never leave the device."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from ppo_engine.cuda.generators import device_generator, generator_state, restore_generator
from ppo_engine.cuda.physics import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum, Physics
from ppo_engine.envs.arguments import checked_kwargs
from ppo_engine.envs.registry import environment_arguments, episode_limit, find_environment, make_unlimited
from ppo_engine.envs.spaces import ObservationEncoder, action_space_of
from ppo_engine.envs.vector import EXACT, EnvironmentState, Resumability, Step, Vectorization
from ppo_engine.spec import EnvSpec, InvalidSpec, SpecFault

PHYSICS: Mapping[str, Callable[..., Physics]] = {
    "gymnasium.envs.classic_control.acrobot:AcrobotEnv": Acrobot,
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv": CartPole,
    "gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv": MountainCarContinuous,
    "gymnasium.envs.classic_control.mountain_car:MountainCarEnv": MountainCar,
    "gymnasium.envs.classic_control.pendulum:PendulumEnv": Pendulum,
}
"""By the entry points that Gymnasium registers, so that every version of an id is found, and no namesake."""

NO_LIMIT = 2**62


class Transition(NamedTuple):
    """A step of all environments, [N, ...] each; the first five as in `envs.vector.Step`."""

    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observations: Tensor
    physics: Tensor
    """Where the environments stand now: at the start of the next episode where one ended."""
    lengths: Tensor
    """int64, steps of the episodes under way."""


def is_device_native(env: EnvSpec) -> bool:
    """Whether the environment has a form that lives on the device. Raises UnknownEnvironment."""
    return find_environment(env.id).registration.entry_point in PHYSICS


class DeviceEnvironment:
    """N copies, stepped as one tensor operation after another, in float32.

    `transition` is a pure function, which the collector captures. `step` is the same for callers on the host.
    """

    vectorization: Vectorization = "device"
    vectorization_reason = "the environment has a form that lives on the device"

    def __init__(self, env: EnvSpec, sequence: np.random.SeedSequence, *, device: torch.device) -> None:
        """Makes the environments, which stand nowhere until `reset` or `restore`.

        Args:
            sequence: seeds the one stream from which all of them draw the starts of their episodes.
        Raises: UnknownEnvironment; InvalidSpec where it has no such form, or for arguments that it does not take.
        """
        registration = find_environment(env.id).registration
        if not is_device_native(env):
            raise InvalidSpec([SpecFault("/env/vectorization", f"{env.id} has no form that lives on the device")])
        kwargs = {**registration.kwargs, **checked_kwargs(env.id, environment_arguments(env.id), env.kwargs)}
        self.law = PHYSICS[cast(str, registration.entry_point)](**kwargs)
        limit = episode_limit(env)
        self.limit = NO_LIMIT if limit is None else limit
        self.n_envs = env.n_envs
        self.device = device
        self.resume: Resumability = EXACT
        self.foreseen: Resumability = EXACT
        model = make_unlimited(env)
        self.encoder = ObservationEncoder(model.observation_space)
        self.action_space = action_space_of(model.action_space)
        model.close()
        self.observation_size = self.encoder.size
        self.generator = device_generator(sequence, device)
        self.physics = self.law.begin(torch.zeros(self.n_envs, self.law.draws, device=device))
        self.lengths = torch.zeros(self.n_envs, dtype=torch.int64, device=device)

    def transition(self, physics: Tensor, lengths: Tensor, actions: Tensor, uniforms: Tensor) -> Transition:
        """One step of all environments, and the start of new episodes where it ended one.

        Args:
            physics, lengths: where they stand, [N, S] and [N].
            actions: rows [N, columns] as the environment takes them, unclipped.
            uniforms: [N, draws] in [0, 1), used where an episode ends.
        """
        after, rewards, terminated = self.law.advance(physics, actions)
        lengths = lengths + 1
        truncated = lengths >= self.limit
        done = terminated | truncated
        following = torch.where(done.unsqueeze(1), self.law.begin(uniforms), after)
        return Transition(
            observations=self.law.observe(following),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            final_observations=self.law.observe(after),
            physics=following,
            lengths=lengths.masked_fill(done, 0),
        )

    def observations(self) -> Tensor:
        """[N, D], where the environments stand."""
        return self.law.observe(self.physics)

    def reset(self) -> NDArray[np.float32]:
        self.physics.copy_(self.law.begin(self._draw()))
        self.lengths.zero_()
        return self._seen()

    def step(self, actions: NDArray[Any]) -> Step:
        rows = torch.as_tensor(actions, device=self.device)
        made = self.transition(self.physics, self.lengths, rows, self._draw())
        self.physics.copy_(made.physics)
        self.lengths.copy_(made.lengths)
        return Step(
            observations=made.observations.cpu().numpy(),
            rewards=made.rewards.double().cpu().numpy(),
            terminated=made.terminated.cpu().numpy(),
            truncated=made.truncated.cpu().numpy(),
            final_observations=made.final_observations.cpu().numpy(),
            valid=np.ones(self.n_envs, np.bool_),
        )

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        return {
            "device/physics": self.physics.cpu().numpy().copy(),
            "device/lengths": self.lengths.cpu().numpy().copy(),
            "device/generator": generator_state(self.generator),
        }

    def restore(self, state: EnvironmentState) -> NDArray[np.float32]:
        self.physics.copy_(torch.from_numpy(cast(NDArray[Any], state["device/physics"])))
        self.lengths.copy_(torch.from_numpy(cast(NDArray[Any], state["device/lengths"])))
        restore_generator(self.generator, cast(dict[str, Any], state["device/generator"]))
        return self._seen()

    def close(self) -> None: ...

    def _draw(self) -> Tensor:
        return torch.rand(self.n_envs, self.law.draws, generator=self.generator, device=self.device)

    def _seen(self) -> NDArray[np.float32]:
        # A copy: an observation may be a view of the physics, which go on.
        return self.observations().cpu().numpy().copy()
