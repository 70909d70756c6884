"""What the presets reach: nothing but the environment's id and a seed is given.

A seed's score is the mean of 200 deterministic episodes of the exported policy, in an environment of their own.
Finished runs are kept in `results/learning.jsonl` and not repeated; a run counts as the same when resolved spec,
machine, package versions and *fingerprint* are: the hash of the weights and scores that a few iterations of two small
trainings give, so that any change of the engine that alters a number asks for new runs, and no other change does.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import RESULTS, Record, append, machine, read, run_module, table, versions
from ppo_engine.bundle import LoadedPolicy, load_policy
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.evaluate import EVALUATION_KEY, Evaluation, evaluate, mean_interval
from ppo_engine.export import spec_sha256
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec

FILE = RESULTS / "learning.jsonl"
EPISODES = 200
PACKAGES = ("ppo-service", "torch", "gymnasium", "mujoco", "box2d", "numpy")


@dataclass(frozen=True, slots=True)
class Target:
    """What a preset must reach on average over the seeds."""

    env_id: str
    mean_return: float | None
    """None: it is reported and asked nothing."""
    seeds: int
    perfect: float | None = None
    """The highest return that there is."""


TARGETS = (
    Target("CartPole-v1", 495.0, 5, perfect=500.0),
    Target("Acrobot-v1", -90.0, 5),
    Target("Pendulum-v1", -200.0, 5),
    Target("LunarLander-v3", 230.0, 5),
    Target("LunarLanderContinuous-v3", None, 5),
    Target("MountainCar-v0", None, 5),
)


def preset_spec(env_id: str, seed: int) -> TrainingSpec:
    """The resolved spec of the preset alone."""
    asked = TrainingSpec.model_validate({"env": {"id": env_id}, "seed": seed})
    return resolve(asked, describe_environment(env_id))


def train_and_evaluate(spec: TrainingSpec, episodes: int) -> tuple[Evaluation, str, float]:
    """Trains in this process; the score of the exported policy, the hash of its weights, seconds of training."""
    from ppo_engine.trainer import Trainer

    started = time.perf_counter()
    trainer = Trainer(spec, threads=1)
    for _ in trainer.iterations():
        pass
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as directory:
        trainer.save(Path(directory))
        policy = load_policy(Path(directory))
    weights = trainer.policy_hash()
    trainer.close()
    return score(policy, spec, episodes), weights, seconds


def score(policy: LoadedPolicy, spec: TrainingSpec, episodes: int) -> Evaluation:
    """Deterministic episodes on seeds that training never used."""
    assert spec.seed is not None
    seeds = np.random.SeedSequence(spec.seed, spawn_key=(EVALUATION_KEY,))
    return evaluate(policy.act, spec.env, n_episodes=episodes, seeds=seeds)


def fingerprint() -> str:
    """Names the engine by what it computes: weights and scores of two trainings of three iterations each.

    The specs are whole, so that a preset may change without giving the engine another name.
    """
    digest = hashlib.sha256()
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        evaluation, weights, _ = train_and_evaluate(fingerprint_spec(env_id), episodes=3)
        digest.update(f"{weights} {evaluation.returns}".encode())
    return digest.hexdigest()[:16]


def fingerprint_spec(env_id: str) -> TrainingSpec:
    """A short training that uses schedules, entropy bonus, ragged minibatches and both normalisations."""
    return TrainingSpec.model_validate(
        {
            "preset": "default",
            "env": {"id": env_id, "n_envs": 4},
            "policy": {"hidden_sizes": [64, 64], "activation": "tanh", "log_std_init": 0.0},
            "ppo": {
                "total_timesteps": 1536,
                "n_steps": 128,
                "batch_size": 48,
                "n_epochs": 4,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "learning_rate": {"kind": "linear", "initial": 1e-3},
                "clip_range": {"kind": "linear", "initial": 0.2},
                "ent_coef": 0.01,
                "vf_coef": 0.5,
            },
            "normalize": {"observations": True, "rewards": True},
            "seed": 0,
        }
    )


def run(env_id: str, seed: int) -> Record:
    """One finished run."""
    spec = preset_spec(env_id, seed)
    evaluation, weights, seconds = train_and_evaluate(spec, EPISODES)
    return {
        "mean_return": evaluation.mean_reward,
        "std_return": evaluation.std_reward,
        "mean_length": evaluation.mean_length,
        "episodes": len(evaluation.returns),
        "policy_sha256": weights,
        "train_seconds": round(seconds, 1),
        "ppo": spec.ppo.model_dump(mode="json"),
    }


def identity(env_id: str, seed: int, engine: str) -> Record:
    """What makes a run the same as another."""
    return {
        "benchmark": "learning",
        "env_id": env_id,
        "seed": seed,
        "spec_sha256": spec_sha256(preset_spec(env_id, seed)),
        "engine": engine,
        "machine": machine(),
        "versions": versions(*PACKAGES),
    }


def campaign(targets: list[Target], jobs: int, engine: str) -> dict[str, list[Record]]:
    """Every target's runs by environment, finishing those that are missing, `jobs` at a time."""
    finished = read(FILE)
    wanted = [identity(target.env_id, seed, engine) for target in targets for seed in range(target.seeds)]

    def known(wish: Record) -> Record | None:
        return next((record for record in finished if wish.items() <= record.items()), None)

    missing = [wish for wish in wanted if known(wish) is None]
    with ThreadPoolExecutor(jobs) as pool:
        finished += pool.map(_measured, missing)
    return {
        target.env_id: [record for wish in wanted if wish["env_id"] == target.env_id and (record := known(wish))]
        for target in targets
    }


