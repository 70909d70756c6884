"""Training throughput beside the peers: same task, hyperparameters, environment version, machine and minute.

Every run is a process of its own on one core; the order alternates, and what is quoted is the ratio. A run's first
iteration is not counted for anyone: it holds imports, compilation and first calls, which are told apart. A share of the
core below 98 % says that others used the machine: the ratio per CPU second then tells more than that per second.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import JsonValue

from benchmarks import peers
from benchmarks.contestants import CONTESTANTS
from benchmarks.profile import shares
from benchmarks.record import RESULTS, Record, append, machine, run_module, table, versions, with_own_kernels
from benchmarks.tasks import TASKS, Task

AT_HOME = ("ours", "ours-torch", "sb3", "raw")
"""Contestants that our own environment has; the others have one of theirs."""
OWN_PACKAGES = ("ppo-service", "stable-baselines3", "torch", "gymnasium", "mujoco", "numpy", "numba")
PEER_PACKAGES = ("sbx-rl", "jax", "flax", "gymnax", "tyro")


def present(names: Sequence[str], task: Task, found: dict[str, JsonValue]) -> tuple[list[str], list[str]]:
    """The contestants that can take part, and a sentence about each of the others."""
    absences = {name: peers.absence(name, task.env_id, found) for name in names}
    return (
        [name for name, reason in absences.items() if reason is None],
        [reason for reason in absences.values() if reason is not None],
    )


def run(contestant: str, task: Task, seed: int, *, cache: str) -> Record:
    """One run; `cache` is where our compiled code is kept."""
    python = sys.executable if contestant in AT_HOME else peers.interpreter()
    outcome = run_module(
        "benchmarks.contestants",
        [contestant, json.dumps(asdict(task)), str(seed)],
        python=python,
        variables={"NUMBA_CACHE_DIR": cache, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"},
    )
    record: Record = {
        "benchmark": "throughput",
        "task": asdict(task),
        "contestant": contestant,
        "seed": seed,
        "machine": machine(),
        "versions": versions(*OWN_PACKAGES) | ({} if python == sys.executable else peers.installed(PEER_PACKAGES)),
        **outcome,
    }
    told = f"{_speed(record):10,.0f} steps/s, {record['core_share']:.0%} of a core"
    print(f"{task.name:14} {contestant:10} run {seed}: {told}", file=sys.stderr)
    return record


def compare(task: Task, names: Sequence[str], runs: int, *, cache: str) -> tuple[list[Record], list[str]]:
    """`runs` runs of each contestant, in alternating order, appended to the results as they finish.

    Returns: the runs, and a sentence about each peer that failed and was left out from then on.
    """
    records: list[Record] = []
    failures: dict[str, str] = {}
    for seed in range(runs):
        for name in names if seed % 2 == 0 else reversed(names):
            if name in failures:
                continue
            try:
                records.append(run(name, task, seed, cache=cache))
            except RuntimeError as error:
                if name in AT_HOME:
                    raise
                failures[name] = f"{name} failed and is left out: {str(error).splitlines()[-1]}"
                continue
            append(RESULTS / "throughput.jsonl", records[-1])
    return [record for record in records if record["contestant"] not in failures], list(failures.values())


def with_start(speed: float, start_seconds: float, task: Task) -> float:
    """Steps per second of a whole training of the task's `total_timesteps`, its start counted."""
    return task.total_timesteps / (start_seconds + (task.total_timesteps - task.rows) / speed)


def summary(task: Task, records: Sequence[Record], compile_seconds: float | None = None) -> dict[str, Any]:
    """Each contestant's median, least and most, and how ours and the raw environment stand to it.

    Args:
        compile_seconds: what ours takes to compile, once per machine.
    """
    names = list(dict.fromkeys(str(record["contestant"]) for record in records))
    of = {name: [record for record in records if record["contestant"] == name] for name in names}
    speeds = {name: [_speed(record) for record in of[name]] for name in names}
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    own = {name: statistics.median(_speed_per_cpu_second(record) for record in of[name]) for name in names}
    answer: dict[str, Any] = {"task": task.name, "total_timesteps": task.total_timesteps, "contestants": {}}
    for name in names:
        starts = [start for record in of[name] if isinstance(start := record.get("start_seconds"), float)]
        start = statistics.median(starts) if starts else None
        answer["contestants"][name] = {
            "median": medians[name],
            "min": min(speeds[name]),
            "max": max(speeds[name]),
            "ratio": medians["ours"] / medians[name] if "ours" in medians else None,
            "ratio_per_cpu_second": own["ours"] / own[name] if "ours" in own else None,
            "share_of_raw": medians[name] / medians["raw"] if "raw" in medians else None,
            "start_seconds": start,
            "with_start": None if start is None else with_start(medians[name], start, task),
            "core_share": min(share for record in of[name] if isinstance(share := record["core_share"], float)),
            "returns": [record["return"] for record in of[name]],
        }
    ours = answer["contestants"].get("ours")
    if ours is not None and compile_seconds is not None:
        ours["compile_seconds"] = compile_seconds
        ours["with_compile"] = with_start(ours["median"], ours["start_seconds"] + compile_seconds, task)
    return answer


