import json
import subprocess
import sys

import pytest

from tests.faults.campaign import Plan, run

SHORT = {"env": {"n_envs": 4}, "ppo": {"n_steps": 256, "batch_size": 256, "n_epochs": 4}}
"""Iterations so short that a job has some dozens of them to be killed in."""

SLOW = {
    "env": {"n_envs": 2, "kwargs": {"seconds_per_step": 0.002}},
    "ppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 2},
}
"""An iteration takes at least 2 · 32 · 2 ms = 0.13 s, however fast the engine is."""

LONG = [
    Plan(jobs=10, kills=10, env="CartPole-v1", timesteps=3_000_000),
    Plan(jobs=2, kills=4, env="LunarLander-v3", timesteps=500_000, spec=SHORT),
    Plan(jobs=2, kills=4, env="HalfCheetah-v5", timesteps=300_000, spec=SHORT),
    Plan(jobs=2, kills=4, env="CartPole-v1", timesteps=200_000, vectorization="process", spec=SHORT),
]


@pytest.mark.timeout(400)
def test_killed_children_and_workers_cost_no_iteration_and_no_bit() -> None:
    plan = Plan(jobs=2, kills=3, env="test/Slow-v0", timesteps=64 * 50, seed=1, spec=SLOW, limit_seconds=300)
    summary = run(plan, print)
    assert summary["faults_found"] == []
    assert (summary["succeeded"], summary["kills_of_children"], summary["kills_of_celery_mains"]) == (2, 2, 1)
    assert summary["attempts"] >= 5
    assert summary["resumed_from_a_checkpoint"] >= 1


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("plan", LONG, ids=lambda plan: f"{plan.env}-{plan.vectorization}")
def test_the_long_campaign_breaks_no_promise(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        summary = run(plan, lambda words: print(words, flush=True))
        print(json.dumps(summary))
    assert summary["faults_found"] == []


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_every_resume_is_what_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        status = subprocess.run([sys.executable, "-m", "tests.faults.resumes"], check=False).returncode
    assert status == 0


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_outages_that_end_by_themselves_cost_no_job(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        status = subprocess.run([sys.executable, "-m", "tests.faults.outages", "--seed", "1"], check=False).returncode
    assert status == 0