def _measured(wish: Record) -> Record:
    outcome = run_module("benchmarks.learning", ["--run", str(wish["env_id"]), str(wish["seed"])])
    record: Record = {**wish, **outcome}
    append(FILE, record)
    print(f"{wish['env_id']} seed {wish['seed']}: {outcome['mean_return']:.2f}", file=sys.stderr)
    return record


def summary(target: Target, records: list[Record]) -> Record:
    """Mean over the seeds with its 95 % interval, and whether it reaches the target."""
    scores = [record["mean_return"] for record in records]
    returns = [value for value in scores if isinstance(value, float)]
    interval = mean_interval(returns)
    mean = statistics.fmean(returns)
    return {
        "env_id": target.env_id,
        "timesteps": preset_spec(target.env_id, 0).ppo.total_timesteps,
        "target": target.mean_return,
        "mean": mean,
        "ci95": None if interval is None else list(interval),
        "returns": list(returns),
        "perfect_seeds": None if target.perfect is None else sum(value == target.perfect for value in returns),
        "reached": None if target.mean_return is None else mean >= target.mean_return,
        "train_seconds": statistics.median(
            seconds for record in records if isinstance(seconds := record["train_seconds"], float)
        ),
    }


def _cells(target: Target, records: list[Record]) -> Iterator[str]:
    answer = summary(target, records)
    interval = mean_interval([value for record in records if isinstance(value := record["mean_return"], float)])
    yield target.env_id
    yield f"{answer['timesteps']:,}"
    yield "" if target.mean_return is None else f"≥ {target.mean_return:g}"
    yield f"{answer['mean']:.1f}"
    yield "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
    yield ", ".join(f"{record['mean_return']:.1f}" for record in records)
    yield "" if target.perfect is None else f"{answer['perfect_seeds']} of {len(records)}"
    yield f"{answer['train_seconds']:.0f} s"
    yield "" if target.mean_return is None else "yes" if answer["reached"] else "no"


def main() -> int:
    """Prints the table; with --json, one JSON object instead. Status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--envs", nargs="+", choices=[target.env_id for target in TARGETS])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; each has one thread")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=2, metavar=("ENV", "SEED"), help="one run, in this process")
    parser.add_argument("--fingerprint", action="store_true", help="name the engine by what it computes")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run[0], int(options.run[1]))))
        return 0
    if options.fingerprint:
        print(json.dumps({"engine": fingerprint()}))
        return 0
    targets = [target for target in TARGETS if not options.envs or target.env_id in options.envs]
    engine = str(run_module("benchmarks.learning", ["--fingerprint"])["engine"])
    runs = campaign(targets, options.jobs, engine)
    if options.json:
        print(json.dumps({"machine": machine(), "tasks": [summary(target, runs[target.env_id]) for target in targets]}))
    else:
        header = (
            "environment",
            "steps",
            "target",
            "mean",
            "95 % interval",
            "each seed",
            "perfect",
            "training",
            "reached",
        )
        print(f"{machine()}; preset only; mean of {EPISODES} deterministic episodes per seed")
        print(table(header, [list(_cells(target, runs[target.env_id])) for target in targets]))
    missed = [target for target in targets if summary(target, runs[target.env_id])["reached"] is False]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
