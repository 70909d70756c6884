"""What `auto` makes of environments without a batched form: `sync`, or `process` where a measurement says that it pays.

Both give the same bits, so that the clock may decide. What is measured is an environment made for that alone.
"""

import math
import os
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.registry import find_environment
from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.errors import EnvironmentFault, EnvironmentTimedOut
from ppo_engine.spec import EnvSpec

PROBE_SECONDS = 0.03
EXCHANGE_SECONDS = 50e-6
"""What a process costs per step: waking it, and being woken by it."""
WORTH = 1.5
"""How many times sooner a step must be done to be worth the memory and the start of the processes."""
CHEAP = ("gymnasium.envs.classic_control", "gymnasium.envs.toy_text")
"""Packages whose environments take a few microseconds each: thousands would be needed for processes to pay."""


@dataclass(frozen=True)
class Choice:
    """How environments are to be stepped: by so many processes, 0 for none, and why."""

    workers: int
    reason: str


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose(env: EnvSpec, *, cores: int) -> Choice:
    """How `env.n_envs` environments are stepped soonest on so many cores that have nothing else to do.

    Raises: as making one environment does; EnvironmentTimedOut.
    """
    here = "stepped in the training process"
    if env.n_envs == 1:
        return Choice(0, f"{here}: there is one environment")
    if cores == 1:
        return Choice(0, f"{here}: it has one CPU core")
    if str(find_environment(env.id).registration.entry_point).startswith(CHEAP):
        return Choice(0, f"{here}: a step is cheaper than waking another one")
    try:
        seconds = step_seconds(env)
    except EnvironmentTimedOut:
        raise
    except EnvironmentFault as fault:
        # It may be due to actions that no policy would take; if not, training comes upon it too.
        return Choice(0, f"{here}: measuring a step failed, {fault}")
    return choose_by_time(env.n_envs, seconds, cores=cores)


def choose_by_time(n_envs: int, seconds: float, *, cores: int) -> Choice:
    """How environments are stepped soonest whose steps take so long each; `n_envs` and `cores` are 2 or more."""
    measured = f"{n_envs} environments, {seconds * 1e6:.0f} us a step"
    shared = {k: math.ceil(n_envs / k) * seconds + k * EXCHANGE_SECONDS for k in range(2, min(cores, n_envs) + 1)}
    workers = min(shared, key=shared.__getitem__)
    if n_envs * seconds < WORTH * shared[workers]:
        return Choice(0, f"stepped in the training process: {measured}, too little to share among {workers} processes")
    return Choice(workers, f"stepped by {workers} processes: {measured}")


def step_seconds(env: EnvSpec) -> float:
    """What a step of one environment takes under random actions, the median of those done in PROBE_SECONDS."""
    probe = SyncVectorEnvironment(env.model_copy(update={"n_envs": 1}), [0])
    try:
        probe.reset()
        rows = random_rows(probe.action_space)
        times = [time.perf_counter()]
        while times[-1] - times[0] < PROBE_SECONDS:
            row = rows[len(times) % len(rows)]
            if probe.action_masks is not None:
                row = valid_row(probe.action_masks[0], probe.action_space)
            probe.step(row[None])
            times.append(time.perf_counter())
    finally:
        probe.close()
    # Not the mean: whatever else runs on this core takes longer than many steps.
    return statistics.median(after - before for before, after in pairwise(times))


def valid_row(mask: NDArray[np.bool_], space: ActionSpace) -> NDArray[np.generic]:
    """The first valid choice of each head, [columns]."""
    first = iter([head.argmax() for head in np.split(mask, np.cumsum(space.choices)[:-1])])
    columns = [0.0 if leaf.kind == "box" else next(first) for leaf in space.leaves for _ in range(leaf.columns)]
    return np.array(columns, space.row_dtype)


def random_rows(space: ActionSpace) -> NDArray[np.generic]:
    """Some action rows [256, columns], from no stream of a training."""
    draw = np.random.default_rng(0)
    columns: list[NDArray[np.generic]] = []
    for leaf in space.leaves:
        shape = (256, leaf.columns)
        columns.append(draw.standard_normal(shape) if leaf.kind == "box" else draw.integers(0, leaf.sizes, shape))
    return np.concatenate(columns, axis=1).astype(space.row_dtype)
