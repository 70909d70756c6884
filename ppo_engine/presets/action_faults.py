"""What is wrong between the action heads that a spec asks for and the environment's action space."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from ppo_engine.spec import EnvironmentDescription, SpecFault, TrainingSpec

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest number of float32."""


def noise_faults(spec: TrainingSpec) -> list[SpecFault]:
    """What is wrong with the noise of continuous actions, whatever the environment."""
    policy, faults = spec.policy, []
    if policy.use_sde and policy.state_dependent_std:
        message = "use_sde makes the standard deviation depend on the state already"
        faults.append(SpecFault("/policy/state_dependent_std", message))
    if policy.sde_sample_freq is not None and not policy.use_sde:
        faults.append(SpecFault("/policy/sde_sample_freq", "means nothing without use_sde"))
    elif policy.sde_sample_freq is not None and policy.sde_sample_freq > spec.ppo.n_steps:
        message = f"{policy.sde_sample_freq} is more than n_steps = {spec.ppo.n_steps}: each rollout draws noise anew"
        faults.append(SpecFault("/policy/sde_sample_freq", message))
    return faults


def action_faults(spec: TrainingSpec, environment: EnvironmentDescription) -> list[SpecFault]:
    """What a spec asks of continuous actions that the environment has not."""
    # Arguments may change the action space: where they are not described, the fault is found when it is made.
    if not environment.describes(spec.env):
        return []
    policy, space, faults = spec.policy, environment.action_space, []
    boxes = _boxes(space)
    if policy.squash_output and not (boxes and all(map(_has_bounds, boxes))):
        faults.append(SpecFault("/policy/squash_output", f"{environment.id} has no Box actions with finite bounds"))
    if spec.env.action_masks and not any(kind != "Box" for kind in _kinds(space)):
        faults.append(SpecFault("/env/action_masks", f"{environment.id} has Box actions, which cannot be masked"))
    if policy.state_dependent_std and not boxes:
        faults.append(SpecFault("/policy/state_dependent_std", f"{environment.id} has no Box actions"))
    if policy.use_sde and space.get("type") != "Box":
        message = "its action is no Box" if boxes else "it has no Box actions"
        faults.append(SpecFault("/policy/use_sde", f"{environment.id}: {message}"))
    if spec.backend == "fused" and is_product(space):
        faults.append(SpecFault("/backend", "the fused backend does not know Dict and Tuple actions"))
    return faults


def is_product(action_space: Mapping[str, JsonValue]) -> bool:
    """Whether a space, as the catalogue describes it, is made of others."""
    return action_space.get("type") in ("Dict", "Tuple")


def _leaves(space: Any) -> Iterator[Mapping[str, JsonValue]]:
    """The spaces that a space, as the catalogue describes it, is made of, to any depth."""
    if not is_product(space):
        yield space
        return
    parts = space["spaces"]
    for part in parts.values() if isinstance(parts, dict) else parts:
        yield from _leaves(part)


def _kinds(space: Mapping[str, JsonValue]) -> list[JsonValue]:
    return [leaf.get("type") for leaf in _leaves(space)]


def _boxes(space: Mapping[str, JsonValue]) -> list[Mapping[str, JsonValue]]:
    return [leaf for leaf in _leaves(space) if leaf.get("type") == "Box"]


def _has_bounds(action_space: Mapping[str, JsonValue]) -> bool:
    """Whether a space, as the catalogue describes it, is a Box with a number for each of its bounds."""
    return action_space.get("type") == "Box" and all(_is_finite(action_space.get(bound)) for bound in ("low", "high"))


def _is_finite(bound: JsonValue) -> bool:
    """Whether every number is one that float32 can hold, in which policies compute."""
    if isinstance(bound, list):
        return all(map(_is_finite, bound))
    return isinstance(bound, int | float) and abs(bound) <= LARGEST
