"""Steps per second against the number of environments and the width of the network, compiled and torch side by side.

CartPole, four minibatches and four epochs. The seconds are those of CPU time, of one thread on one core, so that it
does not matter much what else the machine does in the minutes that this takes. Finished cells are kept with the sources
that they were measured with, so that an interrupted run goes on where it stopped.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from pydantic import JsonValue

from benchmarks.contestants import hold_to_one_core, train_ours
from benchmarks.record import (
    REPOSITORY,
    RESULTS,
    Record,
    append,
    machine,
    read,
    run_module,
    table,
    versions,
    with_own_kernels,
)
from benchmarks.tasks import Task, training_spec
from ppo_engine.presets import resolve
from ppo_engine.presets.backends import choose_backend

FILE = RESULTS / "scaling.jsonl"
ENVIRONMENTS = (1, 4, 16, 64, 256, 1024)
WIDTHS = (32, 64, 128, 256, 512)
BACKENDS: tuple[Literal["fused"], Literal["torch"]] = ("fused", "torch")
LEAST_ROWS, LEAST_STEPS = 1024, 16
SECONDS = 2.0

Cell = tuple[int, int, str]
"""Environments, width, backend."""


def task_of(n_envs: int, width: int) -> Task:
    """A rollout of at least LEAST_ROWS rows and LEAST_STEPS steps, learnt from in minibatches of a quarter."""
    n_steps = max(LEAST_ROWS // n_envs, LEAST_STEPS)
    rows = n_envs * n_steps
    name = f"{n_envs} environments, {width} wide"
    return Task(
        name, "CartPole-v1", n_envs, n_steps, 4, rows // 4, total_timesteps=2 * rows, hidden_sizes=(width, width)
    )


def cells(environments: Sequence[int], widths: Sequence[int]) -> Iterator[Cell]:
    """All of the table, the two backends of a cell next to each other."""
    for n_envs in environments:
        for width in widths:
            for backend in BACKENDS:
                yield n_envs, width, backend


def sources() -> str:
    """Names the content of the engine, so that an older one's cells are not taken for this one's."""
    digest = hashlib.sha256()
    for path in sorted((REPOSITORY / "ppo_engine").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def identity(cell: Cell, run: int, engine: str) -> Record:
    """What makes a measurement the same as another."""
    n_envs, width, backend = cell
    return {
        "benchmark": "scaling",
        "n_envs": n_envs,
        "hidden_size": width,
        "backend": backend,
        "run": run,
        "engine": engine,
        "machine": machine(),
        "versions": versions("torch", "numpy", "numba"),
    }


def measured(cell: Cell, run: int, engine: str, finished: Sequence[Record]) -> float:
    """A cell's speed, from the file where it is known, else from a run that is appended to it."""
    wish = identity(cell, run, engine)
    record = next((record for record in finished if wish.items() <= record.items()), None)
    if record is None:
        n_envs, width, backend = cell
        outcome = run_module("benchmarks.scaling", ["--run", json.dumps(asdict(task_of(n_envs, width))), backend])
        record = {**wish, **outcome}
        append(FILE, record)
    speed, share = record["steps_per_second"], record["core_share"]
    assert isinstance(speed, float) and isinstance(share, float)
    speed /= share
    print(f"{cell[0]:5} environments, {cell[1]:4} wide, {cell[2]}: {speed:10,.0f} steps/s", file=sys.stderr)
    return speed


def picked(n_envs: int, width: int) -> str:
    """The backend that `auto` is."""
    return choose_backend(resolve(training_spec(task_of(n_envs, width), seed=0)))[0]


def rows(speeds: Mapping[Cell, float], environments: Sequence[int], widths: Sequence[int]) -> list[list[str]]:
    """A row for each number of environments; fused and torch in each cell, and a star at what `auto` picks."""
    lines = []
    for n_envs in environments:
        line = [str(n_envs)]
        for width in widths:
            auto = picked(n_envs, width)
            line.append(" / ".join(f"{speeds[n_envs, width, b]:,.0f}{'*' * (b == auto)}" for b in BACKENDS))
        lines.append(line)
    return lines


def main() -> int:
    """Prints the table; with --json, one JSON object as the last line instead."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="of each cell; the median is printed")
    parser.add_argument("--environments", nargs="+", type=int, default=list(ENVIRONMENTS))
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=2, metavar=("TASK", "BACKEND"), help="one cell, in this process")
    options = parser.parse_args()
    if options.run:
        hold_to_one_core()
        task = Task(**json.loads(options.run[0]))
        print(json.dumps(train_ours(task, 0, backend=options.run[1], seconds=SECONDS)))
        return 0
    engine, finished = sources(), read(FILE)
    wanted = list(cells(options.environments, options.widths))
    runs = [{cell: measured(cell, run, engine, finished) for cell in wanted} for run in range(options.runs)]
    speeds = {cell: statistics.median(run[cell] for run in runs) for cell in wanted}
    if options.json:
        answer: list[JsonValue] = [
            {"n_envs": cell[0], "hidden_size": cell[1], "backend": cell[2], "steps_per_cpu_second": speeds[cell],
             "auto": picked(cell[0], cell[1]) == cell[2]}
            for cell in wanted
        ]  # fmt: skip
        print(json.dumps({"machine": machine(), "cells": answer}))
        return 0
    print(
        f"{machine()}; one core; steps per CPU second of fused / torch, median of {options.runs}; * what `auto` picks"
    )
    header = ["environments", *(f"2×{width} wide" for width in options.widths)]
    print(table(header, rows(speeds, options.environments, options.widths)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
