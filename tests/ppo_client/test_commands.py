"""What the commands print, where, and how they end; against a stub, whose answers are worked by hand."""

import csv
import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppo_client.cli.root import ppo
from ppo_client.cli.watch import result_in_words
from ppo_jobs.schemas import Attempt, Environment, Job, LogChunk, MetricsTable, Page, StatusReason
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus
from tests.ppo_client.stub import (
    MOMENT,
    Answer,
    Request,
    a_job,
    an_event,
    as_events,
    as_json,
    events_page,
    in_turn,
    job_answer,
    ledger,
    problem,
    service,
)

LEDGER = ledger(6)
ENDED = a_job(
    status=JobStatus.SUCCEEDED,
    last_seq=6,
    finished_at=MOMENT + timedelta(seconds=67),
    progress=a_job().progress.model_copy(update={"timesteps": 1000, "fraction": 1.0}),
)
RAISED = StatusReason(
    code="env_error",
    message="CartPole-v1 raised in step 7\nTraceback (most recent call last):\n  boom",
    at=MOMENT,
    retryable=False,
)
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `ppo` against a stub that answers with `reply`."""
    monkeypatch.setenv("PPO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, reply: Callable[[Request], Answer] | None = None, stdin: str | None = None) -> Result:
        with service(reply or in_turn(job_answer(a_job()))) as stub:
            return CliRunner(env={"PPO_API_URL": stub.url}).invoke(ppo, arguments, input=stdin, prog_name="ppo")

    return run


def jobs_page(*jobs: Job) -> Answer:
    page = Page[Job](data=list(jobs), has_more=False, first_id=None, last_id=None)
    return as_json(page.model_dump(mode="json"))


def one_job(job: Job, events: Answer | None = None) -> Callable[[Request], Answer]:
    """A service with one job, whatever is asked of it."""

    def reply(request: Request) -> Answer:
        if request.path.endswith("/stream"):
            return events or as_events(LEDGER, is_ended=True)
        if request.path.endswith("/attempts"):
            return as_json(Page[Attempt](data=[], has_more=False, first_id=None, last_id=None).model_dump(mode="json"))
        if request.path == "/v1/jobs" and request.method == "GET":
            return jobs_page(job)
        return job_answer(job, 201 if request.method == "POST" else 200)

    return reply


def test_jobs_are_a_table_with_one_line_each(command: Command) -> None:
    queued = a_job("job_2", status=JobStatus.QUEUED, name="a name", latest_metrics={})
    lines = command("jobs", reply=in_turn(jobs_page(queued, a_job("job_1")))).stdout.splitlines()
    titles = ["JOB", "STATUS", "ENVIRONMENT", "NAME", "DONE", "TIMESTEPS", "RETURN", "LEFT", "CREATED"]
    assert lines[0].split() == titles
    assert lines[1].split()[:6] == ["job_2", "queued", "CartPole-v1", "a", "name", "40"]
    assert lines[2].split() == ["job_1", "running", "CartPole-v1", "40", "%", "400", "187.2", "0:06", "2026-01-02"]
    assert len(lines) == 3


def test_filters_are_the_services_own(command: Command) -> None:
    seen: list[dict[str, str]] = []

    def reply(request: Request) -> Answer:
        seen.append(request.query)
        return jobs_page()

    result = command("jobs", "--status", "running", "--group", "g", "--env", "E", "--name", "n", reply=reply)
    assert seen == [{"status": "running", "group": "g", "env_id": "E", "name": "n", "limit": "21"}]
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No job fits these filters.\n")


def test_an_empty_service_says_what_to_do_first(command: Command) -> None:
    result = command("jobs", reply=in_turn(jobs_page()))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "ppo train CartPole-v1" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("jobs",), ("show", "job_1"), ("train", "CartPole-v1", "--detach"), ("cancel", "job_1"), ("retry", "job_1")],
)
def test_json_is_one_document_and_all_of_stdout(command: Command, arguments: tuple[str, ...]) -> None:
    result = command(*arguments, "--json", reply=one_job(a_job()))
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    job = document["data"][0] if document["object"] == "list" else document
    assert Job.model_validate(job) == a_job()
    assert result.stderr == ""


def test_train_waits_and_then_prints_one_document(command: Command) -> None:
    submitted = a_job(status=JobStatus.QUEUED, last_seq=1)

    def reply(request: Request) -> Answer:
        return job_answer(submitted, 201) if request.method == "POST" else one_job(ENDED)(request)

    result = command("train", "CartPole-v1", "--json", reply=reply)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["status"] == "succeeded"


def test_watch_with_json_is_the_ledger_and_then_the_job(command: Command) -> None:
    result = command("watch", "job_1", "--json", reply=one_job(ENDED))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("seq") for line in lines] == [1, 2, 3, 4, 5, 6, None]
    assert {line["job_id"] for line in lines[:-1]} == {"job_1"}
    assert (lines[-1]["object"], lines[-1]["status"]) == ("job", "succeeded")
    assert result.exit_code == 0


def test_watch_without_a_terminal_is_lines(command: Command) -> None:
    running = [job_answer(a_job(last_seq=1))]

    def reply(request: Request) -> Answer:
        return running.pop() if running else one_job(ENDED, as_events(LEDGER[1:], is_ended=True))(request)

    result = command("watch", "job_1", reply=reply)
    assert [line.partition("  ")[2] for line in result.stdout.splitlines()[:-2]] == ["running", "succeeded"]
    assert result.stdout.splitlines()[-2:] == [
        "job_1 succeeded after 1,000 timesteps in 1:07, return 187.2.",
        "The policy: ppo download job_1",
    ]
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_did_not_succeed_ends_watch_with_1_and_its_reason(command: Command, status: JobStatus) -> None:
    result = command("watch", "job_1", reply=one_job(a_job(status=status, status_reason=RAISED)))
    assert result.exit_code == 1
    assert f"job_1 {status.value} after 400 timesteps: CartPole-v1 raised in step 7.\nNext: " in result.stdout


@pytest.mark.parametrize(
    ("answer", "exit_code", "sentence"),
    [
        (problem(401, "unauthorised", "the API key is not known"), 4, "The API key is not known; set PPO_API_KEY"),
        (problem(404, "job_not_found", "no job job_1"), 5, "No job job_1."),
        (problem(409, "invalid_transition", "job_1 is succeeded"), 6, "job_1 is succeeded."),
        (problem(500, "internal", "it broke"), 9, "It broke (request req_1)."),
        (problem(503, "busy", "it is busy", Retry_After="999"), 3, "It is busy (request req_1)."),
        (Answer(200, b"<html>"), 9, "does not answer like the service"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    command: Command, answer: Answer, exit_code: int, sentence: str
) -> None:
    for arguments in (("show", "job_1"), ("show", "job_1", "--json")):
        result = command(*arguments, reply=in_turn(answer))
        assert (result.exit_code, result.stdout) == (exit_code, "")
        assert sentence in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_each_fault_of_a_refused_spec_has_its_own_line(command: Command) -> None:
    faults = [
        {"pointer": "/env/id", "message": "CartPole-v9 is unknown"},
        {"pointer": "/ppo/n_steps", "message": "too \x1b[31mlarge"},
    ]
    refusal = problem(422, "invalid_spec", "/env/id: … (and 1 more)", errors=faults)
    result = command("train", "CartPole-v9", reply=in_turn(refusal))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "The request is not valid:",
        "  /env/id: CartPole-v9 is unknown",
        "  /ppo/n_steps: too �[31mlarge",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("train", "CartPole-v1", "--seeds", "0"),
        ("train", "CartPole-v1", "--detach", "--download", "d"),
        ("train", "CartPole-v1", "--set", "ppo.gama=1"),
        ("train", "--spec", "missing.json"),
        ("jobs", "--status", "sleeping"),
        ("metrics", "job_1", "--csv", "--json"),
        ("cancel",),
        ("cancel", "job_1", "--group", "g"),
        ("retry", "job_1", "--from-start", "--checkpoint", "ckpt_1"),
        ("tarin", "CartPole-v1"),
        ("--url", "nonsense", "jobs"),
    ],
)
def test_wrong_usage_is_2_and_asks_nothing_of_the_service(command: Command, arguments: tuple[str, ...]) -> None:
    asked: list[Request] = []

    def reply(request: Request) -> Answer:
        asked.append(request)
        return problem(500, "internal", "not asked for")

    result = command(*arguments, reply=reply)
    assert (result.exit_code, result.stdout, asked) == (2, "", [])
    assert result.stderr


def test_a_command_that_is_misspelt_is_guessed(command: Command) -> None:
    assert "Did you mean 'train'?" in command("tarin").stderr


def test_a_spec_comes_from_file_options_and_settings_in_this_order(command: Command, tmp_path: Path) -> None:
    sent: list[dict[str, object]] = []

    def reply(request: Request) -> Answer:
        sent.append(json.loads(request.body))
        return job_answer(a_job(), 201)

    spec = {"env": {"id": "A", "n_envs": 2}, "ppo": {"gamma": 0.5, "total_timesteps": 5}, "seed": 1, "name": "file"}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    options = ("--seed", "2", "--timesteps", "9", "--set", "ppo.gamma=0.7", "--set", "seed=3")
    assert command("train", "B", "--spec", "spec.json", *options, "--detach", reply=reply).exit_code == 0
    assert command("train", "--spec", "-", "--detach", reply=reply, stdin='{"env": {"id": "C"}}').exit_code == 0
    assert sent == [
        {"env": {"id": "B", "n_envs": 2}, "ppo": {"gamma": 0.7, "total_timesteps": 9}, "seed": 3, "name": "file"},
        {"env": {"id": "C"}},
    ]


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"env": {"id": "A"}, "x": 1}'])
def test_a_spec_file_that_is_none_is_wrong_usage(command: Command, content: str) -> None:
    assert command("train", "--spec", "-", stdin=content).exit_code == 2


def test_seeds_are_jobs_of_one_group_and_end_in_a_summary(command: Command) -> None:
    """Returns 10, 20 and 30: mean 20, standard deviation 10."""
    sent: dict[str, dict[str, object]] = {}

    def reply(request: Request) -> Answer:
        if request.method == "POST":
            body = json.loads(request.body)
            job_id = f"job_{len(sent) + 1}"
            sent[job_id] = body
            return job_answer(a_job(job_id, status=JobStatus.QUEUED, last_seq=1, group=body["group"]), 201)
        if request.path.endswith("/stream"):
            return as_events(LEDGER[1:], is_ended=True)
        job_id = request.path.rpartition("/")[2]
        metrics = {"rollout/ep_rew_mean": 10.0 * int(job_id[-1])}
        changes = {"id": job_id, "latest_metrics": metrics, "resolved_spec": {"seed": sent[job_id]["seed"]}}
        return job_answer(ENDED.model_copy(update=changes))

    result = command("train", "CartPole-v1", "--seeds", "3", "--seed", "5", "--name", "try", reply=reply)
    assert result.exit_code == 0
    assert [body["seed"] for body in sent.values()] == [5, 6, 7]
    assert [body["name"] for body in sent.values()] == ["try-seed-5", "try-seed-6", "try-seed-7"]
    assert len({body["group"] for body in sent.values()}) == 1
    lines = result.stdout.splitlines()
    assert lines[-4].split() == ["5", "job_1", "succeeded", "1,000", "10", "1:07"]
    assert lines[-1] == "Return 20 ± 10 (standard deviation) over 3 of 3 seeds."


def test_jobs_that_were_submitted_before_a_refusal_are_named(command: Command) -> None:
    answers = in_turn(job_answer(a_job("job_1"), 201), problem(403, "quota", "the quota is used up"))
    result = command("train", "CartPole-v1", "--seeds", "3", reply=answers)
    assert result.exit_code == 4
    assert "1 of 3 jobs were submitted, and go on: job_1" in result.stderr


TABLE = MetricsTable(
    job_id="job_1",
    columns={
        "iteration": [1, 2],
        "timesteps": [100, 200],
        "rollout/ep_rew_mean": [None, 21.123456789],
        "train/approx_kl": [0.001234567, 0.1],
    },
    last_seq=4,
)


def metrics_service(request: Request) -> Answer:
    is_metrics = request.path.endswith("/metrics")
    return as_json(TABLE.model_dump(mode="json")) if is_metrics else job_answer(a_job())


def test_metrics_are_a_table_of_few_digits(command: Command) -> None:
    lines = command("metrics", "job_1", reply=metrics_service).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["iteration", "timesteps", "ep_rew_mean", "approx_kl"],
        ["1", "100", "–", "0.001235"],
        ["2", "200", "21.12", "0.1"],
    ]


def test_csv_holds_every_digit_and_nothing_for_no_value(command: Command) -> None:
    rows = list(csv.reader(io.StringIO(command("metrics", "job_1", "--csv", reply=metrics_service).stdout)))
    assert rows == [
        ["iteration", "timesteps", "rollout/ep_rew_mean", "train/approx_kl"],
        ["1", "100", "", "0.001234567"],
        ["2", "200", "21.123456789", "0.1"],
    ]


def test_logs_are_printed_as_they_are_when_nobody_looks(command: Command) -> None:
    chunk = LogChunk(job_id="job_1", attempt=1, text="a\tb\n\x1b[31mred\n", truncated=True)
    answers = in_turn(job_answer(a_job()), as_json(chunk.model_dump(mode="json")))
    result = command("logs", "job_1", reply=answers)
    assert result.stdout == chunk.text
    assert "too long" in result.stderr


def test_last_is_the_newest_job(command: Command) -> None:
    result = command("show", "last", "--json", reply=one_job(a_job("job_9")))
    assert json.loads(result.stdout)["id"] == "job_9"


def test_show_tells_a_job_in_full(command: Command) -> None:
    attempt = Attempt(
        number=1,
        worker_id="w1",
        started_at=MOMENT,
        finished_at=None,
        outcome=AttemptOutcome.LOST,
        reason=RAISED,
        resumed_from_checkpoint_id=None,
        runtime={},
    )
    job = a_job(
        status=JobStatus.QUEUED,
        queue=a_job().queue.model_copy(update={"position": 2, "reason": "no free slot"}),
        metadata={"team": "a"},
        status_reason=RAISED,
    )
    finding = {"code": "kl_high", "message": "the KL is high", "spec_patch": {"ppo": {"target_kl": 0.03}}}
    diagnosis = an_event(5, EventType.DIAGNOSIS, {"iteration": 4, "timesteps": 400, "findings": [finding]})

    def reply(request: Request) -> Answer:
        if request.path.endswith("/attempts"):
            page = Page[Attempt](data=[attempt], has_more=False, first_id="1", last_id="1")
            return as_json(page.model_dump(mode="json"))
        if request.path.endswith("/events"):
            assert request.query["type"] == "diagnosis"
            return events_page(diagnosis)
        return job_answer(job)

    facts = dict(line.split(maxsplit=1) for line in command("show", "job_1", reply=reply).stdout.splitlines())
    assert facts["queue"] == "position 2; no free slot"
    assert facts["progress"].startswith("40 %, 400 of 1,000 timesteps, iteration 4")
    assert facts["attempts"] == "1. lost on w1: CartPole-v1 raised in step 7"
    assert facts["reason"] == "CartPole-v1 raised in step 7 (env_error)"
    assert "boom" not in facts
    assert facts["diagnosis"] == "iteration 4: the KL is high. Try --set 'ppo.target_kl=0.03'"
    assert facts["metadata"] == "team = a"
    assert facts["seed"] == "7"
    assert facts["next"] == "ppo watch job_1"


def test_a_group_is_cancelled_as_far_as_it_is_open(command: Command) -> None:
    cancelled: list[str] = []

    def reply(request: Request) -> Answer:
        if request.method == "POST":
            cancelled.append(request.path)
            return job_answer(a_job(cancel_requested=True), 202)
        return jobs_page(a_job("job_2"), a_job("job_1", status=JobStatus.SUCCEEDED))

    result = command("cancel", "--group", "g", reply=reply)
    assert cancelled == ["/v1/jobs/job_2/cancel"]
    assert result.stdout == "job_1 will stop after its present iteration.\n"


def catalogue_page(*environments: Environment) -> Answer:
    page = Page[Environment](data=list(environments), has_more=False, first_id=None, last_id=None)
    return as_json(page.model_dump(mode="json"))


PENDULUM = Environment(
    id="Pendulum-v1",
    origin="gymnasium 1.4.0",
    supported=True,
    observation_space={"type": "Box", "shape": [3]},
    action_space={"type": "Box", "shape": [1]},
    observation_size=3,
    action_size=1,
    max_episode_steps=200,
    kwargs_schema={"type": "object", "properties": {"g": {"type": "number", "default": 10.0}}},
    preset=True,
)


def test_an_environments_id_shows_all_that_is_known_of_it_and_a_part_of_it_lists(command: Command) -> None:
    catalogue = catalogue_page(PENDULUM, PENDULUM.model_copy(update={"id": "Pendulum-v10"}))
    sheet = command("environments", "Pendulum-v1", reply=in_turn(catalogue))
    assert sheet.exit_code == 0, sheet.output
    assert "arguments    g: number, by default 10.0" in sheet.stdout.splitlines()
    assert sheet.stdout.count("Pendulum-v1") == 1
    table = command("environments", "pendulum-v1", reply=in_turn(catalogue))
    assert table.stdout.count("Pendulum-v1") == 2
    told = json.loads(command("environments", "Pendulum-v1", "--json", reply=in_turn(catalogue)).stdout)
    assert told["id"] == "Pendulum-v1" and told["resume"] == "exact"


@pytest.mark.parametrize(("best", "is_told"), [(None, False), ("ckpt_2", False), ("ckpt_1", True)])
def test_a_policy_that_was_better_than_the_last_one_is_told_at_the_end(best: str | None, is_told: bool) -> None:
    job = a_job(status=JobStatus.SUCCEEDED, best_checkpoint_id=best, final_checkpoint_id="ckpt_2")
    assert ("ppo download job_1 --checkpoint best" in result_in_words(job)) is is_told
