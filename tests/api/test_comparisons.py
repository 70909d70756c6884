"""Laws of comparisons: what is counted, and when there is a winner."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from api.comparisons import FEWEST_SEEDS, judge
from ppo_engine.aggregates import interquartile_mean, probability_bootstrap, probability_of_improvement
from ppo_jobs.schemas import GroupPair, GroupSummary
from ppo_jobs.states import JobStatus
from tests.api import deployment


@pytest.fixture
def group(database, tenant):
    interquartile_mean([1.0])  # Loads scipy.stats, for which the first request would wait.

    def made(name: str, scores, *, first_seed: int = 0, **options) -> list[str]:
        return [
            deployment.trained(database, tenant, group=name, seed=first_seed + number, score=score, **options)
            for number, score in enumerate(scores)
        ]

    return made


def compared(client, *names: str, **params):
    return client.get("/v1/comparisons", params={"group": list(names), **params})


def test_a_group_that_is_always_better_wins_and_the_numbers_are_those_worked_by_hand(client, group):
    group("a", [10, 20, 30, 40, 50, 60, 70, 80])
    group("b", [1, 2, 3, 4, 5, 9])
    answer = compared(client, "a", "b")
    assert answer.status_code == 200, answer.text
    comparison = answer.json()
    a, b = comparison["groups"]
    # of eight, two at either end are left out: (30 + 40 + 50 + 60) / 4; of six, one: (2 + 3 + 4 + 5) / 4
    assert (a["n_seeds"], a["mean"], a["iqm"]) == (8, 45.0, 45.0)
    assert (b["n_seeds"], b["mean"], b["iqm"]) == (6, 4.0, 3.5)
    assert a["iqm_ci95"][0] < 45 < a["iqm_ci95"][1]
    assert [seed["score"] for seed in b["seeds"]] == [1, 2, 3, 4, 5, 9]
    (pair,) = comparison["pairs"]
    assert (pair["a"], pair["b"], pair["probability_of_improvement"], pair["ci95"]) == ("a", "b", 1.0, [1.0, 1.0])
    assert comparison["winner"] == "a"
    assert comparison["reason"] == "a seed of a does better than one of b with probability 1.00 (1.00 to 1.00)"
    assert compared(client, "b", "a").json()["winner"] == "a"
    assert comparison["env_id"] == "CartPole-v1"


def test_groups_that_overlap_have_no_winner(client, group):
    group("a", [1, 3, 5, 7, 9, 11])
    group("b", [2, 4, 6, 8, 10, 12])
    comparison = compared(client, "a", "b").json()
    # of 36 pairs a is above in 0 + 1 + 2 + 3 + 4 + 5 = 15
    assert comparison["pairs"][0]["probability_of_improvement"] == pytest.approx(15 / 36)
    assert comparison["winner"] is None
    assert (
        "no group is surely the best: a seed of b does better than one of a with probability 0.58"
        in (comparison["reason"])
    )


def test_too_few_seeds_have_no_winner_however_far_apart(client, group):
    group("a", [100] * (FEWEST_SEEDS - 1))
    group("b", [1] * FEWEST_SEEDS)
    comparison = compared(client, "a", "b").json()
    assert comparison["winner"] is None
    assert comparison["reason"] == "a has 5 seeds; to name a winner takes 6 of each group"
    assert comparison["pairs"][0]["ci95"] == [1.0, 1.0]


def test_a_winner_is_better_than_every_other_group(client, group):
    group("a", [9, 10, 11, 12, 13, 14])
    group("b", [1, 2, 3, 4, 5, 6])
    group("c", [9, 10, 11, 12, 13, 14.5])
    comparison = compared(client, "a", "b", "c").json()
    assert [(pair["a"], pair["b"]) for pair in comparison["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert comparison["winner"] is None
    assert "c" in comparison["reason"] and "a" in comparison["reason"]


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_group_that_lost_jobs_does_not_win_on_those_that_are_left(client, group, status):
    group("a", [10, 20, 30, 40, 50, 60])
    (lost,) = group("a", [0], first_seed=6, status=status)
    group("b", [1, 2, 3, 4, 5, 9])
    comparison = compared(client, "a", "b").json()
    assert comparison["winner"] is None
    assert comparison["reason"] == f"a is not complete: {lost} is {status}"
    assert comparison["groups"][0]["left_out"] == [{"job_id": lost, "reason": f"is {status}", "superseded": False}]


def test_a_job_that_was_retried_counts_once(client, group):
    group("a", [20, 30, 40, 50, 60], first_seed=1)
    (failed,) = group("a", [0], status=JobStatus.FAILED)
    (again,) = group("a", [10])
    group("b", [1, 2, 3, 4, 5, 9])
    comparison = compared(client, "a", "b").json()
    assert comparison["winner"] == "a"
    assert comparison["groups"][0]["left_out"] == [
        {"job_id": failed, "reason": f"is older than {again}, which has the same seed", "superseded": True}
    ]
    assert comparison["groups"][0]["mean"] == 35.0


def test_a_job_without_the_score_is_named(client, group):
    a = group("a", [1, None])
    group("b", [1, 2])
    comparison = compared(client, "a", "b").json()
    assert comparison["reason"] == f"a is not complete: {a[1]} has reported no rollout/ep_rew_mean"
    evaluated = compared(client, "a", "b", score="evaluation").json()
    assert evaluated["groups"][0]["n_seeds"] == 0
    assert evaluated["groups"][0]["mean"] is evaluated["pairs"][0]["probability_of_improvement"] is None
    assert "no evaluation of its final checkpoint" in evaluated["reason"]


@pytest.fixture
def evaluated(database, tenant, artifacts, tmp_path):
    """Makes a job whose final checkpoint was evaluated once by each of the rules, the last being the newest."""

    def made(*rules: dict[str, Any], returns=(3.0, 5.0), seed: int = 1, max_episode_steps: int | None = None) -> str:
        job_id = deployment.insert(database, tenant, seed=seed, max_episode_steps=max_episode_steps)
        files = tmp_path / job_id
        files.mkdir()
        (files / "policy.json").write_text("{}")
        deployment.start(database)
        checkpoint_id = deployment.store(database, artifacts, job_id, files, final=True)
        deployment.finish(database, job_id)
        for rule in rules:
            deployment.play(database, deployment.evaluate(database, tenant, checkpoint_id, **rule), returns)
        return job_id

    return made


def by_evaluation(client, *groups: str):
    return client.get("/v1/comparisons", params={"jobs": list(groups), "score": "evaluation"})


def test_the_newest_evaluation_of_the_final_checkpoint_is_the_score(client, database, tenant, evaluated):
    ids = [evaluated({}) for _ in range(2)]
    for id in ids:
        checkpoint_id = client.get(f"/v1/jobs/{id}").json()["final_checkpoint_id"]
        deployment.play(database, deployment.evaluate(database, tenant, checkpoint_id), [7.0, 9.0])
        client.post(f"/v1/evaluations/{deployment.evaluate(database, tenant, checkpoint_id)}/cancel")
    comparison = by_evaluation(client, *ids).json()
    assert [group["name"] for group in comparison["groups"]] == ["jobs 1", "jobs 2"]
    assert [group["mean"] for group in comparison["groups"]] == [8.0, 8.0]


def test_evaluations_by_other_rules_are_refused_with_what_differs(client, evaluated):
    a = evaluated({})
    for rule, differs in (
        ({"deterministic": False}, "deterministic is true and false"),
        ({"max_episode_steps": 10}, "env.max_episode_steps is null and 10"),
        (
            {"max_episode_steps": 10, "deterministic": False},
            "env.max_episode_steps is null and 10, deterministic is true and false",
        ),
    ):
        b = evaluated({}, rule)
        played = client.get("/v1/evaluations", params={"job_id": b}).json()["data"][0]["id"]
        answer = by_evaluation(client, a, b)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), rule
        (fault,) = answer.json()["errors"]
        assert f"{b} ({played})" in fault["message"] and a in fault["message"]
        assert fault["message"].endswith(f" cannot be compared by evaluation: {differs}")
        assert compared(client, jobs=[a, b]).status_code == 200


def test_only_the_newest_evaluations_of_the_jobs_that_count_must_share_their_rules(client, evaluated):
    older = evaluated({"deterministic": False})
    newer = evaluated({"max_episode_steps": 10}, {"n_episodes": 2})
    comparison = by_evaluation(client, f"{older},{newer}", evaluated({"n_episodes": 6}, returns=[1.0] * 6)).json()
    assert [group["n_seeds"] for group in comparison["groups"]] == [1, 1]
    # One rule for both, whatever each was trained by.
    shorter = evaluated({"max_episode_steps": 500}, max_episode_steps=100)
    assert by_evaluation(client, shorter, evaluated({"max_episode_steps": 500})).status_code == 200


@pytest.mark.parametrize(
    ("env", "differs"),
    [
        ({"id": "Pendulum-v1"}, 'env.id is "CartPole-v1" and "Pendulum-v1"'),
        ({"id": "CartPole-v1", "max_episode_steps": 900}, "env.max_episode_steps is null and 900"),
        (
            {"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}, "frame_stack": 2},
            "env.kwargs.sutton_barto_reward is not set and true",
        ),
        ({"id": "CartPole-v1", "atari": {"frame_skip": 2}}, "env.atari.frame_skip is 4 and 2"),
    ],
)
def test_another_environment_is_refused_with_what_differs(client, group, env, differs):
    (first,) = group("a", [1])
    (other,) = group("b", [1], env=env)
    answer = compared(client, "a", "b")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    message = f"{first} and {other} cannot be compared by rollout/ep_rew_mean: {differs}"
    assert answer.json()["errors"] == [{"pointer": "group", "message": message}]


@pytest.mark.parametrize(
    "env",
    [
        {"n_envs": 3, "vectorization": "process", "step_timeout_seconds": 1.0},
        {"frame_stack": 4},
        {"action_masks": True},
        {"atari": {}},
        {"atari": {"terminal_on_life_loss": False, "clip_rewards": False, "screen_size": 64, "grayscale": False}},
    ],
)
def test_how_a_policy_sees_an_environment_and_learns_from_it_makes_it_no_other_one(client, group, env):
    group("a", [1])
    group("b", [1], env={"id": "CartPole-v1"} | env)
    answer = compared(client, "a", "b")
    assert answer.status_code == 200, answer.text


def test_evaluations_of_training_are_compared_where_they_chose_actions_alike(client, group):
    sampled = {"every_timesteps": 10, "deterministic": False}
    (first,) = group("a", [1], metric="eval/mean_reward")
    (other,) = group("b", [1], metric="eval/mean_reward", evaluation=sampled)
    group("c", [1], metric="eval/mean_reward", evaluation={"every_timesteps": 20, "n_episodes": 3})
    answer = compared(client, "a", "b", score="eval/mean_reward")
    assert answer.status_code == 422
    message = f"{first} and {other} cannot be compared by eval/mean_reward: evaluation.deterministic is true and false"
    assert answer.json()["errors"] == [{"pointer": "group", "message": message}]
    assert compared(client, "a", "c", score="eval/mean_reward").status_code == 200
    assert compared(client, "a", "b").status_code == 200


def test_nonsense_and_what_is_not_there_are_refused(client, stranger, group):
    a = group("a", [1, 2])
    group("b", [1, 2])
    for params, status in (
        ({}, 422),
        ({"group": ["a"]}, 422),
        ({"group": ["a", "a"]}, 422),
        ({"group": ["a", "b"], "score": "luck"}, 422),
        ({"group": ["a"], "jobs": a[0]}, 422),
        ({"group": ["a"], "jobs": "a,b"}, 422),
        ({"group": [f"{number}" for number in range(9)]}, 422),
        ({"group": ["a", "nobody"]}, 404),
        ({"group": ["a"], "jobs": "job_" + "0" * 26}, 404),
    ):
        answer = client.get("/v1/comparisons", params=params)
        assert answer.status_code == status, (params, answer.text)
        assert answer.json()["code"] in {"invalid_request", "group_not_found", "job_not_found"}
    assert compared(stranger, "a", "b").status_code == 404
    assert stranger.get("/v1/comparisons", params={"jobs": a}).status_code == 404


def summary(name: str, scores) -> GroupSummary:
    return GroupSummary(
        name=name,
        n_seeds=len(scores),
        mean=0.0,
        mean_ci95=None,
        iqm=0.0,
        iqm_ci95=None,
        seeds=[],
        left_out=[],
    )


def winner_of(samples: dict[str, np.ndarray]) -> str | None:
    names = list(samples)
    pairs = [
        GroupPair(
            a=a,
            b=b,
            probability_of_improvement=probability_of_improvement(list(samples[a]), list(samples[b])),
            ci95=probability_bootstrap(list(samples[a]), list(samples[b])),
        )
        for a, b in product(names, names)
        if a < b
    ]
    return judge([summary(name, scores) for name, scores in samples.items()], pairs)[0]


def test_equal_groups_seldom_have_a_winner_and_different_ones_have_the_right_one(monkeypatch):
    """Of 300 pairs of equal groups, 5 % would be 15; at one that is 1.5 deviations better, most are found."""
    monkeypatch.setattr("ppo_engine.aggregates.RESAMPLES", 499)
    generator = np.random.default_rng(0)
    draws = [{"a": generator.normal(size=8), "b": generator.normal(size=8)} for _ in range(300)]
    false = sum(winner_of(samples) is not None for samples in draws)
    shifted = [{"a": samples["a"] + 1.5, "b": samples["b"]} for samples in draws[:100]]
    true = [winner_of(samples) for samples in shifted]
    assert false <= 27, false  # 9 %: three standard deviations of the count above 5 %
    assert true.count("a") >= 75
    assert true.count("b") == 0
