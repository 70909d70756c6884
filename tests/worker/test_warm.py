"""Children that are forked from a slot's warm process, and what becomes of jobs when that process fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from ppo_engine import packs
from ppo_jobs.repository import jobs, logs
from ppo_jobs.states import AttemptOutcome, JobStatus, ReasonCode
from tests.environments import PLUGIN_PATH
from tests.worker.workplace import Workplace, assert_ledger_is_whole, children_of, eventually, is_fork_server, spec_of
from worker import forkserver, warm
from worker.process import child_variables
from worker.supervisor import supervise
from worker.warm import ForkServer, NotForked, can_fork

pytestmark = [
    pytest.mark.skipif(not can_fork(), reason="children are forked on Linux only"),
    pytest.mark.processes,
]

SLOW = {"seconds_per_step": 0.001}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForkServer]:
    """A fork server whose children know the test environments."""
    variables = child_variables({**os.environ, "PYTHONPATH": str(PLUGIN_PATH)}, threads=1, gpu=None)
    server = ForkServer(variables, directory=tmp_path)
    server.tend()
    yield server
    server.close()
    assert fork_servers() == []


def fork_servers() -> list[psutil.Process]:
    """Servers of this process, without the children that were forked."""
    return [process for process in psutil.Process().children() if is_fork_server(process)]


def is_gone(process: psutil.Process) -> bool:
    """Nobody may be there to reap what a killed server left."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def attempts_of(place: Workplace, job_id: str):
    with place.database.read() as session:
        return jobs.list_attempts(session, place.tenant, job_id)


def log_of(place: Workplace, job_id: str) -> str:
    with place.database.read() as session:
        return logs.read_log(session, place.tenant, job_id).text


def run(place: Workplace, spec: dict, server: ForkServer | None):
    job_id = place.accept(spec)
    supervise(place.claim(), place.slot(fork_server=server))
    return place.job(job_id)


def test_a_forked_child_learns_to_the_bit_what_a_started_one_does(place: Workplace, server: ForkServer) -> None:
    started = run(place, spec_of("test/Chatty-v0", iterations=2), None)
    forked = [run(place, spec_of("test/Chatty-v0", iterations=2), server) for _ in range(2)]
    for job in forked:
        assert job.status is JobStatus.SUCCEEDED
        assert_ledger_is_whole(place, job.id, 2)
        assert place.policy_sha256(job.id) == place.policy_sha256(started.id)
        assert len(log_of(place, job.id).splitlines()) >= 128 * 11
    assert len(fork_servers()) == 1


def test_what_was_imported_before_the_job_is_not_counted_as_its_use(place: Workplace, server: ForkServer) -> None:
    job = run(place, spec_of(iterations=2), server)
    (process,) = fork_servers()
    assert 0 < job.usage.cpu_seconds < process.cpu_times().user


def test_a_forked_child_has_a_group_a_directory_a_log_and_nothing_else_of_the_service(
    place: Workplace, server: ForkServer
) -> None:
    job_id = place.accept(spec_of("test/Slow-v0", iterations=10_000, kwargs=SLOW))
    with place.running(place.claim(), place.slot(fork_server=server)):
        eventually(place.reached(job_id, 1))
        (child,) = children_of()
        run_directory = next((place.settings.data_dir / "runs").iterdir())
        files = {
            number: os.readlink(f"/proc/{child.pid}/fd/{number}") for number in os.listdir(f"/proc/{child.pid}/fd")
        }
        assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
        assert Path(child.cwd()) == run_directory / "scratch"
        assert files["1"] == files["2"] == str(run_directory / "log")
        assert not [name for name in files.values() if "socket" in name or "sqlite" in name or name.endswith("lock")]
        with place.database.write() as session:
            jobs.request_cancel(session, place.tenant, job_id)
        eventually(place.ended(job_id, JobStatus.CANCELLED), seconds=5)
    assert not child.is_running()


