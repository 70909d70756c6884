"""What is tried of an environment, one thing after another, and what came of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ppo_engine.envs.choice import random_rows, valid_row
from ppo_engine.envs.masks import masks_method
from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.registry import environment_arguments, episode_limit, find_environment, make_environment
from ppo_engine.envs.spaces import action_space_of, flat_size
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import Step
from ppo_engine.errors import EngineError
from ppo_engine.spec import EnvSpec, InvalidSpec

N_ENVS = 2
SEED = 1
COMPARED_STEPS = 300
"""Of each run that is compared with another."""

Verdict = Literal["ok", "note", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: `ok`, worth a `note`, or a `fault` that keeps the environment from being used."""

    name: str
    verdict: Verdict
    text: str


@dataclass(slots=True)
class Played:
    """What came of stepping two environments with random actions."""

    digest: list[bytes] = field(default_factory=list)
    rewards: list[NDArray[np.float64]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    terminated: int = 0
    truncated: int = 0
    seconds: float = 0.0


def findings(env: EnvSpec, *, steps: int) -> Iterator[Finding]:
    """Each thing as soon as it has been tried; ends behind a fault, since nothing goes on from there."""
    env = env.model_copy(update={"n_envs": N_ENVS, "vectorization": "sync"})
    checks: list[Callable[[EnvSpec], Iterator[Finding]]] = [
        registration, construction, observations, lambda spec: episodes(spec, steps), seeds, processes, resume,
    ]  # fmt: skip
    names = ("registration", "construction", "observations", "episodes", "seeds", "processes", "resume")
    for name, check in zip(names, checks, strict=True):
        try:
            for finding in check(env):
                yield finding
                if finding.verdict == "fault":
                    return
        except (EngineError, InvalidSpec) as error:
            yield Finding(name, "fault", str(error))
            return
        except (Exception, SystemExit) as error:
            yield Finding(name, "fault", f"raised {type(error).__name__}: {error}")
            return


def registration(env: EnvSpec) -> Iterator[Finding]:
    found = find_environment(env.id)
    limit = episode_limit(env)
    ends = f"episodes are cut after {limit} steps" if limit else "episodes have no limit of steps"
    yield Finding("registration", "ok" if limit else "note", f"{env.id} of {found.origin}; {ends}")
    arguments = environment_arguments(env.id)
    told = ", ".join(f"{name}: {argument.wanted}" for name, argument in arguments.items())
    yield Finding("arguments", "ok", told or "it takes none")
    for name, argument in arguments.items():
        if argument.adapter is None:
            yield Finding("arguments", "note", f"{name} cannot be given by a spec")
    if found.registration.nondeterministic:
        yield Finding("registration", "note", "registered as nondeterministic: every resume is approximate")


def construction(env: EnvSpec) -> Iterator[Finding]:
    began = time.perf_counter()
    made = make_environment(env)
    seconds = time.perf_counter() - began
    yield Finding("construction", "ok", f"made in {seconds:.3g} s")
    size, actions = flat_size(made.observation_space), action_space_of(made.action_space)
    yield Finding("spaces", "ok", f"{size} observation numbers, actions {_short(made.action_space)}")
    if actions.kind == "box" and not actions.is_bounded:
        yield Finding("spaces", "note", "actions have no bounds: policies act as they are, around 0 with deviation 1")
    if masks_method(made) is not None:
        yield Finding("masks", "ok", "it says by action_masks() which actions are valid")
    made.close()


def observations(env: EnvSpec) -> Iterator[Finding]:
    """What a strict reader of Gymnasium's interface would say; a training is more lenient."""
    made: gymnasium.Env[Any, Any] = make_environment(env)
    made.action_space.seed(SEED)
    observation, info = made.reset(seed=SEED)
    outside = None if made.observation_space.contains(observation) else "the first"
    if not isinstance(info, dict):
        yield Finding("observations", "fault", f"reset gives a {type(info).__name__} as info, not a dict")
    mask = info.get("action_mask")
    for number in range(1, COMPARED_STEPS + 1):
        action = made.action_space.sample(mask) if _takes_mask(made.action_space, mask) else made.action_space.sample()
        observation, _, terminated, truncated, info = made.step(action)
        mask = info.get("action_mask")
        if outside is None and not made.observation_space.contains(observation):
            outside = f"that of step {number}"
        if terminated or truncated:
            observation, info = made.reset()
            mask = info.get("action_mask")
    made.close()
    if outside is not None:
        kind = getattr(observation, "dtype", type(observation).__name__)
        text = f"{outside} is not in {_short(made.observation_space)} for Gymnasium (it is of {kind})"
        yield Finding("observations", "note", text)
    else:
        yield Finding("observations", "ok", f"all of {COMPARED_STEPS} steps are in {_short(made.observation_space)}")


def episodes(env: EnvSpec, steps: int) -> Iterator[Finding]:
    made = SyncVectorEnvironment(env, [SEED, SEED + 1])
    try:
        made.reset()
        played = play(made, max(1, steps // N_ENVS))
    finally:
        made.close()
    rewards = np.concatenate(played.rewards)
    count = len(played.lengths)
    ends = f"{count} episodes ended, {played.terminated} by themselves and {played.truncated} cut"
    lengths = f", after {min(played.lengths)} to {max(played.lengths)} steps" if count else ""
    yield Finding("episodes", "ok" if count else "note", f"{len(rewards)} random steps: {ends}{lengths}")
    spread = f"rewards from {rewards.min():g} to {rewards.max():g}, mean {rewards.mean():.4g}"
    if np.ptp(rewards) == 0.0 and not played.terminated:
        yield Finding("rewards", "note", f"{spread}: nothing to tell random actions apart by")
    else:
        yield Finding("rewards", "ok", spread)
    if np.abs(rewards).max() > 1e4:
        yield Finding("rewards", "note", "they are large; normalize.rewards is for that")
    yield Finding("speed", "ok", f"{len(rewards) / played.seconds:,.0f} steps per second in one process")


def seeds(env: EnvSpec) -> Iterator[Finding]:
    first, again, other = (_digest(SyncVectorEnvironment(env, [seed, seed + 1])) for seed in (SEED, SEED, SEED + 7))
    if first != again:
        step = next(i for i, (a, b) in enumerate(zip(first, again, strict=True)) if a != b)
        text = f"two runs of one seed differ from step {step} on: something in it draws from no seed"
        yield Finding("seeds", "note", text)
    else:
        yield Finding("seeds", "ok", f"two runs of one seed are equal to the bit over {len(first) * N_ENVS} steps")
    if first == other:
        yield Finding("seeds", "note", "another seed changes nothing")


def processes(env: EnvSpec) -> Iterator[Finding]:
    here = _digest(SyncVectorEnvironment(env, [SEED, SEED + 1]))
    there = _digest(ProcessVectorEnvironment(env, [SEED, SEED + 1], workers=1))
    if here == there:
        yield Finding("processes", "ok", "stepped in another process it gives the same bits")
    else:
        yield Finding("processes", "note", "stepped in another process it gives other numbers")


def resume(env: EnvSpec) -> Iterator[Finding]:
    """Saves in the middle of an episode, goes on, and goes on again from what was saved."""
    original = SyncVectorEnvironment(env, [SEED, SEED + 1])
    original.reset()
    play(original, COMPARED_STEPS - 7)
    state = original.state()
    expected = play(original, COMPARED_STEPS, first=COMPARED_STEPS).digest
    original.close()
    restored = SyncVectorEnvironment(env, [SEED, SEED + 1])
    restored.restore(state)
    resumed = restored.resume
    same = play(restored, COMPARED_STEPS, first=COMPARED_STEPS).digest == expected
    restored.close()
    if resumed.kind == "exact" and not same:
        yield Finding("resume", "note", "what was restored looks the same and goes on otherwise: its state is hidden")
    elif resumed.kind == "exact":
        yield Finding("resume", "ok", "exact: what goes on from a checkpoint is equal to the bit")
    else:
        yield Finding("resume", "note", f"approximate: {resumed.reason}")


def play(environment: SyncVectorEnvironment | ProcessVectorEnvironment, steps: int, *, first: int = 0) -> Played:
    """So many steps of all environments, under valid random actions that depend on the number of the step alone."""
    played = Played()
    rows = random_rows(environment.action_space)
    lengths = np.zeros(environment.n_envs, np.int64)
    for number in range(first, first + steps):
        actions = np.stack([rows[(number * N_ENVS + index) % len(rows)] for index in range(environment.n_envs)])
        masks = environment.action_masks
        if masks is not None:
            actions = np.stack([valid_row(mask, environment.action_space) for mask in masks])
        began = time.perf_counter()
        step = environment.step(actions)
        played.seconds += time.perf_counter() - began
        lengths += 1
        played.rewards.append(step.rewards.copy())
        played.digest.append(_bytes_of(step))
        ended = step.terminated | step.truncated
        played.terminated += int(step.terminated.sum())
        played.truncated += int((ended & ~step.terminated).sum())
        played.lengths += lengths[ended].tolist()
        lengths[ended] = 0
    return played


def _digest(environment: SyncVectorEnvironment | ProcessVectorEnvironment) -> list[bytes]:
    try:
        first = environment.reset().tobytes()
        return [first, *play(environment, COMPARED_STEPS).digest]
    finally:
        environment.close()


def _bytes_of(step: Step) -> bytes:
    arrays = (step.observations, step.rewards, step.terminated, step.truncated, step.final_observations)
    return b"".join(array.tobytes() for array in arrays)


def _takes_mask(space: spaces.Space[Any], mask: Any) -> bool:
    return isinstance(space, spaces.Discrete) and isinstance(mask, np.ndarray) and mask.dtype == np.int8


def _short(space: spaces.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else text[:99] + "…"
