"""Every law of a correct engine has a test that states it; `pytest -m law` runs them.

The laws T1 to T27 and G1 to G14 are those that other engines broke. In a word each:
T1 clipping's four quadrants · T2 ratio one in the first minibatch · T3 advantages against brute force · T4 truncation
bootstraps · T5 only of the truncated, with its own final observation · T6 rewards stay what they were · T7 approx_kl ·
T8 target_kl before the step · T9 normalised advantages · T10 value clipping · T11 Gaussian · T12 its tanh · T13 heads
in one · T14 masks · T15 memory · T16 statistics stand still · T17 Adam, initial weights, schedules, one norm · T18
schedules and adaptive numbers go on · T19 exact resume · T20 many learners · T21 what is not finite · T22 determinism ·
T23 graphs equal eager · T24 KL penalties · T25 probes · T26 evaluation · T27 lives.
G1 autoreset modes · G2 reset rows weigh nothing · G3 also across rollouts · G4 which final observation · G5 all modes
alike · G6, G7 buffers that are used again · G8 own normaliser of observations · G9 and of rewards · G10 workers that
hang or die · G11 native CartPole · G12 no sum across a truncation · G13 EnvPool · G14 seeds.
"""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
LAWS = [*(f"T{number}" for number in range(1, 28)), *(f"G{number}" for number in range(1, 15))]
WITHOUT_A_TEST = {
    "T20": "a training has one learner: nothing is reduced over ranks",
}


def stated_laws() -> dict[str, list[str]]:
    """The laws that tests are marked with, and the tests."""
    stated: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for law in _marked(node):
                    stated.setdefault(law, []).append(f"{path.relative_to(TESTS)}::{node.name}")
    return stated


def _marked(function: ast.FunctionDef) -> list[str]:
    calls = [mark for mark in function.decorator_list if isinstance(mark, ast.Call)]
    marks = [call for call in calls if ast.unparse(call.func) == "pytest.mark.law"]
    return [ast.literal_eval(argument) for mark in marks for argument in mark.args]


def test_every_law_has_a_test() -> None:
    stated = stated_laws()
    assert [law for law in LAWS if law not in stated and law not in WITHOUT_A_TEST] == []
    assert [law for law in stated if law not in LAWS or law in WITHOUT_A_TEST] == []
