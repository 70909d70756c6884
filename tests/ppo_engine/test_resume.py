import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ppo_engine.errors import CheckpointCorrupt, CheckpointMismatch
from ppo_engine.export import spec_sha256
from ppo_engine.fingerprint import differences
from ppo_engine.spec import LinearSchedule, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of, state_bytes, timeless

GOLDEN = Path(__file__).parent / "golden" / "checkpoint_v1"


def spec_with_everything(env_id: str, ppo: dict[str, Any] | None = None, **policy: Any) -> TrainingSpec:
    """All that has a state: both normalisers, schedules, windows that checkpoints cut, evaluations.

    `ppo` is laid over that.
    """
    return spec_of(
        env_id,
        policy=policy,
        ppo={
            "learning_rate": LinearSchedule(initial=1e-3).model_dump(),
            "clip_range": LinearSchedule(initial=0.3, final=0.1).model_dump(),
            "target_kl": 0.02,
            "batch_size": 24,
            **(ppo or {}),
        },
        normalize={"observations": True, "rewards": True},
        evaluation={"every_timesteps": 512, "n_episodes": 1},
        metrics={"every_iterations": 3},
    )


@pytest.mark.law("T19")
@pytest.mark.parametrize(
    ("env_id", "policy"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"squash_output": True}),
        ("Pendulum-v1", {"use_sde": True, "sde_sample_freq": 5, "log_std_init": -1.0}),
        ("Pendulum-v1", {"state_dependent_std": True}),
        ("CartPole-v1", {"memory": "lstm", "memory_size": 8, "sequence_length": 12}),
        ("Pendulum-v1", {"memory": "gru", "memory_size": 8, "sequence_length": 12}),
        ("LunarLander-v3", {}),
    ],
)
def test_a_training_cut_in_two_ends_like_one_run_through(env_id: str, policy: dict[str, Any], tmp_path: Path) -> None:
    """Weights, moments, streams, statistics, environments and every metric: each file equal to the last byte."""
    require_equal_ends(spec_with_everything(env_id, **policy), tmp_path)


@pytest.mark.parametrize(
    ("env_id", "ppo"),
    [
        ("Pendulum-v1", {"objective": "kl_penalty", "kl_penalty": {"kind": "adaptive"}}),
        ("CartPole-v1", {"objective": "dual_clip", "kl_penalty": {"kind": "dual"}}),
        ("CartPole-v1", {"objective": "trpo", "n_epochs": 1, "target_kl": None}),
        ("Pendulum-v1", {"objective": "none", "rpo_alpha": 0.3}),
        ("CartPole-v1", {"learning_rate": {"kind": "kl_adaptive"}, "ent_coef": {"initial": 0.1}}),
        ("Pendulum-v1", {"critic": {"learning_rate": {"initial": 1e-3}, "n_epochs": 3}}),
    ],
)
def test_a_training_of_every_objective_goes_on_with_what_had_adapted(
    env_id: str, ppo: dict[str, Any], tmp_path: Path
) -> None:
    require_equal_ends(spec_with_everything(env_id, ppo), tmp_path)


def require_equal_ends(spec: TrainingSpec, tmp_path: Path) -> None:
    """Ten iterations in one go, and five and five, end the same."""
    whole = Trainer(spec)
    expected = timeless(run(whole))
    first = Trainer(spec)
    reported = timeless(run(first, 5))
    first.save(tmp_path / "half")
    second = Trainer.resume(spec, tmp_path / "half")
    reported += timeless(run(second))
    assert second.resumed is not None and second.resumed.kind == "exact"
    assert reported == expected
    ours, theirs = state_bytes(second, tmp_path / "resumed"), state_bytes(whole, tmp_path / "whole")
    for name in ("policy.safetensors", "state.safetensors", "policy.onnx", "vectors.json"):
        assert ours[name] == theirs[name], name
    assert without_times(ours["state.json"]) == without_times(theirs["state.json"])


def without_times(document: bytes) -> dict:
    state = json.loads(document)
    del state["window"]["seconds"]
    return state


def test_a_training_may_be_cut_after_any_iteration(tmp_path: Path) -> None:
    spec = spec_with_everything("CartPole-v1")
    through = Trainer(spec)
    run(through)
    trainer = Trainer(spec)
    for iteration in range(10):
        assert trainer.iteration == iteration
        run(trainer, 1)
        trainer.save(tmp_path / str(iteration))
        trainer.close()
        trainer = Trainer.resume(spec, tmp_path / str(iteration))
    assert trainer.policy_hash() == through.policy_hash()


def test_saving_what_was_just_loaded_writes_the_same_bytes(tmp_path: Path) -> None:
    spec = spec_with_everything("Pendulum-v1")
    trainer = Trainer(spec)
    run(trainer, 4)
    before = state_bytes(trainer, tmp_path / "before")
    assert state_bytes(Trainer.resume(spec, tmp_path / "before"), tmp_path / "after") == before


def test_saving_changes_nothing(tmp_path: Path) -> None:
    trainer, undisturbed = Trainer(spec_of()), Trainer(spec_of())
    for _ in range(3):
        run(trainer, 1)
        trainer.save(tmp_path)
    run(undisturbed, 3)
    assert trainer.policy_hash() == undisturbed.policy_hash()


def test_a_finished_training_says_so_and_trains_nothing(tmp_path: Path) -> None:
    trainer = Trainer(spec_of())
    run(trainer)
    trainer.save(tmp_path)
    resumed = Trainer.resume(spec_of(), tmp_path)
    [progress] = run(resumed)
    assert progress.finished and progress.stop_reason == "total_timesteps"
    assert (progress.iteration, progress.timesteps, progress.metrics) == (10, 1280, None)
    assert resumed.policy_hash() == trainer.policy_hash()


