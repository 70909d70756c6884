"""What the presets reach: nothing but the environment's id and a seed is given.

A seed's score is the mean of deterministic episodes of the exported policy, in an environment of their own. Beside it
stands what Stable-Baselines3 reached with its zoo's hyperparameters, where `benchmarks.learning_sb3` ran it.
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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import trim_mean

from benchmarks import learning_sb3
from benchmarks.record import RESULTS, Record, append, machine, read, run_module, table, versions
from ppo_engine.aggregates import mean_interval
from ppo_engine.bundle import LoadedPolicy, load_policy
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.evaluate import EVALUATION_KEY, Evaluation, evaluate
from ppo_engine.export import spec_sha256
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec

FILE = RESULTS / "learning.jsonl"
EPISODES = 200
LONG_EPISODES = 50
"""Where an episode has a thousand steps: seeds differ more than episodes do."""
PACKAGES = ("ppo-service", "torch", "gymnasium", "mujoco", "box2d", "numpy")


@dataclass(frozen=True, slots=True)
class Target:
    """What a preset must reach on average over the seeds."""

    env_id: str
    mean_return: float | None
    """None: it is reported and asked nothing."""
    seeds: int = 5
    episodes: int = EPISODES
    perfect: float | None = None
    """The highest return that there is."""


TARGETS = (
    Target("CartPole-v1", 500.0, perfect=500.0),
    Target("Acrobot-v1", -85.0),
    Target("MountainCar-v0", -115.0),
    Target("MountainCarContinuous-v0", 90.0),
    Target("Pendulum-v1", -180.0),
    Target("LunarLander-v3", 240.0),
    Target("LunarLanderContinuous-v3", 265.0),
    Target("BipedalWalker-v3", 290.0, episodes=LONG_EPISODES),
    Target("Hopper-v5", 2600.0, episodes=LONG_EPISODES),
    Target("Walker2d-v5", 3600.0, episodes=LONG_EPISODES),
    Target("HalfCheetah-v5", 5000.0, episodes=LONG_EPISODES),
    Target("Ant-v5", 3200.0, episodes=LONG_EPISODES),
    Target("Swimmer-v5", 300.0, episodes=LONG_EPISODES),
    Target("Reacher-v5", -4.1),
    Target("InvertedPendulum-v5", 1000.0, episodes=LONG_EPISODES, perfect=1000.0),
    Target("InvertedDoublePendulum-v5", 9200.0, episodes=LONG_EPISODES),
    Target("Humanoid-v5", 800.0, episodes=LONG_EPISODES),
    Target("MiniGrid-Empty-Random-5x5-v0", 0.968),
    Target("MiniGrid-DoorKey-5x5-v0", 0.964),
)
"""The best published PPO at the same number of steps; BipedalWalker's is of 5 million."""


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


def run(env_id: str, seed: int, episodes: int) -> Record:
    """One finished run."""
    spec = preset_spec(env_id, seed)
    evaluation, weights, seconds = train_and_evaluate(spec, episodes)
    return {
        "mean_return": evaluation.mean_reward,
        "std_return": evaluation.std_reward,
        "mean_length": evaluation.mean_length,
        "policy_sha256": weights,
        "train_seconds": round(seconds, 1),
        "ppo": spec.ppo.model_dump(mode="json"),
    }


def identity(target: Target, seed: int, engine: str) -> Record:
    """What makes a run the same as another."""
    return {
        "benchmark": "learning",
        "env_id": target.env_id,
        "seed": seed,
        "episodes": target.episodes,
        "spec_sha256": spec_sha256(preset_spec(target.env_id, seed)),
        "engine": engine,
        "machine": machine(),
        "versions": versions(*PACKAGES),
    }


def campaign(targets: list[Target], jobs: int, engine: str) -> dict[str, list[Record]]:
    """Every target's runs by environment, finishing those that are missing, `jobs` at a time."""
    finished = read(FILE)
    wanted = [identity(target, seed, engine) for target in targets for seed in range(target.seeds)]

    def known(wish: Record) -> Record | None:
        return next((record for record in finished if wish.items() <= record.items()), None)

    missing = [wish for wish in wanted if known(wish) is None]
    with ThreadPoolExecutor(jobs) as pool:
        finished += pool.map(_measured, missing)
    return {
        target.env_id: [record for wish in wanted if wish["env_id"] == target.env_id and (record := known(wish))]
        for target in targets
    }


def kept(targets: list[Target]) -> dict[str, list[Record]]:
    """The newest finished run of every target's seeds with the present preset, whatever machine and engine made it."""
    finished = {(record["spec_sha256"], record["seed"], record["episodes"]): record for record in read(FILE)}
    runs: dict[str, list[Record]] = {}
    for target in targets:
        names = [(spec_sha256(preset_spec(target.env_id, seed)), seed, target.episodes) for seed in range(target.seeds)]
        runs[target.env_id] = [finished[name] for name in names if name in finished]
    return runs


def _measured(wish: Record) -> Record:
    outcome = run_module(
        "benchmarks.learning", ["--run", str(wish["env_id"]), str(wish["seed"]), str(wish["episodes"])]
    )
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
        "iqm": float(trim_mean(returns, 0.25)),
        "sb3_zoo": statistics.fmean(peers) if (peers := learning_sb3.kept(target.env_id)) else None,
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
    yield f"{answer['mean']:.4g}"
    yield "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
    yield f"{answer['iqm']:.4g}"
    yield ", ".join(f"{record['mean_return']:.4g}" for record in records)
    yield "" if answer["sb3_zoo"] is None else f"{answer['sb3_zoo']:.4g}"
    yield "" if target.perfect is None else f"{answer['perfect_seeds']} of {len(records)}"
    yield f"{answer['train_seconds']:.0f} s"
    yield "" if target.mean_return is None else "yes" if answer["reached"] else "falls short"


def main() -> int:
    """Prints the table; with --json, one JSON object instead. Status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--envs", nargs="+", choices=[target.env_id for target in TARGETS], metavar="ENV")
    parser.add_argument("--seeds", type=int, help="of each environment, instead of five")
    parser.add_argument("--kept", action="store_true", help="train nothing: kept runs of these presets, any machine's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; each has one thread")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("ENV", "SEED", "EPISODES"), help="one run, in this process")
    parser.add_argument("--fingerprint", action="store_true", help="name the engine by what it computes")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run[0], int(options.run[1]), int(options.run[2]))))
        return 0
    if options.fingerprint:
        print(json.dumps({"engine": fingerprint()}))
        return 0
    targets = [
        replace(target, seeds=options.seeds or target.seeds)
        for target in TARGETS
        if not options.envs or target.env_id in options.envs
    ]
    if options.kept:
        runs = kept(targets)
        targets = [target for target in targets if runs[target.env_id]]
    else:
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
            "IQM",
            "each seed",
            "SB3 + zoo",
            "perfect",
            "training",
            "reached",
        )
        where = "; ".join(sorted({str(record["machine"]) for records in runs.values() for record in records}))
        print(f"{where}; preset only; {EPISODES} deterministic episodes per seed, {LONG_EPISODES} of the long ones")
        print(table(header, [list(_cells(target, runs[target.env_id])) for target in targets]))
    missed = [target for target in targets if summary(target, runs[target.env_id])["reached"] is False]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
