"""Laws of `benchmarks.tune`: what a trial trains, and that a search goes on where it was interrupted."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from benchmarks import tune
from benchmarks.learning import TARGETS
from benchmarks.record import read
from benchmarks.tune import SPACES, Range, open_study, search, trial_spec
from ppo_engine.spec import KLAdaptiveRate, LinearSchedule, TrainingSpec


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tune, "FILE", tmp_path / "tuning.jsonl")
    monkeypatch.setattr(tune, "STUDIES", tmp_path)
    monkeypatch.setattr(tune, "scores", learnt)
    return tmp_path


def learnt(specs: Sequence[TrainingSpec], episodes: int) -> Iterator[list[float]]:
    """Stands for training: the larger gae_lambda, the better, from the first check on."""
    for check in range(1, tune.CHECKS + 1):
        yield [check * spec.ppo.gae_lambda for spec in specs]


def options(**fields: object) -> argparse.Namespace:
    given = {"env_id": "CartPole-v1", "seeds": 2, "timesteps": 1000, "episodes": 4, "seed": 0, "given": None}
    return argparse.Namespace(**{"trials": 1, "minutes": None, **given, **fields})


def test_settings_are_laid_over_the_preset() -> None:
    spec = trial_spec("CartPole-v1", {"ppo.gae_lambda": 0.5, "policy.hidden_sizes": [8]}, 1001, 5000)
    assert (spec.ppo.gae_lambda, spec.policy.hidden_sizes, spec.seed, spec.ppo.total_timesteps) == (
        0.5,
        (8,),
        1001,
        5000,
    )
    assert spec.ppo.ent_coef == 0.01  # untouched: still the preset's


def test_an_initial_learning_rate_decays_to_zero_and_a_whole_one_does_not() -> None:
    decaying = trial_spec("CartPole-v1", {"ppo.learning_rate.initial": 0.002}, 1000, 1000).ppo.learning_rate
    assert decaying == LinearSchedule(initial=0.002, final=0.0)
    assert trial_spec("CartPole-v1", {"ppo.learning_rate": 0.002}, 1000, 1000).ppo.learning_rate == 0.002


@pytest.mark.parametrize("env_id", sorted(SPACES))
def test_every_declared_setting_is_a_place_of_the_spec(env_id: str) -> None:
    settings = {place: at.low if isinstance(at, Range) else at[0] for place, at in SPACES[env_id].items()}
    assert trial_spec(env_id, settings, 1000, 100_000).ppo.clip_range == settings["ppo.clip_range"]


def test_a_learning_rate_may_be_of_another_kind() -> None:
    settings = {"ppo.learning_rate.kind": "kl_adaptive", "ppo.learning_rate.target_kl": 0.02}
    rate = trial_spec("Ant-v5", settings, 1000, 100_000).ppo.learning_rate
    assert isinstance(rate, KLAdaptiveRate)
    assert (rate.target_kl, rate.initial) == (0.02, 3e-4)


def test_every_target_has_a_search_space() -> None:
    assert {target.env_id for target in TARGETS} <= set(SPACES)


def test_no_trial_trains_a_seed_that_judges_presets() -> None:
    assert max(target.seeds for target in TARGETS) <= tune.FIRST_SEED


def test_an_interrupted_search_goes_on_with_other_settings_than_it_has_tried() -> None:
    search(options(trials=2))
    search(options(trials=2))
    trials = open_study(options()).trials
    assert len({str(trial.params) for trial in trials}) == len(trials) == 4
    assert [record["trial"] for record in read(tune.FILE)] == [0, 1, 2, 3]


def test_a_trial_that_was_cut_short_begins_again() -> None:
    study = open_study(options())
    study.enqueue_trial({}, user_attrs={tune.GIVEN: {"ppo.gae_lambda": 0.7}})
    study.ask()
    search(options(trials=1))
    (record,) = read(tune.FILE)
    assert record["settings"] == {"ppo.gae_lambda": 0.7}


def test_a_trial_below_the_median_is_pruned_and_kept_with_what_it_reached() -> None:
    for gae_lambda in (0.9, 0.9, 0.9, 0.5):
        search(options(given={"ppo.gae_lambda": gae_lambda}))
    *finished, pruned = read(tune.FILE)
    assert [record["score"] for record in finished] == [pytest.approx(0.9 * tune.CHECKS)] * 3
    assert (pruned["pruned"], pruned["curves"]) == (True, [[0.5, 1.0], [0.5, 1.0]])


def test_settings_that_contradict_each_other_end_one_trial_and_not_the_search() -> None:
    search(options(given={"ppo.batch_size": 10_000_000}))
    search(options(given={"ppo.gae_lambda": 0.9}))
    assert len(read(tune.FILE)) == 1