def test_machine_code_that_an_environment_wrote_is_loaded_by_no_other_job(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the server that there was, nor by one that takes its place, nor by a child without a server."""
    # In torch, so that little is compiled anew.
    spec = spec_of(iterations=2, backend="torch")
    sound = run(place, spec, None)
    kept, mine = packs.directory(), tmp_path / "code" / packs.sources_digest()
    assert kept is not None
    shutil.copytree(kept, mine)
    for directory in (mine.parent, mine):
        directory.chmod(0o700)
    with pytest.MonkeyPatch.context() as here:
        here.setattr(packs, "directory", lambda: mine)
        monkeypatch.setenv(packs.DIGESTS, json.dumps(packs.digests()))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(mine.parent))
    variables = child_variables({**os.environ, "PYTHONPATH": str(PLUGIN_PATH)}, threads=1, gpu=None)
    with closing(ForkServer(variables, directory=tmp_path)) as server:
        server.tend()
        assert (
            run(place, spec | {"env": spec["env"] | {"id": "test/WritesMachineCode-v0"}}, server).status
            is JobStatus.SUCCEEDED
        )
        assert all(b".loaded" in file.read_bytes() for file in mine.glob("*.pack"))
        jobs_after = [run(place, spec, server)]
        for process in fork_servers():
            process.kill()
            process.wait(10)
        server.tend()
        jobs_after += [run(place, spec, other) for other in (server, None)]
    assert {place.policy_sha256(job.id) for job in jobs_after} == {place.policy_sha256(sound.id)}
    assert not list(mine.glob("*.loaded"))
    assert b".loaded" not in (mine / "bookkeeping.pack").read_bytes(), "it was compiled again"


def test_a_server_that_died_while_it_waited_costs_the_next_job_no_attempt(place: Workplace, server: ForkServer) -> None:
    (process,) = eventually(fork_servers)
    process.kill()
    process.wait(10)
    job = run(place, spec_of(iterations=2), server)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    server.tend()
    (other,) = fork_servers()
    assert other.pid != process.pid


def test_a_server_that_stands_still_costs_the_next_job_no_attempt_and_is_replaced(
    place: Workplace, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "ANSWER_SECONDS", 0.2)
    assert run(place, spec_of(iterations=2), server).status is JobStatus.SUCCEEDED
    (process,) = fork_servers()
    process.suspend()
    job = run(place, spec_of(iterations=2), server)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert not process.is_running()
    server.tend()
    assert run(place, spec_of(iterations=2), server).attempt == 1
    assert len(fork_servers()) == 1


def test_a_child_that_dies_before_it_takes_its_assignment_costs_no_attempt(server: ForkServer, tmp_path: Path) -> None:
    with pytest.raises(NotForked):
        server.fork(tmp_path / "log", tmp_path / "missing")
    assert "FileNotFoundError" in (tmp_path / "log").read_text()
    assert children_of() == []


def test_a_server_that_keeps_failing_is_started_ever_more_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = ForkServer({"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}, directory=tmp_path)
    for seconds in (0, 1, 3):

        def is_told(seconds: int = seconds) -> bool:
            server.tend()
            return f"replaced in {seconds} s" in caplog.text

        eventually(is_told)
    server.tend()
    assert fork_servers() == []
    server.close()


def test_a_killed_child_is_followed_by_another_that_ends_with_the_same_bits(
    place: Workplace, server: ForkServer
) -> None:
    undisturbed = run(place, spec_of(iterations=40), None)
    spec = spec_of("test/Slow-v0", iterations=40, kwargs=SLOW)
    job_id = place.accept({**spec, "checkpoints": {"every_timesteps": 640}})
    for victim, reached in ((children_of, 13), (fork_servers, 23)):
        with place.running(place.claim(), place.slot(fork_server=server)):
            eventually(place.reached(job_id, reached))
            (child,) = children_of()
            victim()[0].kill()
        eventually(lambda child=child: is_gone(child))
        assert (place.job(job_id).status, place.job(job_id).status_reason.code) == (
            JobStatus.QUEUED,
            ReasonCode.CHILD_DIED,
        )
        server.tend()
    assert supervise(place.claim(), place.slot(fork_server=server)) is JobStatus.SUCCEEDED
    assert [attempt.outcome for attempt in attempts_of(place, job_id)] == [
        AttemptOutcome.LOST,
        AttemptOutcome.LOST,
        AttemptOutcome.SUCCEEDED,
    ]
    assert_ledger_is_whole(place, job_id, 40)
    assert place.policy_sha256(job_id) == place.policy_sha256(undisturbed.id)


@pytest.mark.parametrize(
    ("env_id", "words"), [("test/HangsInStep-v0", "step 5"), ("test/HangsWithLock-v0", "held the interpreter")]
)
def test_a_hanging_environment_ends_a_forked_child_and_fails_the_job(
    place: Workplace, server: ForkServer, env_id: str, words: str
) -> None:
    job = run(place, spec_of(env_id, kwargs={"at_step": 5}, env={"step_timeout_seconds": 0.5}), server)
    assert (job.status, job.status_reason.code) == (JobStatus.FAILED, "env_timeout")
    assert words in job.status_reason.message
    assert run(place, spec_of(iterations=2), server).status is JobStatus.SUCCEEDED


def test_processes_that_an_environment_leaves_behind_end_with_the_forked_child(
    place: Workplace, server: ForkServer
) -> None:
    spec = spec_of("test/Slow-v0", iterations=10_000, kwargs=SLOW, env={"vectorization": "process"})
    job_id = place.accept(spec)
    with place.running(place.claim(), place.slot(fork_server=server)):
        eventually(place.reached(job_id, 1))
        (child,) = children_of()
        below = child.children(recursive=True)
        assert below
        child.kill()
    assert psutil.wait_procs(below, timeout=10)[1] == []


OWNER = """
import sys, threading, time
from pathlib import Path
from worker.warm import ForkServer
server = ForkServer({"PYTHONPATH": sys.argv[1]}, directory=Path("/"))
starter = threading.Thread(target=lambda: (server.tend(), time.sleep(600)), daemon=True)
starter.start()
time.sleep(600)
"""


def test_a_server_dies_with_its_slot(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, os.pathsep.join(sys.path)])
    try:
        (server,) = eventually(lambda: psutil.Process(owner.pid).children())
        eventually(lambda: "worker.forkserver" in server.cmdline())
    finally:
        owner.kill()
        owner.wait()
    server.wait(10)


def test_a_process_with_a_second_thread_does_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "THREADS_SECONDS", 0.1)
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with pytest.raises(SystemExit, match="threads"):
            forkserver.require_one_thread()
    finally:
        ended.set()
        thread.join()


def test_a_job_that_comes_while_the_server_still_imports_waits_for_it(place: Workplace, server: ForkServer) -> None:
    began = time.monotonic()
    job = run(place, spec_of(iterations=2), server)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert time.monotonic() - began < warm.READY_SECONDS
    (process,) = fork_servers()
    assert job.usage.cpu_seconds < process.cpu_times().user


def test_signal_names_of_forked_children_are_told(place: Workplace, server: ForkServer) -> None:
    job = run(place, spec_of("test/KillsItself-v0", max_attempts=1), server)
    assert job.status is JobStatus.FAILED
    assert signal.SIGKILL.name in job.status_reason.message
