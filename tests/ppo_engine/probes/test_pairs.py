"""Every two values of head, memory, estimator and objective together; `make probe-matrix` runs all combinations."""

import pytest

from tests.environments import add_plugin
from tests.ppo_engine.probes.combinations import ALL, Combination, all_pairs, pairs_of, refusal, spec_of


def known_combinations() -> tuple[list[Combination], dict[Combination, str]]:
    """Those that are admitted, and why the others are refused."""
    with pytest.MonkeyPatch.context() as patch:
        add_plugin(patch)
        reasons = {combination: refusal(combination) for combination in ALL}
    refused = {combination: reason for combination, reason in reasons.items() if reason is not None}
    return [combination for combination in ALL if combination not in refused], refused


ADMITTED, REFUSED = known_combinations()


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


@pytest.mark.law("T25")
@pytest.mark.parametrize("combination", all_pairs(ADMITTED), ids=str)
def test_policy_values_and_advantages_are_those_of_the_closed_form(combination: Combination) -> None:
    from tests.ppo_engine.probes.probe import outcome_of

    outcome = outcome_of(spec_of(combination))
    assert not outcome.faults, outcome


def test_every_pair_occurs() -> None:
    wanted = {pair for combination in ADMITTED for pair in pairs_of(combination)}
    assert wanted == {pair for combination in all_pairs(ADMITTED) for pair in pairs_of(combination)}


def test_what_makes_no_sense_is_refused_with_a_reason() -> None:
    """TRPO's step is the actor's alone, and with memory the critic shares the actor's layers."""
    assert {(c.memory != "none", c.objective) for c in REFUSED} == {(True, "trpo")}
    assert all("critic" in reason for reason in REFUSED.values())
