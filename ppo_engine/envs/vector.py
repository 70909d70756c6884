"""The contract of vector environments: N copies of one environment, stepped together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import JsonValue

from ppo_engine.envs.spaces import ActionSpace, ObservationEncoder, Rows
from ppo_engine.spec import EnvSpec, InvalidSpec, masking_fault, stacking_fault

EnvironmentState: TypeAlias = Mapping[str, NDArray[Any] | JsonValue]
"""Flat names, `env/3/actions` and so on; arrays go to safetensors, the rest to JSON."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of N environments led to.

    The arrays are the environment's own and are overwritten by the next step: copy what is to be kept.
    """

    observations: Rows
    """[N, D], of the encoder's type; what the policy acts on next: after the end of an episode, the first observation
    of the next one."""
    rewards: NDArray[np.float64]
    """[N]"""
    terminated: NDArray[np.bool_]
    """[N]; the episode reached an end of its own: nothing is to be had after it."""
    truncated: NDArray[np.bool_]
    """[N]; the episode was cut off. Where `terminated` holds as well, that wins."""
    final_observations: Rows
    """[N, D]; what the step itself led to, before any reset; equals `observations` where no episode ended."""
    valid: NDArray[np.bool_]
    """[N]; False marks a row that is no step but the reset of a foreign environment; it must weigh nothing."""
    lives_lost: NDArray[np.bool_] | None = None
    """[N]; a life of several was lost: nothing is to be had after it, but the episode goes on. None: there are none."""
    action_masks: NDArray[np.bool_] | None = None
    """[N, masks]; what may be done at `observations`, in the order of the heads; None where the spec asks for none."""


class HasLives:
    """An environment in which a life may be lost without the episode's end; `life_lost` tells it of the last step.

    A vector form tells it of each of its environments, [N].
    """

    life_lost: bool | NDArray[np.bool_] = False


@dataclass(frozen=True, slots=True)
class Resumability:
    """Whether training goes on from a checkpoint with the very bits that it would have had; if not, why."""

    kind: Literal["exact", "approximate"]
    reason: str | None = None


EXACT = Resumability("exact")


Vectorization: TypeAlias = Literal["sync", "process", "batched", "device", "native", "envpool"]


class VectorEnvironment(Protocol):
    """N copies of one environment."""

    n_envs: int
    observation_size: int
    """Features of a flattened observation (D)."""
    encoder: ObservationEncoder
    action_space: ActionSpace
    vectorization: Vectorization
    vectorization_reason: str
    resume: Resumability
    """How well the last `restore` succeeded."""
    foreseen: Resumability
    """Whether the last `state` can be restored exactly, as far as that can be seen."""

    def reset(self) -> Rows:
        """Seeds every environment from its own stream and starts its first episode; [N, D]. Called once."""
        ...

    def step(self, actions: NDArray[Any]) -> Step:
        """Steps all environments and resets those whose episode ended.

        Args:
            actions: rows of `action_space`: float32 [N, A], unclipped, or int64 [N, heads].
        Raises: EnvironmentFault, naming the environment, its episode and step.
        """
        ...

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        """All that `restore` needs; the same whatever the vectorization."""
        ...

    def restore(self, state: EnvironmentState) -> Rows:
        """Brings the environments to where `state` was taken, and returns the observations [N, D] there.

        Sets `resume` to approximate, with the reason, where the replay led elsewhere.
        """
        ...

    def close(self) -> None:
        """Ends the environments and every process that steps them. May be called again."""
        ...


def allocate_step(
    n_envs: int, observation_size: int, dtype: DTypeLike = np.float32, *, masks: int | None = None
) -> Step:
    """The arrays of a `Step`, zeroed, with every row valid; `dtype` is that of observations.

    Args:
        masks: columns of action masks, all valid; None: there are none.
    """
    return Step(
        observations=np.zeros((n_envs, observation_size), dtype),
        rewards=np.zeros(n_envs, np.float64),
        terminated=np.zeros(n_envs, np.bool_),
        truncated=np.zeros(n_envs, np.bool_),
        final_observations=np.zeros((n_envs, observation_size), dtype),
        valid=np.ones(n_envs, np.bool_),
        lives_lost=np.zeros(n_envs, np.bool_),
        action_masks=None if masks is None else np.ones((n_envs, masks), np.bool_),
    )


def seed_of(sequence: np.random.SeedSequence) -> int:
    """The integer that an environment is seeded with: 32 bits, since some environments take no more."""
    return int(sequence.generate_state(1, np.uint32)[0])


def make_vector_environment(
    env: EnvSpec, seeds: Sequence[np.random.SeedSequence], *, cores: int | None = None
) -> VectorEnvironment:
    """`env.n_envs` copies of an environment, in the vectorization that the spec names.

    `auto` is `batched` where there is that form. Else it is `process` where `choice.choose` measures that it pays,
    and `sync` where it does not.

    Args:
        seeds: one stream per environment; environment i draws from `seeds[i]` alone, so that its episodes depend
            neither on how many environments there are nor on which process steps them.
        cores: those that `auto`, `native` and `envpool` may count on; None: all that this process may run on.
    Raises: UnknownEnvironment, UnsupportedSpace, InvalidSpec, EnvironmentFault.
    """
    # Imported here, since these modules implement the contract that this one states.
    from ppo_engine.envs.batched import BatchedVectorEnvironment, will_be_batched
    from ppo_engine.envs.choice import choose, usable_cores
    from ppo_engine.envs.native import NativeVectorEnvironment
    from ppo_engine.envs.pool import PoolVectorEnvironment
    from ppo_engine.envs.process import ProcessVectorEnvironment
    from ppo_engine.envs.state.surroundings import isolated
    from ppo_engine.envs.sync import SyncVectorEnvironment

    if len(seeds) != env.n_envs:
        raise ValueError(f"{env.n_envs} environments need as many seeds, not {len(seeds)}")
    faults = [fault for fault in (stacking_fault(env), masking_fault(env)) if fault is not None]
    if faults:
        raise InvalidSpec(faults)
    integers = [seed_of(sequence) for sequence in seeds]
    cores = cores or usable_cores()
    match env.vectorization:
        case "batched":
            return BatchedVectorEnvironment(env, integers)
        case "process":
            return ProcessVectorEnvironment(env, integers)
        case "native":
            return NativeVectorEnvironment(env, integers, threads=cores)
        case "envpool":
            return PoolVectorEnvironment(env, integers, threads=cores)
        case "sync":
            return SyncVectorEnvironment(env, integers)
    if will_be_batched(env):
        return BatchedVectorEnvironment(env, integers)
    with isolated():
        choice = choose(env, cores=cores)
    chosen: VectorEnvironment = (
        ProcessVectorEnvironment(env, integers, workers=choice.workers)
        if choice.workers
        else SyncVectorEnvironment(env, integers)
    )
    chosen.vectorization_reason = choice.reason
    return chosen
