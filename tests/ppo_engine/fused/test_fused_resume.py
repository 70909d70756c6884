"""The fused path gives the same bits: twice in one process, in another one, whatever the threads, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of

CHILD = """
import json, sys
from pathlib import Path
from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
trainer = Trainer(TrainingSpec.model_validate_json(sys.argv[1]))
for progress in trainer.iterations():
    trainer.save(Path(sys.argv[2]) / str(progress.iteration))
    print(progress.iteration, flush=True)
print(trainer.policy_hash())
"""

EVERYTHING: dict[str, Any] = {
    "ppo": {
        "learning_rate": {"kind": "linear", "initial": 3e-3},
        "clip_range": {"kind": "linear", "initial": 0.3, "final": 0.1},
        "clip_range_vf": 0.3,
        "target_kl": 0.02,
        "ent_coef": 0.01,
        "batch_size": 50,
        "n_epochs": 3,
    },
    "normalize": {"observations": True, "rewards": True},
    "backend": "fused",
}
"""Whatever has a state: schedules, normalisers, early stops, and minibatches of 50 of 128 rows, the last one of 28."""

ADAPTIVE: dict[str, Any] = {
    "kl_penalty": {"kind": "dual", "coef": 0.3},
    "learning_rate": {"kind": "kl_adaptive", "initial": 1e-3},
}


def spec_with_everything(env_id: str, **sections: Any) -> TrainingSpec:
    return spec_of(env_id, **{**EVERYTHING, **sections})


def ends(trainer: Trainer, directory: Path) -> dict[str, bytes]:
    """All that a finished training leaves behind, but for the times."""
    run(trainer)
    trainer.save(directory)
    trainer.close()
    arrays = {name: (directory / name).read_bytes() for name in ("policy.safetensors", "state.safetensors")}
    state = json.loads((directory / "state.json").read_bytes())
    del state["window"]["seconds"]
    return {**arrays, "state.json": json.dumps(state).encode()}


@pytest.mark.parametrize(
    ("env_id", "sections"),
    [
        ("CartPole-v1", {"env": {"vectorization": "batched"}}),
        ("CartPole-v1", {"env": {"vectorization": "sync"}}),
        ("CartPole-v1", {"env": {"vectorization": "batched"}, "normalize": {"observations": False, "rewards": False}}),
        ("Acrobot-v1", {"env": {"vectorization": "batched", "max_episode_steps": 45}}),
        ("Pendulum-v1", {"env": {"vectorization": "batched", "max_episode_steps": 45}}),
        ("Pendulum-v1", {"env": {"vectorization": "sync", "max_episode_steps": 45}, "policy": {"squash_output": True}}),
        ("test/MultiDiscreteAction-v0", {"policy": {"share_features": True, "activation": "relu"}}),
        ("test/MultiBinaryAction-v0", {}),
        ("Acrobot-v1", {"ppo": {**EVERYTHING["ppo"], **ADAPTIVE, "objective": "dual_clip", "dual_clip": 1.1}}),
        ("Pendulum-v1", {"ppo": {**EVERYTHING["ppo"], **ADAPTIVE, "objective": "kl_penalty"}}),
    ],
)
def test_a_training_that_is_cut_anywhere_ends_like_one_run_through(
    env_id: str, sections: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first process did after its last checkpoint, in the same memory, leaves no trace in that checkpoint."""
    add_plugin(monkeypatch)
    spec = spec_with_everything(env_id, **sections)
    expected = ends(Trainer(spec), tmp_path / "whole")
    trainer = Trainer(spec)
    for cut in (1, 4, 8):
        run(trainer, cut - trainer.iteration)
        trainer.save(tmp_path / str(cut))
        run(trainer, 1)
        trainer.close()
        trainer = Trainer.resume(spec, tmp_path / str(cut))
        assert trainer.resumed is not None and trainer.resumed.kind == "exact"
    assert ends(trainer, tmp_path / "cut") == expected


def test_a_rollout_that_an_exception_cut_short_leaves_no_trace_in_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_with_everything("Pendulum-v1", env={"vectorization": "sync"})
    expected = ends(Trainer(spec), tmp_path / "whole")
    trainer = Trainer(spec)
    run(trainer, 3)
    trainer.save(tmp_path / "3")
    environment = trainer._components.environment
    step, steps = environment.step, iter(range(20))

    def interrupted(actions: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(actions)

    monkeypatch.setattr(environment, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(trainer, 1)
    assert ends(Trainer.resume(spec, tmp_path / "3"), tmp_path / "resumed") == expected


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_compiled_environments_give_the_weights_of_stepwise_ones(env_id: str) -> None:
    hashes = set()
    for vectorization in ("batched", "sync", "batched"):
        trainer = Trainer(spec_with_everything(env_id, env={"vectorization": vectorization}))
        run(trainer)
        hashes.add(trainer.policy_hash())
    assert len(hashes) == 1


@pytest.mark.parametrize("threads", ["1", "4"])
def test_another_process_gives_the_same_weights_whatever_its_environment_says_of_threads(
    threads: str, tmp_path: Path
) -> None:
    spec = spec_with_everything("CartPole-v1", policy={"hidden_sizes": [128, 128]})
    expected = Trainer(spec)
    run(expected)
    variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, spec.model_dump_json(), str(tmp_path)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.split()[-1] == expected.policy_hash()


def test_a_process_that_was_killed_is_gone_on_with_to_the_same_weights(tmp_path: Path) -> None:
    spec = spec_with_everything("CartPole-v1", ppo={**EVERYTHING["ppo"], "total_timesteps": 200_000})
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, spec.model_dump_json(), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    while (line := child.stdout.readline()) != "5\n":
        assert line
    time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    newest = max((path for path in tmp_path.iterdir() if (path / "manifest.json").exists()), key=lambda p: int(p.name))
    resumed = Trainer.resume(spec, newest)
    through = Trainer(spec)
    run(resumed, 20 - resumed.iteration)
    run(through, 20)
    assert resumed.policy_hash() == through.policy_hash()
