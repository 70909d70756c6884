"""Evaluations and comparisons from Python and from the command line, against the real API."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppo_client import Client, Conflict, InvalidRequest, NotFound
from ppo_client.cli.root import ppo
from ppo_client.jobs import JobHandle
from ppo_engine.aggregates import interquartile_mean
from ppo_jobs.artifacts import LocalArtifacts
from ppo_jobs.database import Database
from ppo_jobs.states import JobStatus
from tests.api import deployment

RETURNS = [1.0, 2.0, 3.0, 6.0]
Command = Callable[..., Result]


@pytest.fixture
def trained(client: Client, database: Database, artifacts: LocalArtifacts, tmp_path: Path) -> JobHandle:
    """A job that has succeeded, with a final checkpoint."""
    directory = tmp_path / "written"
    directory.mkdir()
    (directory / "policy.json").write_text("{}")
    job = client.submit("CartPole-v1", seed=3)
    assert deployment.start(database) == job.id
    deployment.store(database, artifacts, job.id, directory, final=True)
    deployment.finish(database, job.id)
    return job.refresh()


@pytest.fixture
def command(server_url: str, api_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    variables = {"PPO_API_URL": server_url, "PPO_API_KEY": api_key}

    def run(*arguments: str) -> Result:
        return CliRunner(env=variables).invoke(ppo, arguments, prog_name="ppo")

    return run


@pytest.fixture
def groups(database: Database, tenant: str) -> list[list[str]]:
    """The jobs of `good` and `bad`, six seeds each."""
    interquartile_mean([1.0])  # Loads scipy.stats, for which the first request would wait.
    return [
        [deployment.trained(database, tenant, group=name, seed=seed, score=base + seed) for seed in range(6)]
        for name, base in (("good", 100.0), ("bad", 10.0))
    ]


def test_an_evaluation_is_asked_for_and_waited_for(client: Client, trained: JobHandle, database: Database) -> None:
    evaluation = trained.evaluate(n_episodes=4, seed=2**40, deterministic=False, max_episode_steps=9)
    assert evaluation.status is JobStatus.QUEUED
    assert evaluation.data.spec == {
        "job_id": trained.id,
        "checkpoint": "final",
        "n_episodes": 4,
        "seed": 2**40,
        "deterministic": False,
        "max_episode_steps": 9,
    }
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.evaluation(evaluation.id).wait, 60)
        deployment.play(database, evaluation.id, RETURNS)
        result = waiting.result().data.result
    assert result is not None
    assert (result.mean_reward, result.returns) == (3.0, RETURNS)
    assert [found.id for found in client.evaluations(job_id=trained.id, status="succeeded")] == [evaluation.id]
    assert list(client.evaluations(status=JobStatus.FAILED)) == []


def test_a_checkpoint_is_evaluated_and_the_evaluation_cancelled(client: Client, trained: JobHandle) -> None:
    evaluation = trained.checkpoint("final").evaluate(n_episodes=3)
    assert evaluation.data.checkpoint_id == trained.data.final_checkpoint_id
    assert evaluation.cancel().is_finished
    assert evaluation.status is JobStatus.CANCELLED


def test_what_cannot_be_evaluated_is_a_typed_error(client: Client, trained: JobHandle) -> None:
    with pytest.raises(InvalidRequest) as caught:
        trained.evaluate(n_episodes=0)
    assert [fault.pointer for fault in caught.value.errors] == ["/n_episodes"]
    with pytest.raises(Conflict, match="has no final checkpoint"):
        client.submit("CartPole-v1").evaluate()
    with pytest.raises(NotFound):
        client.evaluation("eval_" + "0" * 26)


def test_groups_are_compared_by_name_or_by_jobs(client: Client, groups: list[list[str]]) -> None:
    good, bad = groups
    by_name = client.compare("good", "bad")
    assert (by_name.winner, by_name.pairs[0].probability_of_improvement) == ("good", 1.0)
    assert by_name.groups[0].mean == 102.5
    by_jobs = client.compare(bad, good)
    assert (by_jobs.winner, [group.mean for group in by_jobs.groups]) == ("jobs 2", [12.5, 102.5])
    assert client.compare(good, "bad").winner == "jobs 1"
    with pytest.raises(NotFound, match="nobody"):
        client.compare("good", "nobody")


def test_the_command_plays_on_the_service_and_tells_the_result(
    command: Command, client: Client, trained: JobHandle, database: Database
) -> None:
    detached = command("evaluate", trained.id, "--episodes", "4", "--detach", "--json")
    assert detached.exit_code == 0, detached.output
    id = json.loads(detached.stdout)["id"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(command, "evaluate", "last", "--episodes", "4", "--seed", "5")
        deployment.play(database, id, [0.0] * 4)
        while (newest := next(client.evaluations()).id) == id:
            pass
        deployment.play(database, newest, RETURNS)
        ended = waiting.result()
    assert ended.exit_code == 0, ended.output
    words = "CartPole-v1: mean return 3 (2 to 4), interquartile mean 3 over 4 episodes\n"
    assert ended.stdout == words
    listed = command("evaluations", "--job", trained.id)
    assert listed.stdout.count("succeeded") == 2
    assert "4 / 4" in listed.stdout


def test_an_evaluation_that_did_not_succeed_ends_the_command_with_1(
    command: Command, client: Client, trained: JobHandle
) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(command, "evaluate", str(trained.data.final_checkpoint_id))
        while not (found := list(client.evaluations())):
            pass
        found[0].cancel()
        ended = waiting.result()
    assert (ended.exit_code, "cancelled before it ran" in ended.stdout) == (1, True)


def test_a_directory_plays_on_this_machine(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("ppo_client.cli.evaluation.play_here", given.append)
    assert command("evaluate", "policy", "--episodes", "5", "--seed", "2", "--stochastic", "--json").exit_code == 0
    (tmp_path / "last").mkdir()
    assert command("evaluate", "last", "--n-envs", "2").exit_code == 0
    assert given == [
        ["policy", "--episodes", "5", "--seed", "2", "--stochastic", "--json"],
        ["last", "--episodes", "100", "--seed", "0", "--n-envs", "2"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate"], "DIR|JOB|CHECKPOINT"),
        (["evaluate", "policy", "--detach"], "--detach is for a job or a checkpoint"),
        (["evaluate", "policy", "--checkpoint", "best"], "--checkpoint is for a job"),
        (["evaluate", "job_" + "0" * 26, "--n-envs", "3"], "--n-envs is for a policy on this machine"),
        (["evaluate", "ckpt_" + "0" * 26, "--checkpoint", "best"], "/checkpoint"),
        (["evaluate", "last", "--episodes", "0"], "--episodes"),
        (["compare", "one"], "two groups"),
        (["compare", "a", "b", "--score", "luck"], "--score"),
    ],
)
def test_wrong_usage_is_named(command: Command, arguments: list[str], words: str) -> None:
    ended = command(*arguments)
    assert ended.exit_code == 2
    assert words in ended.stderr


def test_a_comparison_is_told_in_words(command: Command, groups: list[list[str]]) -> None:
    ended = command("compare", "good", "bad")
    assert ended.exit_code == 0, ended.output
    assert "good > bad  100 % (100 % to 100 %)" in ended.stdout
    assert "winner  good" in ended.stdout
    assert json.loads(command("compare", "good", ",".join(groups[1]), "--json").stdout)["winner"] == "good"
    too_few = command("compare", ",".join(groups[0][:2]), "bad")
    assert "winner  none" in too_few.stdout
    assert "has 2 seeds" in too_few.stdout
