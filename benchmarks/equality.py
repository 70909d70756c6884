"""Whether both backends learn the same: the presets, trained by `torch` and by `fused` on the same seeds.

A seed gives two numbers: its *score*, the mean of 200 deterministic episodes of the exported policy, and the *height of
its learning curve*, the mean of `rollout/ep_rew_mean` over all iterations. The two backends' weights part within some
iterations, since rounding moves an action here and there; what they may not do is differ in distribution. The test is
the exact permutation test of the difference of means, which takes nothing for granted about how returns are spread: the
share of all ways to deal the same numbers to two groups whose means are as far apart.

Finished runs are kept in `results/equality.jsonl` and not repeated, as those of `benchmarks.learning` are.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.learning import EPISODES, PACKAGES, fingerprint_spec, preset_spec, score
from benchmarks.record import RESULTS, Record, append, machine, read, run_module, table, versions
from ppo_engine.aggregates import mean_interval
from ppo_engine.bundle import load_policy
from ppo_engine.export import spec_sha256
from ppo_engine.spec import TrainingSpec

FILE = RESULTS / "equality.jsonl"
SIGNIFICANT = 0.01
"""With six tests, equal backends give a smaller p in one campaign of seventeen."""

Backend: TypeAlias = Literal["torch", "fused"]
Measure: TypeAlias = Literal["mean_return", "curve"]
ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")
MEASURES: dict[Measure, str] = {"mean_return": "score", "curve": "learning curve"}


def spec_for(env_id: str, seed: int, backend: Backend) -> TrainingSpec:
    """The resolved spec of the preset, computed by a backend."""
    return preset_spec(env_id, seed).model_copy(update={"backend": backend})


def run(env_id: str, seed: int, backend: Backend) -> Record:
    """One finished training, in this process."""
    from ppo_engine.trainer import Trainer

    spec = spec_for(env_id, seed, backend)
    trainer = Trainer(spec, threads=1)
    key = "rollout/ep_rew_mean"
    rows = [progress.metrics for progress in trainer.iterations() if progress.metrics]
    curve = [row[key] for row in rows if key in row]
    with tempfile.TemporaryDirectory() as directory:
        trainer.save(Path(directory))
        evaluation = score(load_policy(Path(directory)), spec, EPISODES)
    trainer.close()
    return {
        "mean_return": evaluation.mean_reward,
        "curve": statistics.fmean(curve),
        "policy_sha256": trainer.policy_hash(),
    }


def fingerprint() -> str:
    """Names both backends by the weights that three iterations of two small trainings give."""
    from ppo_engine.trainer import Trainer

    digest = hashlib.sha256()
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        for backend in get_args(Backend):
            trainer = Trainer(fingerprint_spec(env_id).model_copy(update={"backend": backend}))
            for _ in trainer.iterations():
                pass
            digest.update(trainer.policy_hash().encode())
    return digest.hexdigest()[:16]


def identity(env_id: str, seed: int, backend: Backend, engine: str) -> Record:
    """What makes a run the same as another."""
    return {
        "benchmark": "equality",
        "env_id": env_id,
        "seed": seed,
        "backend": backend,
        "spec_sha256": spec_sha256(preset_spec(env_id, seed)),
        "engine": engine,
        "machine": machine(),
        "versions": versions(*PACKAGES, "numba", "scipy"),
    }


def campaign(env_ids: list[str], seeds: int, jobs: int, engine: str) -> list[Record]:
    """Every run, finishing those that are missing, `jobs` at a time."""
    finished = read(FILE)
    wanted = [
        identity(env_id, seed, backend, engine)
        for env_id in env_ids
        for seed in range(seeds)
        for backend in get_args(Backend)
    ]

    def known(wish: Record) -> Record | None:
        return next((record for record in finished if wish.items() <= record.items()), None)

    with ThreadPoolExecutor(jobs) as pool:
        finished += pool.map(_measured, [wish for wish in wanted if known(wish) is None])
    return [record for wish in wanted if (record := known(wish))]


def _measured(wish: Record) -> Record:
    arguments = ["--run", *(str(wish[key]) for key in ("env_id", "seed", "backend"))]
    record: Record = {**wish, **run_module("benchmarks.equality", arguments)}
    append(FILE, record)
    print(f"{' '.join(arguments[1:])}: {record['mean_return']:.2f}", file=sys.stderr)
    return record


def p_value(first: list[float], second: list[float]) -> float:
    """How often numbers dealt at random to two groups of these sizes have means as far apart, both sides counted."""

    def difference(a: NDArray[Any], b: NDArray[Any], axis: int) -> NDArray[Any]:
        apart: NDArray[Any] = np.mean(a, axis=axis) - np.mean(b, axis=axis)
        return apart

    return float(stats.permutation_test((first, second), difference, vectorized=True, n_resamples=200_000).pvalue)


def comparison(env_id: str, measure: Measure, records: list[Record]) -> Record:
    """Both backends' means with their 95 % intervals, and the probability of such a difference among equals."""
    numbers = {backend: numbers_of(records, measure, env_id=env_id, backend=backend) for backend in get_args(Backend)}
    intervals = {backend: mean_interval(values) for backend, values in numbers.items()}
    p = p_value(numbers["torch"], numbers["fused"])
    return {
        "env_id": env_id,
        "measure": MEASURES[measure],
        "seeds": len(numbers["fused"]),
        **{f"{backend}_mean": statistics.fmean(values) for backend, values in numbers.items()},
        **{f"{backend}_ci95": interval and list(interval) for backend, interval in intervals.items()},
        "p": p,
        "equal": p >= SIGNIFICANT,
    }


