"""Finished runs, one JSON line each, so that a long campaign survives interruption; and the machine they ran on."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from ppo_engine.machine import misleading, processor

Record: TypeAlias = dict[str, JsonValue]

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
"""Set before a process imports NumPy or torch; more threads make small networks slower and ruin neighbours."""


@cache
def machine() -> str:
    """CPU model, cores and the kernels of its BLAS: what a speed, and the last bit of a weight, depend on."""
    asked = [sys.executable, "-c", "from ppo_engine.threads import blas_kernels; print(blas_kernels())"]
    kernels = subprocess.run(asked, capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout.strip()
    return f"{processor()[0]}, {os.cpu_count()} cores, {kernels}"


def with_own_kernels() -> None:
    """Start this program anew where a variable gives its BLAS the kernels of another CPU.

    Our compiled path would run at half its speed, and the peers' as ever: no ratio would be true of any other machine.
    """
    if astray := misleading(os.environ):
        print(f"measured without {' and '.join(astray)}", file=sys.stderr, flush=True)
        others = {name: value for name, value in os.environ.items() if name not in astray}
        os.execve(sys.executable, sys.orig_argv, others)


def versions(*packages: str) -> dict[str, JsonValue]:
    """Installed versions, null for what is absent."""
    found: dict[str, JsonValue] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def append(path: Path, record: Record) -> None:
    """Adds one finished run; a single write, so that an interruption leaves whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record, sort_keys=True) + "\n")


def read(path: Path) -> list[Record]:
    """Every finished run in the file, oldest first."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def run_module(
    module: str,
    arguments: Sequence[str],
    *,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
) -> Record:
    """The JSON object that a module prints last, run in a process of its own with one thread.

    Args:
        python: the interpreter, if not this one.
        variables: of its environment, besides those that hold its libraries to one thread.
    Raises:
        RuntimeError: the process failed; the message holds the end of its stderr.
    """
    environment: Mapping[str, str] = {**os.environ, **ONE_THREAD, **(variables or {})}
    command = [python, "-m", module, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
    record: Record = json.loads(finished.stdout.splitlines()[-1])
    return record


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
