"""An evaluation within training may be interrupted between any two steps: it is done once, and changes nothing."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ppo_engine import evaluate as evaluation_module
from ppo_engine.evaluate import Playing
from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Progress, Trainer
from tests.environments import PLUGIN_PATH, add_plugin
from tests.ppo_engine.trainings import spec_of, timeless

EVERY: dict[str, Any] = {"evaluation": {"every_timesteps": 256, "n_episodes": 3}}


class Enough(Exception):
    pass


def stop_after(steps: int) -> Any:
    """Raises once an evaluation has gone on for so many steps."""

    def look(playing: Playing) -> None:
        if playing.timesteps >= steps:
            raise Enough

    return look


def evaluations(progress: list[Progress]) -> list[tuple[int, Any]]:
    return [(step.iteration, step.evaluation) for step in progress if step.evaluation is not None]


@pytest.mark.parametrize(
    "sections",
    [
        EVERY,
        {"evaluation": {**EVERY["evaluation"], "deterministic": False}, "backend": "torch"},
        {**EVERY, "policy": {"memory": "gru", "memory_size": 8}},
        {**EVERY, "stop": {"metric": "eval/mean_reward", "threshold": 1.0}},
        {"evaluation": {"every_timesteps": 1280, "n_episodes": 3}},
    ],
    ids=["likeliest", "sampled", "memory", "stop_rule", "last_iteration"],
)
def test_a_training_that_is_interrupted_while_it_evaluates_ends_as_if_it_was_not(
    sections: dict[str, Any], tmp_path: Path
) -> None:
    """Once with its checkpoint, and a second time on the way."""
    spec = spec_of(**sections)
    whole = Trainer(spec)
    expected = list(whole.iterations())
    trainer = Trainer(spec)
    progress: list[Progress] = []
    for attempt in range(2):
        with pytest.raises(Enough):
            progress.extend(trainer.iterations(stop_after(5)))
        trainer.save(tmp_path / str(attempt))
        trainer = Trainer.resume(spec, tmp_path / str(attempt))
        assert trainer.resumed is not None and trainer.resumed.kind == "exact"
    progress += list(trainer.iterations())
    assert timeless(progress) == timeless(expected)
    assert evaluations(progress) == evaluations(expected) and evaluations(expected)
    assert trainer.policy_hash() == whole.policy_hash()


def test_the_same_trainer_goes_on_with_the_evaluation_that_was_interrupted() -> None:
    whole, trainer = Trainer(spec_of(**EVERY)), Trainer(spec_of(**EVERY))
    expected = list(whole.iterations())
    progress: list[Progress] = []
    with pytest.raises(Enough):
        progress.extend(trainer.iterations(stop_after(3)))
    assert (trainer.iteration, len(progress)) == (2, 1)
    progress += list(trainer.iterations())
    assert timeless(progress) == timeless(expected) and trainer.policy_hash() == whole.policy_hash()


def test_a_checkpoint_may_be_taken_within_an_evaluation_that_goes_on(tmp_path: Path) -> None:
    whole, trainer = Trainer(spec_of(**EVERY)), Trainer(spec_of(**EVERY))
    taken: list[Path] = []

    def save(playing: Playing) -> None:
        if playing.timesteps and not taken:
            taken.append(tmp_path / "within")
            trainer.save(taken[0])

    expected, progress = list(whole.iterations()), list(trainer.iterations(save))
    assert timeless(progress) == timeless(expected)
    resumed = Trainer.resume(spec_of(**EVERY), taken[0])
    assert timeless(list(resumed.iterations())) == timeless(expected[1:])
    assert trainer.policy_hash() == resumed.policy_hash() == whole.policy_hash()


def test_episodes_without_end_are_found_once_with_a_limit_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "MAX_EPISODE_STEPS", 5)
    sections: dict[str, Any] = {"evaluation": {"every_timesteps": 256, "n_episodes": 2}}
    trainer = Trainer(spec_of("CliffWalking-v1", **sections))
    found = [finding for step in trainer.iterations() for finding in step.findings]
    without_end = [finding for finding in found if finding.code == "episodes_without_end"]
    assert [finding.evidence for finding in without_end] == [{"eval/n_cut": 2.0, "limit": 0.0}]
    assert without_end[0].spec_patch == {"env": {"max_episode_steps": 1000}}
    limited = Trainer(spec_of("CliffWalking-v1", env={"max_episode_steps": 5}, **sections))
    codes = [finding.code for step in limited.iterations() for finding in step.findings]
    assert "episodes_without_end" not in codes


@pytest.mark.parametrize("name", ["GlobalRandom", "SharedCurriculum"])
def test_what_is_saved_within_an_evaluation_is_of_the_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation's environments draw from the same global generators, and count in the same class."""
    add_plugin(monkeypatch)
    path = {"spec": spec_of(f"test/{name}-v0", env={"n_envs": 2, "vectorization": "sync"}, **EVERY)}
    expected, _ = apart_from_this_process(path)
    told, resume = apart_from_this_process(path | {"folder": tmp_path})
    assert resume is not None and resume.kind == "exact", resume
    assert told == expected


def apart_from_this_process(arguments: dict[str, Any]) -> Any:
    """What `trained` gives in a process that has stepped nothing before."""
    fresh = {"mp_context": get_context("spawn"), "initializer": sys.path.append, "initargs": (str(PLUGIN_PATH),)}
    with ProcessPoolExecutor(1, **fresh) as pool:
        return pool.submit(trained, **arguments).result()


def trained(spec: TrainingSpec, folder: Path | None = None) -> tuple[Any, Any]:
    """What a training told, and how it was resumed; given a folder, it saves there within an evaluation and resumes."""
    trainer = Trainer(spec)
    progress: list[Progress] = []
    if folder is not None:

        def save(playing: Playing) -> None:
            if playing.timesteps >= 5:
                trainer.save(folder)
                raise Enough

        with pytest.raises(Enough):
            progress.extend(trainer.iterations(save))
        trainer = Trainer.resume(spec, folder)
    progress += list(trainer.iterations())
    return (timeless(progress), trainer.policy_hash()), trainer.resumed