def header(task: Task) -> list[str]:
    """The head of `rows`."""
    columns = (
        "steps/s",
        "ours is",
        "per CPU s",
        "of raw",
        "start",
        "with start",
        "core",
        f"return at {task.total_timesteps:,}",
    )
    return [task.label, *columns]


def rows(answer: Mapping[str, Any]) -> list[list[str]]:
    """A summary as the rows of a table, one for each contestant."""
    lines = []
    for name, figures in answer["contestants"].items():
        alone = name in ("ours", "raw")
        returns = [value for value in figures["returns"] if isinstance(value, float)]
        lines.append(
            [
                name,
                f"{figures['median']:,.0f} ({figures['min']:,.0f} to {figures['max']:,.0f})",
                _or_blank(None if alone else figures["ratio"], "{:.2f}×"),
                _or_blank(None if alone else figures["ratio_per_cpu_second"], "{:.2f}×"),
                _or_blank(figures["share_of_raw"], "{:.0%}"),
                _or_blank(figures["start_seconds"], "{:.1f} s"),
                _or_blank(figures["with_start"], "{:,.0f}"),
                f"{figures['core_share']:.0%}",
                f"{statistics.median(returns):.1f}" if returns else "",
            ]
        )
        if "with_compile" in figures:
            start = figures["start_seconds"] + figures["compile_seconds"]
            lines.append(
                ["ours, first time", "", "", "", "", f"{start:.1f} s", f"{figures['with_compile']:,.0f}", "", ""]
            )
    return lines


def overview(answers: Sequence[Mapping[str, Any]]) -> str:
    """Our speed for each task, and how many times a peer's it is."""
    names = list(dict.fromkeys(name for answer in answers for name in answer["contestants"] if name != "ours"))
    lines = []
    for answer in answers:
        contestants = answer["contestants"]
        ratios = [f"{contestants[name]['ratio']:.2f}×" if name in contestants else "" for name in names]
        lines.append([TASKS[answer["task"]].label, f"{contestants['ours']['median']:,.0f}", *ratios])
    return table(["steps per second; ours is so many times", "ours", *names], lines)


def measured_compilation(task: Task, *, cache: str) -> float:
    """Seconds that the compiler takes, with nothing kept: a first run's start less a second one's."""
    cold, warm = (run("ours", task, seed=0, cache=cache)["start_seconds"] for _ in range(2))
    assert isinstance(cold, float) and isinstance(warm, float)
    return cold - warm


def campaign(tasks: Sequence[Task], names: Sequence[str], runs: int) -> list[dict[str, Any]]:
    """Every task's summary; what ours compiles is kept in a directory that is empty at first."""
    answers, found = [], versions(*OWN_PACKAGES) | peers.installed(PEER_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as cache:
        compile_seconds = measured_compilation(tasks[0], cache=cache) if "ours" in names else None
        for task in tasks:
            taking_part, absences = present(names, task, found)
            records, failures = compare(task, taking_part, runs, cache=cache)
            for sentence in absences + failures:
                print(sentence, file=sys.stderr)
            answers.append({**summary(task, records, compile_seconds), "left_out": absences + failures})
    return answers


def _speed(record: Record) -> float:
    speed = record["steps_per_second"]
    assert isinstance(speed, float)
    return speed


def _speed_per_cpu_second(record: Record) -> float:
    share = record["core_share"]
    assert isinstance(share, float)
    return _speed(record) / share


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def main() -> int:
    """Prints a table for each task; with --json, one JSON object as the last line instead."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true", help="tell where an iteration of ours goes instead")
    parser.add_argument("--backend", choices=["auto", "torch", "fused"], default="auto", help="of the profile")
    options = parser.parse_args()
    if options.profile:
        for name in options.tasks:
            print(shares(run_module("benchmarks.profile", [name, "--backend", options.backend])) + "\n")
        return 0
    answers = campaign([TASKS[name] for name in options.tasks], options.contestants, options.runs)
    if options.json:
        print(json.dumps({"machine": machine(), "tasks": answers}))
        return 0
    print(f"{machine()}; one core; median (least to most) of {options.runs} runs")
    for answer in answers:
        task = TASKS[answer["task"]]
        print("\n" + table(header(task), rows(answer)))
    if "ours" in options.contestants:
        print("\n" + overview(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
