"""Which inputs become the test vectors of a policy: such that a runtime which leaves something out acts otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ppo_engine.actions import ActionManifest, bounds, by_leaf, is_integer, likeliest_actions
from ppo_engine.bundle import LoadedPolicy
from ppo_engine.envs.spaces import Rows
from ppo_engine.inference import Floats

VECTORS = 16
"""Observations of the test vectors, at most."""
VECTOR_STEPS = 4
"""Consecutive steps of those of a policy with memory."""
VECTOR_NUMBERS = 2**16
"""Numbers of all of them, at most where there is more than one: images are long as JSON."""
CANDIDATES = 64
"""Observations that are made up, where those of training do not tell enough."""
MANY_PARAMETERS = 2**20
"""A policy with more is tried on observations of training alone: it is slow in NumPy."""
NOTICEABLE = 1e-3

Masks: TypeAlias = NDArray[np.bool_]


class Inputs(NamedTuple):
    """What a policy is given in one step."""

    observations: Rows
    """[n, D]"""
    masks: Masks | None
    """[n, masks]"""


def telling_inputs(policy: LoadedPolicy, observations: Rows, masks: Masks | None) -> list[Inputs]:
    """The inputs of one step, or of a few consecutive ones of a policy with memory.

    Among the rows are, where such are found, some whose actions are others without the masks, without the state of the
    step before, and without normalisation.

    Args:
        observations, masks: of training, [N, D] and [N, masks].
    """
    limit = max(1, min(VECTORS, VECTOR_NUMBERS // observations.shape[1]))
    candidates = _candidates(policy, observations[:limit])
    if masks is not None:
        masks = masks[np.arange(len(candidates)) % min(len(masks), limit)]
    steps = _masked_steps(policy, candidates, masks)
    expected = _played(policy, steps)
    tells = np.array([_differs(policy, expected, other) for other in _without(policy, steps)], dtype=np.bool_)
    chosen = _chosen(tells.reshape(-1, len(candidates)), limit, len(observations))
    return [Inputs(step.observations[chosen], None if step.masks is None else step.masks[chosen]) for step in steps]


def _candidates(policy: LoadedPolicy, observations: Rows) -> Rows:
    """Observations of training, and others about as far apart as those that the normaliser has seen."""
    manifest = policy.manifest
    is_large = sum(tensor.size for tensor in policy.tensors.values()) > MANY_PARAMETERS
    if manifest.images or is_large or manifest.observation_space.get("type") != "Box":
        return observations
    centre, spread = observations.mean(axis=0), observations.std(axis=0) + 1.0
    if manifest.normalizer is not None:
        centre = policy.tensors[manifest.normalizer.mean]
        spread = np.sqrt(policy.tensors[manifest.normalizer.variance])
    noise = np.random.default_rng(0).normal(size=(CANDIDATES, observations.shape[1]))
    return np.concatenate([observations, (centre + spread * noise).astype(observations.dtype)])


def _masked_steps(policy: LoadedPolicy, rows: Rows, masks: Masks | None) -> list[Inputs]:
    """The steps, each with the observations of another row; what every second row would choose is not valid there."""
    state = np.zeros((len(rows), policy.state_size), np.float32)
    steps = []
    for number in range(VECTOR_STEPS if policy.state_size else 1):
        seen = np.roll(rows, number, axis=0)
        valid = None
        if masks is not None:
            valid = np.roll(masks, number, axis=0).copy()
            valid[1::2] = _all_but_the_likeliest(policy.heads(seen, state), policy.manifest.action_space)[1::2]
        steps.append(Inputs(seen, valid))
        _, state = policy.step(seen, state, valid)
    return steps


def _all_but_the_likeliest(heads: Floats, space: ActionManifest) -> Masks:
    chosen = by_leaf(likeliest_actions(heads, space), [leaf.columns for leaf in space.leaves])
    blocks = []
    for leaf, own in zip(space.leaves, chosen, strict=True):
        sizes = () if leaf.kind == "box" else leaf.sizes
        for head, size in enumerate(sizes):
            blocks.append((np.arange(size) != own[:, [head]]) | (size == 1))
    return np.concatenate(blocks, axis=1)


def _without(policy: LoadedPolicy, steps: Sequence[Inputs]) -> list[NDArray[Any]]:
    """What comes of leaving out one of the things that the policy has."""
    played = []
    if steps[0].masks is not None:
        played.append(_played(policy, [Inputs(step.observations, None) for step in steps]))
    if policy.state_size:
        played.append(_played(policy, steps, is_remembering=False))
    if policy.manifest.normalizer is not None:
        raw = replace(policy, manifest=policy.manifest.model_copy(update={"normalizer": None}))
        played.append(_played(raw, steps))
    return played


def _played(policy: LoadedPolicy, steps: Sequence[Inputs], *, is_remembering: bool = True) -> NDArray[Any]:
    """Action rows [steps, n, columns]."""
    state = np.zeros((len(steps[0].observations), policy.state_size), np.float32)
    rows = []
    for observations, masks in steps:
        actions, after = policy.step(observations, state, masks)
        rows.append(actions)
        state = after if is_remembering else state
    return np.stack(rows)


def _differs(policy: LoadedPolicy, ours: NDArray[Any], theirs: NDArray[Any]) -> Masks:
    """Which rows [n] come to other actions of the environment at some step."""
    space = policy.manifest.action_space
    columns = [leaf.columns for leaf in space.leaves]
    differs = np.zeros(ours.shape[1], np.bool_)
    for step, other in zip(ours, theirs, strict=True):
        for leaf, own, its in zip(space.leaves, by_leaf(step, columns), by_leaf(other, columns), strict=True):
            if leaf.kind != "box":
                differs |= (own != its).any(axis=1)
                continue
            clipped = [np.clip(np.rint(part) if is_integer(leaf) else part, *bounds(leaf)) for part in (own, its)]
            differs |= (np.abs(clipped[0] - clipped[1]) > NOTICEABLE * np.maximum(1, np.abs(clipped[0]))).any(axis=1)
    return differs


def _chosen(tells: Masks, limit: int, observed: int) -> NDArray[np.intp]:
    """Rows for each of the things that may be left out, [things, n], and rows of training as far as there is room."""
    by_merit = np.argsort(-tells.sum(axis=0), kind="stable")
    chosen: list[int] = []
    for tell in tells:
        share = max(1, limit // (2 * len(tells)))
        chosen += [row for row in by_merit.tolist() if tell[row] and row not in chosen][:share]
    chosen += [row for row in range(observed) if row not in chosen]
    return np.sort(np.array(chosen[:limit], dtype=np.intp))
