import json

import numpy as np
import pytest

from benchmarks.kl_penalty import RULES, TASKS, Run, document, last_half, plot, ratios
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec


def test_the_last_half_has_its_mean_and_the_share_within_half_of_the_target() -> None:
    """Target 0.01, four iterations, two seeds: of 0.4, 1.0, 1.5 and 1.6 two are within ±50 %, the mean is 4.5 / 4."""
    records = [{"kl": [9.0, 9.0, 0.004, 0.01], "target": 0.01}, {"kl": [9.0, 9.0, 0.015, 0.016], "target": 0.01}]
    mean, share = last_half(ratios(records))
    assert mean == pytest.approx(4.5 / 4) and share == 0.5


def test_a_bar_reaches_the_mark_where_the_kl_is_its_target() -> None:
    lines = plot(np.array([[1.0] * 10 + [0.0] * 10]))
    assert [line.count("█") for line in lines] == [20] * 5 + [0] * 5
    assert all(line.index("|") == lines[0].index("|") for line in lines)


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("kind", RULES)
def test_every_run_has_a_spec(env_id: str, kind: str) -> None:
    spec = TrainingSpec.model_validate_json(json.dumps(document(Run(env_id, 1000, 1e-3, kind, 0.02, 0))))
    penalty = resolve(spec).ppo.kl_penalty
    assert penalty is not None and (penalty.kind, penalty.target) == (kind, 0.02)
