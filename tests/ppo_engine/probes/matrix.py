"""`make probe-matrix`: every combination of head, memory, estimator and objective on cues, printed as a table.

What has been run is kept in `.probes/`, under the hash of the engine and the probes, so that a run that was interrupted
goes on. The exit status is 1 where a combination is further from the closed form than it may be.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.environments import PLUGIN_PATH
from tests.ppo_engine.probes.combinations import (
    ALL,
    ESTIMATORS,
    HEADS,
    MEMORIES,
    OBJECTIVES,
    Combination,
    refusal,
    spec_of,
)

ROOT = Path(__file__).parents[3]
KEPT = ROOT / ".probes"
SOURCES = ("ppo_engine/**/*.py", "tests/ppo_engine/probes/*.py", "tests/environments/plugin/**/cues.py")


def main() -> int:
    """Runs what has not been run, on every core, and prints the matrix."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGIN_PATH), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(PLUGIN_PATH))
    os.environ["OMP_NUM_THREADS"] = "1"
    reasons = {combination: refusal(combination) for combination in ALL}
    admitted = [combination for combination in ALL if reasons[combination] is None]
    KEPT.mkdir(exist_ok=True)
    kept = KEPT / f"{fingerprint()}.jsonl"
    results = read(kept)
    todo = [combination for combination in admitted if str(combination) not in results]
    print(f"{len(admitted)} combinations, of which {len(admitted) - len(todo)} have been run; {kept}", flush=True)
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool, kept.open("a") as file:
        for done, (combination, result) in enumerate(pool.imap_unordered(run, todo), start=1):
            results[str(combination)] = result
            file.write(json.dumps({"combination": list(combination), **result}) + "\n")
            file.flush()
            if done % 20 == 0 or result["faults"]:
                print(f"{done}/{len(todo)} {time.monotonic() - began:.0f} s  {combination}: {told(result)}", flush=True)
    print_matrix(results, reasons)
    failed = [combination for combination in admitted if results[str(combination)]["faults"]]
    print(f"\n{len(admitted) - len(failed)} of {len(admitted)} combinations are as in the closed form")
    for combination in failed:
        print(f"  {combination}: {told(results[str(combination)])}")
    return 1 if failed else 0


def run(combination: Combination) -> tuple[Combination, dict]:
    """In a process of its own, of which each runs many."""
    from tests.ppo_engine.probes.probe import outcome_of

    began = time.monotonic()
    try:
        outcome = outcome_of(spec_of(combination))
    except Exception as error:  # Whatever it is, the others are to be run.
        return combination, {"faults": [repr(error)]}
    return combination, {**asdict(outcome), "faults": outcome.faults, "seconds": time.monotonic() - began}


def told(result: dict) -> str:
    return "; ".join(result["faults"]) or "as in the closed form"


def read(kept: Path) -> dict[str, dict]:
    """What was run, by combination; the last line may be cut off."""
    results = {}
    for line in kept.read_text().splitlines() if kept.exists() else []:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        results[str(Combination(*result.pop("combination")))] = result
    return results


def fingerprint() -> str:
    """Of everything that a result depends on in this repository."""
    paths = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def print_matrix(results: dict[str, dict], reasons: dict[Combination, str | None]) -> None:
    """A row for each head and memory, a column for each objective, in it a sign for each estimator."""
    print(f"\nIn each cell, from left to right: {', '.join(ESTIMATORS)}")
    print("+ as in the closed form    ! further from it than it may be    . refused\n")
    print(f"{'':18}{'':7}" + "".join(f"{objective:13}" for objective in OBJECTIVES))
    for head in HEADS:
        for memory in MEMORIES:
            cells = []
            for objective in OBJECTIVES:
                row = [Combination(head, memory, estimator, objective) for estimator in ESTIMATORS]
                cells.append("".join(sign(combination, results, reasons) for combination in row))
            print(f"{head:18}{memory:7}" + "".join(f"{cell:13}" for cell in cells))
    print()
    for reason in dict.fromkeys(filter(None, reasons.values())):
        print(f"refused: {reason}")


def sign(combination: Combination, results: dict[str, dict], reasons: dict[Combination, str | None]) -> str:
    if reasons[combination] is not None:
        return "."
    return "!" if results[str(combination)]["faults"] else "+"


if __name__ == "__main__":
    sys.exit(main())
