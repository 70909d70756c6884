"""Whatever the terminal's encoding and whatever a name holds, a command prints it and ends as it should."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from ppo_client.cli.output import printable
from ppo_client.cli.train import _per_seed
from ppo_client.specs import training_spec
from ppo_jobs.states import JobStatus
from tests.ppo_client.stub import MOMENT, Answer, Request, a_job, as_json, service


@pytest.mark.parametrize(
    ("encoding", "name", "command"),
    [
        ("latin-1", "plain", ["jobs"]),
        ("latin-1", "plain", ["show", "job_1"]),
        ("cp1252", "Περιπατητής", ["jobs"]),
        ("ascii", "日本 \U0001f600", ["show", "job_1"]),
    ],
)
def test_no_encoding_of_the_output_ends_a_command_in_a_traceback(encoding: str, name: str, command: list[str]) -> None:
    """The texts of the product itself have "–" and "…", which latin-1 has not."""
    job = a_job(status=JobStatus.RUNNING, started_at=MOMENT - timedelta(hours=1))
    shown = job.model_dump(mode="json") | {"name": name}
    page = {"object": "list", "data": [shown], "has_more": False, "first_id": job.id, "last_id": job.id}

    def reply(request: Request) -> Answer:
        if request.path.endswith(("/attempts", "/events")):
            return as_json({**page, "data": [], "first_id": None, "last_id": None})
        return as_json(page if request.path == "/v1/jobs" else shown)

    with service(reply) as stub:
        ran = subprocess.run(
            [sys.executable, "-m", "ppo_client", *command],
            env={**os.environ, "PYTHONIOENCODING": encoding, "PPO_API_URL": stub.url, "PPO_API_KEY": "k"},
            capture_output=True,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert job.id.encode() in ran.stdout


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("safe\u202egnp.exe", "safe\\u202egnp.exe"),
        ("a\u2066b\u2069c\u200fd", "a\\u2066b\\u2069c\\u200fd"),
        ("two\u2028lines", "two\\u2028lines"),
        ("bell\x07 \x9b31m", "bell� �31m"),
        ("Größe 日本 – …", "Größe 日本 – …"),
    ],
)
def test_what_cannot_be_seen_in_a_name_is_shown(name: str, shown: str) -> None:
    assert printable(name) == shown


@pytest.mark.parametrize("length", [1, 92, 93, 94, 99, 120, 194, 200])
def test_the_seeds_of_each_run_are_a_group_of_their_own_however_long_the_name_is(length: int) -> None:
    document: dict[str, object] = {"name": "n" * length, "env": {"id": "CartPole-v1"}}
    runs = [_per_seed(document, 11) for _ in range(2)]
    groups = [{spec["group"] for spec in run} for run in runs]
    assert len(groups[0]) == len(groups[1]) == 1 and groups[0] != groups[1]
    for run in runs:
        assert len({spec["name"] for spec in run}) == 11
        assert str(run[10]["name"]).endswith("seed-10")
        for spec in run:
            assert str(spec["name"]).startswith("n" * min(length, 190))
            training_spec(spec)


def test_a_group_that_was_named_is_kept() -> None:
    document: dict[str, object] = {"group": "g" * 100, "name": "n" * 200, "env": {"id": "CartPole-v1"}}
    assert {spec["group"] for spec in _per_seed(document, 2)} == {"g" * 100}