def test_a_training_ended_by_its_stop_rule_stays_ended(tmp_path: Path) -> None:
    spec = spec_of(stop={"threshold": 9.0})
    trainer = Trainer(spec)
    run(trainer)
    trainer.save(tmp_path)
    [progress] = run(Trainer.resume(spec, tmp_path))
    assert progress.stop_reason == "stop_rule"


def test_a_finished_training_goes_on_if_more_timesteps_are_asked_for(tmp_path: Path) -> None:
    trainer = Trainer(spec_of())
    run(trainer)
    trainer.save(tmp_path)
    longer = Trainer.resume(spec_of(ppo={"total_timesteps": 1536}), tmp_path)
    assert [step.timesteps for step in run(longer)] == [1408, 1536]


@pytest.mark.law("T18")
def test_schedules_go_on_where_they_were(tmp_path: Path) -> None:
    spec = spec_of(ppo={"learning_rate": {"initial": 1e-3}})
    trainer = Trainer(spec)
    run(trainer, 5)
    trainer.save(tmp_path)
    [progress] = run(Trainer.resume(spec, tmp_path), 1)
    assert progress.metrics is not None and progress.metrics["train/learning_rate"] == pytest.approx(5e-4)


def test_a_checkpoint_of_one_vectorization_goes_on_in_another(tmp_path: Path) -> None:
    sync, process = (spec_of("LunarLander-v3", env={"vectorization": mode}) for mode in ("sync", "process"))
    trainer = Trainer(sync)
    run(trainer, 3)
    trainer.save(tmp_path)
    resumed = Trainer.resume(process, tmp_path)
    for going_on in (trainer, resumed):
        run(going_on)
        going_on.close()
    assert resumed.resumed is not None and resumed.resumed.kind == "exact"
    assert resumed.policy_hash() == trainer.policy_hash()


def test_environments_that_cannot_be_replayed_make_the_resume_approximate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    spec = spec_of("test/Unrepeatable-v0")
    trainer = Trainer(spec)
    run(trainer, 1)
    trainer.save(tmp_path)
    resumed = Trainer.resume(spec, tmp_path)
    assert resumed.resumed is not None and resumed.resumed.kind == "approximate"
    assert resumed.resumed.reason
    assert run(resumed)[-1].finished


def test_another_machine_makes_the_resume_approximate_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(spec_of())
    run(trainer, 1)
    trainer.save(tmp_path)
    monkeypatch.setattr("ppo_engine.fingerprint.processor", lambda: ("Another CPU", ["sse2"]))
    resumed = Trainer.resume(spec_of(), tmp_path)
    assert resumed.resumed is not None and resumed.resumed.kind == "approximate"
    assert resumed.resumed.reason is not None and "is Another CPU" in resumed.resumed.reason
    assert resumed.runtime["cpu"] == "Another CPU"


def test_differences_of_fingerprints_are_named_down_to_the_version() -> None:
    before = {"cpu": "A", "threads": 1, "versions": {"torch": "2.11", "numpy": "2.4"}}
    now = {"cpu": "A", "threads": 2, "versions": {"torch": "2.13", "numpy": "2.4"}}
    assert differences(before, before) == []
    assert differences(before, now) == ["threads was 1, is 2", "torch was 2.11, is 2.13"]


@pytest.mark.parametrize(
    ("other", "section"),
    [
        ({"policy": {"hidden_sizes": [8]}}, "policy"),
        ({"ppo": {"gamma": 0.5}}, "ppo"),
        ({"seed": 9}, "seed"),
        ({"env": {"n_envs": 2}}, "env"),
        ({"normalize": {"clip_rewards": 3.0}}, "normalize"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, other: dict, section: str) -> None:
    Trainer(spec_of()).save(tmp_path)
    with pytest.raises(CheckpointMismatch, match=f"another training: {section} was"):
        Trainer.resume(spec_of(**other), tmp_path)


def test_a_checkpoint_goes_on_only_with_its_own_squashing(tmp_path: Path) -> None:
    Trainer(spec_of("Pendulum-v1")).save(tmp_path)
    with pytest.raises(CheckpointMismatch, match="another training: policy was"):
        Trainer.resume(spec_of("Pendulum-v1", policy={"squash_output": True}), tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    Trainer(spec_of()).save(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointCorrupt, match=r"^state.safetensors"):
        Trainer.resume(spec_of(), tmp_path)


def test_no_file_of_a_checkpoint_holds_a_pickle(tmp_path: Path) -> None:
    trainer = Trainer(spec_with_everything("CartPole-v1"))
    run(trainer, 2)
    files = state_bytes(trainer, tmp_path)
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors", "onnx"}
    assert not any(content.startswith(b"\x80") or b"numpy.core" in content for content in files.values())


def test_the_golden_checkpoint_of_format_1_loads_and_trains(tmp_path: Path) -> None:
    """Written by the first version. On the machine that wrote it the resume would be exact; here it may not be."""
    shutil.copytree(GOLDEN, tmp_path / "checkpoint")
    state = json.loads((GOLDEN / "state.json").read_text())
    assert "squash_output" not in state["spec"]["policy"]
    spec = TrainingSpec.model_validate_json(json.dumps(state["spec"]))
    trainer = Trainer.resume(spec, tmp_path / "checkpoint")
    assert (trainer.iteration, trainer.timesteps) == (3, 96)
    assert spec_sha256(trainer.spec) == json.loads((GOLDEN / "policy.json").read_text())["spec_sha256"]
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    hashes = {file["name"]: file["sha256"] for file in manifest["files"]}
    assert trainer.policy_hash() == hashes["policy.safetensors"]
    progress = run(trainer)
    assert [step.iteration for step in progress] == [4, 5] and progress[-1].finished
