"""`ppo` as a process of its own: signals, terminals, pipes, and the commands that other parts carry out."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from ppo_client import Client
from ppo_client.cli.display import fitting_widths
from ppo_jobs.database import Database
from ppo_jobs.states import JobStatus
from tests.api import deployment

PPO = [sys.executable, "-m", "ppo_client"]


@pytest.fixture
def environment(server_url: str, api_key: str) -> dict[str, str]:
    return {**os.environ, "PPO_API_URL": server_url, "PPO_API_KEY": api_key, "PYTHONUNBUFFERED": "1"}


@contextmanager
def started(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*PPO, *arguments], env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_output_that_finds_no_room_is_one_sentence(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*PPO, "workers"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (9, "The output: No space left on device.\n")


def test_ctrl_c_detaches_and_the_job_goes_on(client: Client, database: Database, environment: dict[str, str]) -> None:
    job = client.submit("CartPole-v1")
    deployment.start(database)
    deployment.append(database, job.id, range(1, 4))
    with started(["watch", job.id, "--json"], environment) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"Detached; {job.id} goes on." in errors
    assert f"ppo cancel {job.id}" in errors
    assert "Traceback" not in errors
    assert job.refresh().status == JobStatus.RUNNING
    assert not job.data.cancel_requested


def test_watch_ends_with_the_jobs_own_result(client: Client, database: Database, environment: dict[str, str]) -> None:
    job = client.submit("CartPole-v1")
    deployment.start(database)
    with started(["watch", job.id], environment) as process:
        deployment.append(database, job.id, range(1, 4))
        deployment.finish(database, job.id, JobStatus.FAILED)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (1, "")
    assert output.splitlines()[-1] == f"Next: ppo logs {job.id}"


def on_terminal(arguments: list[str], environment: dict[str, str], *, width: int) -> tuple[str, int]:
    """What a command writes to a terminal of this width, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    terminal = {**environment, "TERM": "xterm-256color"}
    # A size that is set wins over the terminal's own, and test runners set one.
    terminal.pop("COLUMNS", None)
    with subprocess.Popen([*PPO, *arguments], env=terminal, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux reports the closed other side of a terminal as EIO.
                break
            if not chunk:
                break
            written += chunk
        os.close(ours)
        return written.decode(), process.wait(timeout=20)


@pytest.mark.parametrize("width", [30, 80, 140])
def test_no_line_of_a_table_is_wider_than_its_terminal(client: Client, environment: dict[str, str], width: int) -> None:
    job = client.submit("CartPole-v1", name="a rather long name for a job that says nothing")
    output, code = on_terminal(["jobs"], {**environment, "NO_COLOR": "1"}, width=width)
    lines = output.replace("\r", "").splitlines()
    assert code == 0
    assert "\x1b[3" not in output
    assert lines[1].startswith(job.id)
    # The id and the status are never left out or cut, since they are what other commands and readers need.
    shortest = len(f"{job.id}  queued  CartPole-v1  0 %")
    assert max(map(len, lines)) <= max(width, shortest)


def test_a_terminal_sees_a_bar_that_grows_and_at_last_the_result(
    client: Client, database: Database, environment: dict[str, str]
) -> None:
    job = client.submit("CartPole-v1", ppo={"total_timesteps": 100})
    deployment.start(database)

    def work() -> None:
        for iteration in range(1, 11):
            deployment.append(database, job.id, [iteration])
            time.sleep(0.3)
        deployment.finish(database, job.id)

    worker = Thread(target=work)
    worker.start()
    output, code = on_terminal(["watch", job.id], environment, width=100)
    worker.join()
    assert code == 0
    assert "━" in output
    assert "100 / 100" in output
    assert f"{job.id} succeeded after 100 timesteps" in output
    later, code = on_terminal(["watch", job.id], environment, width=100)
    assert code == 0
    assert output.endswith(later)


def test_bars_keep_what_matters_most_as_the_terminal_shrinks() -> None:
    """10 of the label, 5 of the percentage, 8 of the bar and their 3 spaces are 26 columns; then 13, 10, 18, 14."""
    row = {
        "label": "L" * 10,
        "percent": "100 %",
        "steps": "S" * 17,
        "return": "R" * 12,
        "speed": "V" * 13,
        "left": "E" * 9,
        "state": "",
    }

    def shown(width: int) -> list[str]:
        return [name for name in fitting_widths([row], width) if name not in ("label", "percent")]

    assert shown(30) == []
    assert shown(27 + 13) == ["return"]
    assert shown(27 + 13 + 10) == ["return", "left"]
    assert shown(27 + 13 + 10 + 18) == ["steps", "return", "left"]
    assert shown(27 + 13 + 10 + 18 + 14) == ["steps", "return", "speed", "left"]


def test_a_reader_that_closes_the_pipe_is_no_error_worth_a_traceback(
    client: Client, environment: dict[str, str]
) -> None:
    client.submit("CartPole-v1")
    command = f"{sys.executable} -m ppo_client jobs --json | head -n 1"
    run = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("{\n", "")


def test_without_a_service_it_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PPO_API_URL": "http://127.0.0.1:9", "PPO_DATA_DIR": str(tmp_path)}
    run = subprocess.run([*PPO, "jobs", "--json"], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (3, "")
    assert "start one with `ppo up`" in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "missing", "named"),
    [
        (["up", "--port", "0"], "torch", "pip install 'ppo-service[server,worker]'"),
        (["api"], "fastapi", "pip install 'ppo-service[server,worker]'"),
        (["migrate", "--help"], "sqlalchemy", "pip install 'ppo-service[server,worker]'"),
        (["evaluate", "policy"], "gymnasium", "pip install 'ppo-service[worker]'"),
    ],
)
def test_a_part_that_is_not_installed_is_named_with_its_extra(arguments: list[str], missing: str, named: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from ppo_client.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (8, "")
    assert run.stderr == f"`ppo {arguments[0]}` needs more than the client: {named}.\n"


def test_server_commands_are_the_servers_own_whatever_lies_in_the_working_directory(tmp_path: Path) -> None:
    """A folder of the user's that bears the name of one of our packages is not imported."""
    for name in ("ppo_server", "ppo_jobs", "api", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    program = Path(sys.executable).parent / "ppo"
    run = subprocess.run([program, "up", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "--data-dir" in run.stdout


def test_json_is_ascii_so_that_every_terminal_can_carry_it(client: Client, environment: dict[str, str]) -> None:
    client.submit("CartPole-v1", name="naïve ☃")
    plain = {**environment, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*PPO, "jobs", "--json"], env=plain, capture_output=True, check=True)
    assert json.loads(run.stdout)["data"][0]["name"] == "naïve ☃"
