import json
import subprocess
import sys

import pytest

from ppo_client import Client, InvalidRequest, NotFound, WaitTimedOut
from ppo_engine.spec import EnvSpec, PPOSpec, TrainingSpec
from ppo_jobs.schemas import Job, JobPatch, LogChunk, Page
from ppo_jobs.states import JobStatus
from tests.ppo_client.stub import (
    DROPPED,
    IMPATIENT,
    Answer,
    Request,
    a_job,
    as_json,
    in_turn,
    job_answer,
    service,
)


def page(jobs: list[Job], *, has_more: bool) -> Answer:
    document = Page[Job](data=jobs, has_more=has_more, first_id=jobs[0].id, last_id=jobs[-1].id)
    return as_json(document.model_dump(mode="json"))


def test_a_job_is_submitted_as_exactly_what_was_set() -> None:
    with service(in_turn(job_answer(a_job(), 201))) as stub, Client(stub.url) as client:
        client.submit("CartPole-v1")
        client.submit("CartPole-v1", seed=3, ppo={"gamma": 0.9}, env={"n_envs": 4})
        client.submit({"env": {"id": "A"}, "ppo": {"n_steps": 8}}, ppo={"gamma": 0.9})
        client.submit(TrainingSpec(env=EnvSpec(id="B"), ppo=PPOSpec(gamma=0.5)), name="b")
    assert [json.loads(request.body) for request in stub.requests] == [
        {"env": {"id": "CartPole-v1"}},
        {"env": {"id": "CartPole-v1", "n_envs": 4}, "seed": 3, "ppo": {"gamma": 0.9}},
        {"env": {"id": "A"}, "ppo": {"n_steps": 8, "gamma": 0.9}},
        {"env": {"id": "B"}, "ppo": {"gamma": 0.5}, "name": "b"},
    ]


def test_a_spec_that_is_not_valid_is_never_sent() -> None:
    with service(in_turn(DROPPED)) as stub, Client(stub.url) as client, pytest.raises(InvalidRequest) as caught:
        client.submit("CartPole-v1", ppo={"gamma": 2.0})
    assert [fault.pointer for fault in caught.value.errors] == ["/ppo/gamma"]
    assert stub.requests == []


def test_a_list_is_read_page_by_page_and_no_further_than_needed() -> None:
    def reply(request: Request) -> Answer:
        start = int(request.query.get("after", "job_0").removeprefix("job_"))
        jobs = [a_job(f"job_{number}") for number in range(start + 1, start + 3)]
        return page(jobs, has_more=start < 4)

    with service(reply) as stub, Client(stub.url) as client:
        assert [job.id for job in client.jobs(status="running", page_size=2)] == [f"job_{n}" for n in range(1, 7)]
        assert [request.query.get("after") for request in stub.requests] == [None, "job_2", "job_4"]
        assert {request.query["status"] for request in stub.requests} == {"running"}
        del stub.requests[:]
        next(client.jobs(page_size=2))
        assert len(stub.requests) == 1


def test_waiting_polls_behind_the_last_event_and_outlives_an_outage() -> None:
    answers = in_turn(
        job_answer(a_job(last_seq=5)),
        DROPPED,
        job_answer(a_job(last_seq=9)),
        job_answer(a_job(last_seq=12, status=JobStatus.SUCCEEDED)),
    )
    with service(answers) as stub, Client(stub.url, retry=IMPATIENT) as client:
        job = client.job("job_1").wait(timeout_seconds=20)
        assert job.status == JobStatus.SUCCEEDED
    assert [request.query.get("after") for request in stub.requests] == [None, "5", "5", "9"]
    assert all(0 < float(request.query["wait"]) <= 20 for request in stub.requests[1:])


def test_waiting_ends_when_the_time_is_up_even_if_the_service_answers_at_once() -> None:
    with service(in_turn(job_answer(a_job()))) as stub, Client(stub.url) as client:
        job = client.job("job_1")
        with pytest.raises(WaitTimedOut, match=r"job_1 is still running after 0\.6 s"):
            job.wait(timeout_seconds=0.6)
    assert len(stub.requests) <= 5


def test_a_wait_that_times_out_is_a_timeout_error() -> None:
    assert issubclass(WaitTimedOut, TimeoutError)


def test_a_job_that_has_ended_is_not_waited_for() -> None:
    with service(in_turn(job_answer(a_job(status=JobStatus.FAILED)))) as stub, Client(stub.url) as client:
        client.job("job_1").wait()
    assert len(stub.requests) == 1


def test_a_checkpoint_that_is_not_there_yet_is_named() -> None:
    with service(in_turn(job_answer(a_job()))) as stub, Client(stub.url) as client:
        job = client.job("job_1")
        with pytest.raises(NotFound, match="job_1 has no final checkpoint yet"):
            job.checkpoint("final")


def test_only_what_a_patch_sets_is_changed() -> None:
    with service(in_turn(job_answer(a_job()))) as stub, Client(stub.url) as client:
        job = client.job("job_1")
        job.update(JobPatch(name="new"))
        job.update(JobPatch(name=None))
    assert [(request.method, request.body) for request in stub.requests[1:]] == [
        ("PATCH", b'{"name":"new"}'),
        ("PATCH", b'{"name":null}'),
    ]


def test_a_retry_says_where_to_go_on_from() -> None:
    with service(in_turn(job_answer(a_job("job_2")))) as stub, Client(stub.url) as client:
        assert client.job("job_1").retry(checkpoint_id="ckpt_1").id == "job_2"
        assert json.loads(stub.requests[-1].body) == {"checkpoint_id": "ckpt_1", "from_start": False}


def test_logs_are_those_of_the_attempt_that_is_asked_for() -> None:
    chunk = LogChunk(job_id="job_1", attempt=2, text="hello\n", truncated=False)
    answers = in_turn(job_answer(a_job()), as_json(chunk.model_dump(mode="json")))
    with service(answers) as stub, Client(stub.url) as client:
        assert client.job("job_1").logs(attempt=2) == chunk
    assert stub.requests[-1].query == {"attempt": "2"}


def test_a_newer_service_may_say_more_than_this_client_knows() -> None:
    document = {**a_job().model_dump(mode="json"), "surprise": {"new": True}}
    with service(in_turn(as_json(document))) as stub, Client(stub.url) as client:
        assert client.job("job_1").id == "job_1"


@pytest.mark.parametrize(
    "statement",
    [
        "import ppo_client; ppo_client.Client",
        "from ppo_client import *",
        "import ppo_client.cli.train, ppo_client.cli.watch",
    ],
)
def test_the_client_never_loads_what_only_services_and_workers_need(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert loaded.isdisjoint(
        {"torch", "numpy", "gymnasium", "fastapi", "starlette", "sqlalchemy", "celery", "api", "worker"}
    )
    assert loaded >= {"ppo_client"}


def test_help_appears_without_loading_what_it_does_not_need() -> None:
    code = """
import sys
from ppo_client.cli.root import ppo
try:
    ppo(["--help"], prog_name="ppo")
finally:
    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exit codes" in run.stdout
    assert set(run.stderr.split()).isdisjoint({"httpx2", "pydantic", "rich", "torch", "fastapi", "sqlalchemy"})
