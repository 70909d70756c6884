import pytest

from benchmarks.profile import PHASES, ROLLOUT, UPDATE, profile, shares
from benchmarks.tasks import Task


@pytest.mark.parametrize("backend", ["torch", "fused"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "LunarLander-v3"])
def test_every_phase_that_is_measured_is_found_in_either_backend(backend, env_id):
    task = Task("cartpole", env_id, 2, 16, 2, 8, total_timesteps=32)
    record = profile(task, backend, seconds=0.0)
    assert record["backend"] == backend
    assert list(record["phases"]) == list(PHASES)
    assert all(record["phases"][phase] > 0.0 for phase in (*ROLLOUT[:2], UPDATE[0], UPDATE[2]))
    assert shares(record).splitlines()[-1].startswith("| an iteration")
