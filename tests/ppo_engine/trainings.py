"""Small trainings for tests: some iterations of some hundred steps."""

import json
from pathlib import Path
from typing import Any

from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Progress, Trainer


def spec_of(env_id: str = "CartPole-v1", *, seed: int | None = 1, **sections: Any) -> TrainingSpec:
    """Ten iterations of 4 environments with 32 steps each; `sections` are laid over that."""
    document: dict[str, Any] = {
        "preset": "default",
        "env": {"id": env_id, "n_envs": 4},
        "ppo": {"total_timesteps": 1280, "n_steps": 32, "batch_size": 32, "n_epochs": 2},
        "policy": {"hidden_sizes": [16, 16]},
        "metrics": {"every_iterations": 1},
        "seed": seed,
    }
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section} if isinstance(section, dict) else section
    return TrainingSpec.model_validate_json(json.dumps(document))


def run(trainer: Trainer, iterations: int | None = None) -> list[Progress]:
    """So many iterations, or all that are left."""
    progress = []
    for step in trainer.iterations():
        progress.append(step)
        if len(progress) == iterations:
            break
    return progress


def timeless(progress: list[Progress]) -> list[Any]:
    """What was reported, without the times."""
    return [
        (
            step.iteration,
            step.timesteps,
            step.metrics and {key: value for key, value in step.metrics.items() if not key.startswith("time/")},
            step.evaluation,
            step.finished,
        )
        for step in progress
    ]


def state_bytes(trainer: Trainer, directory: Path) -> dict[str, bytes]:
    """Every file of a checkpoint taken now."""
    trainer.save(directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}