def numbers_of(records: list[Record], measure: Measure, **of: str) -> list[float]:
    """A measure of the runs that are `of` an environment and a backend."""
    chosen = [record[measure] for record in records if of.items() <= record.items()]
    return [value for value in chosen if isinstance(value, float)]


def _cells(answer: Record) -> list[str]:
    def mean_of(backend: Backend) -> str:
        match answer[f"{backend}_ci95"]:
            case [float(low), float(high)]:
                return f"{answer[f'{backend}_mean']:.1f} ({low:.1f} to {high:.1f})"
            case _:
                return f"{answer[f'{backend}_mean']:.1f}"

    return [
        str(answer["env_id"]),
        str(answer["measure"]),
        str(answer["seeds"]),
        mean_of("torch"),
        mean_of("fused"),
        f"{answer['p']:.2f}",
        "yes" if answer["equal"] else "no",
    ]


def main() -> int:
    """Prints the table; with --json, one JSON object instead. Status 1 where the backends differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equality", description=__doc__)
    parser.add_argument("--envs", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--seeds", type=int, default=5, help="of each backend, two or more")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; each has one thread")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("ENV", "SEED", "BACKEND"), help="one run, in this process")
    parser.add_argument("--fingerprint", action="store_true", help="name both backends by what they compute")
    options = parser.parse_args()
    if options.run:
        env_id, seed, backend = options.run
        print(json.dumps(run(env_id, int(seed), backend)))
        return 0
    if options.fingerprint:
        print(json.dumps({"engine": fingerprint()}))
        return 0
    if options.seeds < 2:
        parser.error("a test needs two seeds or more")
    engine = str(run_module("benchmarks.equality", ["--fingerprint"])["engine"])
    records = campaign(options.envs, options.seeds, options.jobs, engine)
    answers = [comparison(env_id, measure, records) for env_id in options.envs for measure in MEASURES]
    if options.json:
        print(json.dumps({"machine": machine(), "comparisons": answers}))
    else:
        header = ("environment", "measure", "seeds", "torch, mean (95 %)", "fused, mean (95 %)", "p", "equal")
        print(f"{machine()}; presets; score: {EPISODES} deterministic episodes per seed; equal: p ≥ {SIGNIFICANT}")
        print(table(header, [_cells(answer) for answer in answers]))
    return 0 if all(answer["equal"] for answer in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
