"""Laws of `benchmarks.learning` and `benchmarks.learning_sb3`: which runs count, and what the table says of them."""

from pathlib import Path

import pytest

from benchmarks import learning, learning_sb3
from benchmarks.learning import TARGETS, Target, preset_spec, summary
from benchmarks.record import Record, append
from ppo_engine.export import spec_sha256


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(learning, "FILE", tmp_path / "learning.jsonl")
    monkeypatch.setattr(learning_sb3, "FILE", tmp_path / "learning_sb3.jsonl")
    return tmp_path


def finished(score: float, *, seed: int = 0, episodes: int = 200, spec: str | None = None) -> Record:
    name = spec_sha256(preset_spec("CartPole-v1", seed)) if spec is None else spec
    return {"spec_sha256": name, "seed": seed, "episodes": episodes, "mean_return": score, "train_seconds": 1.0}


def test_the_summary_is_the_mean_of_the_seeds_and_the_mean_of_the_middle_ones() -> None:
    """Of 100, 400, 460, 490, 500 the mean is 390; without the outer quarters, one on each side, it is 450."""
    runs = [finished(score) for score in (100.0, 400.0, 460.0, 490.0, 500.0)]
    answer = summary(Target("CartPole-v1", 391.0, perfect=500.0), runs)
    assert (answer["mean"], answer["iqm"]) == (390.0, pytest.approx(450.0))
    assert (answer["perfect_seeds"], answer["reached"]) == (1, False)
    assert summary(Target("CartPole-v1", 390.0), runs)["reached"] is True


def test_of_kept_runs_the_newest_with_the_present_preset_counts() -> None:
    runs = [
        finished(1.0),
        finished(2.0),
        finished(3.0, spec="another"),
        finished(4.0, episodes=3),
        finished(5.0, seed=2),
    ]
    for record in runs:
        append(learning.FILE, record)
    kept = learning.kept([Target("CartPole-v1", None)])["CartPole-v1"]
    assert [record["mean_return"] for record in kept] == [2.0, 5.0]


def test_a_target_stands_beside_what_sb3_reached_with_the_settings_of_its_zoo() -> None:
    settings = dict(learning_sb3.ZOO["CartPole-v1"])
    for seed, score in ((0, 480.0), (1, 500.0)):
        append(learning_sb3.FILE, {"env_id": "CartPole-v1", "seed": seed, "settings": settings, "mean_return": score})
    append(learning_sb3.FILE, {"env_id": "CartPole-v1", "seed": 2, "settings": {"gamma": 0.5}, "mean_return": 9.0})
    assert summary(Target("CartPole-v1", None), [finished(500.0)])["sb3_zoo"] == 490.0


def test_every_target_is_of_five_seeds_and_stands_once() -> None:
    assert {target.seeds for target in TARGETS} == {5}
    assert len({target.env_id for target in TARGETS}) == len(TARGETS)
