"""How presets are found: a seeded search by Optuna over the settings declared here, resumable after any interruption.

A trial trains several seeds side by side, stops all of them at each fifth of the budget, and scores deterministic
episodes; a trial whose best score so far is below the median of the others at the same point is pruned. Training
seeds start at 1000: those of `benchmarks.learning`, which judges the presets, are never tuned on. Finished trials are
kept in `results/tuning.jsonl`, the studies themselves in `build/tuning/`.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.trial import Trial, TrialState
from pydantic import JsonValue

from benchmarks.record import REPOSITORY, RESULTS, append, machine, table, versions
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.evaluate import EVALUATION_KEY, evaluate
from ppo_engine.presets import resolve
from ppo_engine.spec import InvalidSpec, TrainingSpec
from ppo_jobs.settings import sqlite_url

FILE = RESULTS / "tuning.jsonl"
STUDIES = REPOSITORY / "build" / "tuning"
PACKAGES = ("ppo-service", "torch", "gymnasium", "mujoco", "box2d", "numpy", "optuna")
FIRST_SEED = 1000
CHECKS = 5
"""Evaluations of a trial, the last one at its end."""
GIVEN = "given"
"""Attribute of a trial whose settings were given by hand."""


@dataclass(frozen=True, slots=True)
class Range:
    """Real numbers between two bounds, on a logarithmic scale."""

    low: float
    high: float


Choices: TypeAlias = tuple[int | float | str | None, ...]
Space: TypeAlias = Mapping[str, Range | Choices]
"""What may vary, by its place in the spec: `ppo.learning_rate.initial`."""

_PPO: Space = {
    "ppo.learning_rate.initial": Range(1e-4, 3e-3),
    "ppo.gae_lambda": (0.9, 0.95, 0.98),
    "ppo.clip_range": (0.1, 0.2, 0.3),
    "ppo.n_epochs": (4, 10, 20),
}
_MUJOCO: Space = {
    **_PPO,
    "ppo.gamma": (0.98, 0.99, 0.995, 0.999),
    "ppo.batch_size": (64, 128, 256),
    "ppo.n_steps": (128, 256, 512),
    "ppo.normalize_advantage": ("minibatch", "off"),
    "ppo.vf_coef": (0.25, 0.5, 1.0),
    "policy.log_std_init": (-2.0, -1.0, -0.5, 0.0),
}
_CLASSIC: Space = {
    **_PPO,
    "ppo.gamma": (0.9, 0.98, 0.99, 0.999),
    "ppo.batch_size": (64, 128, 256),
    "ppo.n_steps": (32, 64, 128, 256),
    "ppo.ent_coef": (0.0, 0.001, 0.01),
}
_CONTINUOUS: Space = {**_CLASSIC, "policy.log_std_init": (-1.0, -0.5, 0.0)}
_SHORT_SIGHTED: Space = {**_MUJOCO, "ppo.gamma": (0.9, 0.95, 0.98, 0.99)}
SPACES: Mapping[str, Space] = {
    **dict.fromkeys(("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3"), _CLASSIC),
    **dict.fromkeys(("MiniGrid-Empty-Random-5x5-v0", "MiniGrid-DoorKey-5x5-v0"), _CLASSIC),
    **dict.fromkeys(("Pendulum-v1", "LunarLanderContinuous-v3"), _CONTINUOUS),
    "MountainCarContinuous-v0": {**_CONTINUOUS, "ppo.gamma": (0.99, 0.999, 0.9999)},
    **dict.fromkeys(("BipedalWalker-v3", "Hopper-v5", "Walker2d-v5", "HalfCheetah-v5"), _MUJOCO),
    **dict.fromkeys(("Ant-v5", "Humanoid-v5", "InvertedPendulum-v5", "InvertedDoublePendulum-v5"), _MUJOCO),
    **dict.fromkeys(("Reacher-v5", "Pusher-v5"), _SHORT_SIGHTED),
    "Swimmer-v5": {**_MUJOCO, "ppo.gamma": (0.999, 0.9995, 0.9999)},
}


def trial_spec(env_id: str, settings: Mapping[str, JsonValue], seed: int, timesteps: int) -> TrainingSpec:
    """The preset, or the general defaults where there is none, with `settings` laid over it.

    The learning rate decays, where the settings name no other kind.

    Raises: InvalidSpec.
    """
    patch: dict[str, Any] = {"env": {"id": env_id}, "seed": seed, "ppo": {"total_timesteps": timesteps}}
    for place, value in settings.items():
        *sections, name = place.split(".")
        section = patch
        for step in sections:
            section = section.setdefault(step, {})
        section[name] = value
    rate = patch["ppo"].get("learning_rate")
    if isinstance(rate, dict) and "kind" not in rate:
        patch["ppo"]["learning_rate"] = {"kind": "linear", "final": 0.0, **rate}
    return resolve(TrainingSpec.model_validate(patch), describe_environment(env_id))


def suggested(trial: Trial, space: Space) -> dict[str, JsonValue]:
    """The sampler's settings for one trial."""
    return {
        place: trial.suggest_float(place, values.low, values.high, log=True)
        if isinstance(values, Range)
        else trial.suggest_categorical(place, values)
        for place, values in space.items()
    }


