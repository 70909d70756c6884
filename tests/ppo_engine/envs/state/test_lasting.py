import json
import sys
from pathlib import Path

import pytest

from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of, state_bytes, timeless


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def forget_what_is_shared() -> None:
    """As in a process that begins: the environments' module has counted nothing."""
    lasting = sys.modules.get("ppo_test_environments.lasting")
    if lasting is not None:
        lasting.SharedCurriculum.begun = 0
        lasting.LEVEL["episodes"] = 0


def cut(spec: TrainingSpec, directory: Path, *, after: int = 5) -> tuple[Trainer, Trainer]:
    """A training in one go, and another that was saved after some iterations and resumed; both are done."""
    forget_what_is_shared()
    whole = Trainer(spec)
    expected = timeless(run(whole))
    forget_what_is_shared()
    first = Trainer(spec)
    reported = timeless(run(first, after))
    first.save(directory / "half")
    first.close()
    forget_what_is_shared()
    second = Trainer.resume(spec, directory / "half")
    reported += timeless(run(second))
    assert second.resumed is not None
    if second.resumed.kind == "exact":
        assert reported == expected
        files, theirs = state_bytes(second, directory / "resumed"), state_bytes(whole, directory / "whole")
        assert files["policy.safetensors"] == theirs["policy.safetensors"]
        # A layer that keeps its state itself decides what else of it counts.
        assert "Kept" in spec.env.id or files["state.safetensors"] == theirs["state.safetensors"]
    for trainer in (whole, second):
        trainer.close()
    return whole, second


EXACT = (
    "Walk", "SharedBuffer", "Curriculum", "KeptCurriculum", "SharedCurriculum", "Closed", "Statistics",
    "KeptStatistics", "Hidden", "GlobalRandom", "SampledActions",
)  # fmt: skip


@pytest.mark.parametrize("vectorization", ["sync", "process"])
@pytest.mark.parametrize("name", EXACT)
def test_what_outlives_an_episode_is_brought_back_to_the_bit(name: str, vectorization: str, tmp_path: Path) -> None:
    spec = spec_of(f"test/{name}-v0", env={"n_envs": 2, "vectorization": vectorization}, ppo={"total_timesteps": 640})
    _, resumed = cut(spec, tmp_path)
    assert resumed.resumed is not None
    assert (resumed.resumed.kind, resumed.resumed.reason) == ("exact", None)


@pytest.mark.parametrize("vectorization", ["sync", "process"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LateCurriculum", "LateCurriculum.numbers is a itertools.count, which cannot be looked into"),
        ("Opaque", "Statistics.mean.steps is a builtins.generator, which cannot be looked into"),
        ("Unrepeatable", "its observation differs after a replay of the episode"),
        ("Clocked", "its observation differs after a replay of the episode"),
    ],
)
def test_what_cannot_be_seen_is_not_called_exact(name: str, reason: str, vectorization: str, tmp_path: Path) -> None:
    spec = spec_of(f"test/{name}-v0", env={"n_envs": 2, "vectorization": vectorization}, ppo={"total_timesteps": 640})
    _, resumed = cut(spec, tmp_path)
    assert resumed.resumed is not None and resumed.resumed.kind == "approximate"
    assert reason in str(resumed.resumed.reason)
    foreseen = json.loads((tmp_path / "half" / "manifest.json").read_text())["resume"]
    assert foreseen == ("approximate" if "looked into" in reason else "exact")
