"""Where an iteration of ours goes, phase by phase.

Phases that are Python calls are timed as they happen. A compiled loop cannot be looked into: what happens inside is
timed alone, on the same data, and the rest of the loop is what remains.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.contestants import ENDLESS, hold_to_one_core
from benchmarks.record import Record, machine, table, with_own_kernels
from benchmarks.tasks import TASKS, Task, training_spec

WARM_UP = 3
SECONDS = 4.0
ROLLOUT = ("rollout: acting", "rollout: environment", "rollout: storing and the rest")
UPDATE = ("advantages", "update: forward, loss, backward", "update: Adam")
BOOKKEEPING = "bookkeeping"
PHASES = (*ROLLOUT, *UPDATE, BOOKKEEPING)

Times = dict[str, float]
"""Seconds by what took them."""


class Stopwatch:
    """Adds up the time that wrapped functions take, by name."""

    def __init__(self) -> None:
        self.seconds: Times = defaultdict(float)

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timing(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timing

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Times a method of one object from now on."""
        setattr(owner, method, self.timed(getattr(owner, method), name))


def profile(task: Task, backend: str, seconds: float = SECONDS) -> Record:
    """The median seconds of each phase over some seconds of training."""
    from ppo_engine.trainer import Trainer

    trainer = Trainer(
        training_spec(task, seed=0, backend=backend, total_timesteps=ENDLESS), threads=1, environment_cores=1
    )
    watch = Stopwatch()
    parts = trainer._components  # A profile looks inside.
    fused = trainer.runtime["backend"] == "fused"
    measure = _fused_phases if fused else _torch_phases
    watch.wrap(parts.backend.collector, "collect", "collect")
    watch.wrap(parts.backend.learner, "learn", "learn")
    with measure(parts, watch) as phases:
        samples = list(_samples(trainer.iterations(), watch, phases, seconds))
    trainer.close()
    medians = {phase: statistics.median(sample[phase] for sample in samples) for phase in PHASES}
    total = sum(medians.values())
    return {
        "task": task.name,
        "backend": trainer.runtime["backend"],
        "vectorization": trainer.runtime["vectorization"],
        "iterations": len(samples),
        "seconds": total,
        "steps_per_second": task.rows / total,
        "phases": {phase: medians[phase] for phase in PHASES},
    }


def split(total: float, known: Mapping[str, float]) -> Times:
    """The phases of an iteration that took `total` seconds.

    Args:
        known: seconds of `collect` and `learn`, and of the phases inside them but for the last one of the rollout, and
            for what is neither advantages nor Adam in the update: those are what remains, nothing at least.
    """
    phases = {name: known[name] for name in (*ROLLOUT[:2], UPDATE[0], UPDATE[2])}
    phases[ROLLOUT[2]] = max(known["collect"] - sum(known[name] for name in ROLLOUT[:2]), 0.0)
    phases[UPDATE[1]] = max(known["learn"] - known[UPDATE[0]] - known[UPDATE[2]], 0.0)
    phases[BOOKKEEPING] = max(total - known["collect"] - known["learn"], 0.0)
    return phases


def _samples(
    iterations: Iterator[object], watch: Stopwatch, phases: Callable[[], Times], seconds: float
) -> Iterator[Times]:
    """The phases of each iteration after the first few."""
    deadline = 0.0
    for done in range(sys.maxsize):
        watch.seconds.clear()
        began = time.perf_counter()
        next(iterations)
        total = time.perf_counter() - began
        known = {**watch.seconds, **phases()}
        if done < WARM_UP:
            deadline = time.perf_counter() + seconds
            continue
        yield split(total, known)
        if time.perf_counter() > deadline:
            return


@contextmanager
def _torch_phases(parts: Any, watch: Stopwatch) -> Iterator[Callable[[], Times]]:
    """Everything is called from Python here."""
    watch.wrap(parts.environment, "step", ROLLOUT[1])
    watch.wrap(parts.policy, "act", ROLLOUT[0])
    watch.wrap(parts.backend.learner.adam, "step", UPDATE[2])
    from ppo_engine.advantages import advantages_and_returns

    with mock.patch("ppo_engine.targets.advantages_and_returns", watch.timed(advantages_and_returns, UPDATE[0])):
        yield dict


@contextmanager
def _fused_phases(parts: Any, watch: Stopwatch) -> Iterator[Callable[[], Times]]:
    """Times alone, after each iteration, what its compiled loops are made of."""
    from benchmarks import pieces

    batched = parts.environment.vectorization == "batched"
    if not batched:
        watch.wrap(parts.environment, "step", ROLLOUT[1])
    rollouts: list[Any] = []
    before: list[Any] = []
    learner, collector = parts.backend.learner, parts.backend.collector
    collect = collector.collect

    def kept() -> Any:
        before[:] = [pieces.copied(parts.environment.kernel)] if batched else []
        rollouts[:] = [collect()]
        return rollouts[0]

    def phases() -> Times:
        rollout = rollouts[0]
        minibatches = -(-int(np.count_nonzero(rollout.valid)) // learner.ppo.batch_size) * learner.ppo.n_epochs
        alone = {
            ROLLOUT[0]: pieces.acting_seconds(parts, rollout),
            UPDATE[0]: pieces.advantages_seconds(rollout, learner.ppo),
            UPDATE[2]: pieces.adam_seconds(learner.adam, minibatches),
        }
        if batched:
            alone[ROLLOUT[1]] = pieces.environment_seconds(before[0], rollout)
        return alone

    collector.collect = kept
    yield phases


def shares(record: Record) -> str:
    """The profile as a table."""
    phases, total = record["phases"], record["seconds"]
    assert isinstance(phases, dict) and isinstance(total, float)
    lines = [
        [name, f"{1000 * seconds:.3f}", f"{seconds / total:.1%}"]
        for name, seconds in phases.items()
        if isinstance(seconds, float)
    ]
    lines.append(["an iteration", f"{1000 * total:.3f}", f"{record['steps_per_second']:,.0f} steps/s"])
    label = TASKS[str(record["task"])].label
    title = f"{label}; backend {record['backend']}, environments {record['vectorization']}"
    return f"{title}; median of {record['iterations']} iterations\n" + table(("phase", "ms", "share"), lines)


def main() -> int:
    """Prints the profile as one JSON object."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--backend", choices=["auto", "torch", "fused"], default="auto")
    options = parser.parse_args()
    hold_to_one_core()
    print(json.dumps({"machine": machine(), **profile(TASKS[options.task], options.backend)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