def scores(specs: Sequence[TrainingSpec], episodes: int) -> Iterator[list[float]]:
    """Mean deterministic return of each seed, at each fifth of the budget; all seeds train in turns."""
    from ppo_engine.trainer import Trainer

    trainers = [Trainer(spec, threads=1, environment_cores=1) for spec in specs]
    try:
        trainings = [trainer.iterations() for trainer in trainers]
        for check in range(1, CHECKS + 1):
            reached = []
            for trainer, training in zip(trainers, trainings, strict=True):
                while trainer.timesteps < trainer.spec.ppo.total_timesteps * check / CHECKS:
                    next(training)
                seeds = np.random.SeedSequence(trainer.spec.seed, spawn_key=(EVALUATION_KEY, check))
                played = episodes if check == CHECKS else math.ceil(episodes / 4)
                evaluation = evaluate(trainer.acting(), trainer.spec.env, n_episodes=played, seeds=seeds)
                reached.append(evaluation.mean_reward)
            yield reached
    finally:
        for trainer in trainers:
            trainer.close()


def objective(trial: Trial, options: argparse.Namespace) -> float:
    """Trains the seeds of one trial; the mean of their last scores.

    Raises: TrialPruned: the settings contradict each other, or are worse than the median of the others.
    """
    given = trial.user_attrs.get(GIVEN)
    settings = suggested(trial, SPACES[options.env_id]) if given is None else given
    try:
        specs = [
            trial_spec(options.env_id, settings, FIRST_SEED + seed, options.timesteps) for seed in range(options.seeds)
        ]
    except InvalidSpec as refusal:
        raise optuna.TrialPruned(str(refusal)) from refusal
    history = []
    for check, reached in enumerate(scores(specs, options.episodes), start=1):
        history.append([round(score, 2) for score in reached])
        trial.report(statistics.fmean(reached), check)
        if trial.should_prune():
            keep(options, trial, settings, specs[0], history)
            raise optuna.TrialPruned
    keep(options, trial, settings, specs[0], history)
    return statistics.fmean(history[-1])


def keep(
    options: argparse.Namespace,
    trial: Trial,
    settings: Mapping[str, JsonValue],
    spec: TrainingSpec,
    history: list[list[float]],
) -> None:
    """Writes a finished trial down."""
    assert trial.datetime_start is not None
    seconds = (datetime.now() - trial.datetime_start).total_seconds()
    curves: JsonValue = [list(curve) for curve in zip(*history, strict=True)]
    append(
        FILE,
        {
            "benchmark": "tuning",
            "study": study_name(options),
            "trial": trial.number,
            "env_id": options.env_id,
            "timesteps": options.timesteps,
            "pruned": len(history) < CHECKS,
            "settings": dict(settings),
            "spec": json.loads(spec.model_dump_json(include={"env", "policy", "ppo", "normalize"})),
            "score": statistics.fmean(history[-1]),
            "curves": curves,
            "episodes": options.episodes,
            "seconds": round(seconds, 1),
            "machine": machine(),
            "versions": versions(*PACKAGES),
        },
    )


def study_name(options: argparse.Namespace) -> str:
    """Trials are compared with those of the same environment, budget and number of seeds."""
    return f"{options.env_id}-{options.timesteps}x{options.seeds}"


def open_study(options: argparse.Namespace) -> optuna.Study:
    """The study, resumed where it was left: the trial that an interruption cut short begins again."""
    STUDIES.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=sqlite_url((STUDIES / "studies.db").absolute()),
        study_name=study_name(options),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2),
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    # A study does not keep its sampler: numbers drawn before an interruption are not drawn again after it.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials), multivariate=True)
    return study


def search(options: argparse.Namespace) -> optuna.Study:
    """Runs trials within the budget of one call: a single one where its settings are given."""
    study = open_study(options)
    if options.given is not None:
        study.enqueue_trial({}, user_attrs={GIVEN: options.given})
    trials = options.trials if options.given is None else 1
    seconds = None if options.minutes is None else 60 * options.minutes
    study.optimize(lambda trial: objective(trial, options), n_trials=trials, timeout=seconds)
    return study


def best_trials(study: optuna.Study, count: int = 10) -> str:
    """The best finished trials as a table."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finished.sort(key=lambda trial: trial.value or 0.0, reverse=True)
    rows = [
        [str(trial.number), f"{trial.value:.2f}", json.dumps(trial.user_attrs.get(GIVEN, trial.params))]
        for trial in finished[:count]
    ]
    return table(("trial", "score", "settings"), rows)


def main() -> int:
    """Searches within the budget and prints the best trials."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("env_id", choices=SPACES)
    parser.add_argument("--trials", type=int, default=20, help="trials of this call")
    parser.add_argument("--minutes", type=float, help="begin no trial after so long")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each trial")
    parser.add_argument("--timesteps", type=int, default=300_000, help="budget of each training")
    parser.add_argument("--episodes", type=int, default=20, help="of the last evaluation; a quarter before")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    parser.add_argument("--try", dest="given", type=json.loads, help="one trial of these settings over the preset")
    options = parser.parse_args()
    print(best_trials(search(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
