"""What an environment started is gone when its job is, in whatever way it left its family, and whoever was killed."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from ppo_jobs import kernel
from ppo_jobs.repository import logs
from ppo_jobs.states import JobStatus
from tests.worker.workplace import Workplace, eventually, is_fork_server, spec_of
from worker import warm
from worker.process import child_variables
from worker.supervisor import supervise
from worker.warm import ForkServer, can_fork

pytestmark = [
    pytest.mark.skipif(not can_fork(), reason="orphans are adopted on Linux only"),
    pytest.mark.processes,
]

DAEMONS = "test/StartsDaemons-v0"


def pool_process(place: Workplace, *, is_warm: bool) -> int:
    """A process that does one job as a pool process does: its number."""
    claim = place.claim()
    pid = os.fork()
    if pid:
        return pid
    try:
        kernel.adopt_orphans()
        server = None
        if is_warm:
            variables = child_variables(os.environ, threads=1, gpu=None)
            server = ForkServer(variables, directory=place.settings.data_dir)
            server.tend()
        supervise(claim, place.slot(fork_server=server))
        if server is not None:
            server.close()
        time.sleep(3600)
    finally:
        os._exit(0)


@contextmanager
def pool_at_work(place: Workplace, spec: dict[str, object], *, is_warm: bool) -> Iterator[tuple[int, str]]:
    place.settings.data_dir.mkdir(parents=True, exist_ok=True)
    job_id = place.accept(spec)
    pid = pool_process(place, is_warm=is_warm)
    try:
        yield pid, job_id
    finally:
        kill(pid)
        os.waitpid(pid, 0)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def daemons_of(place: Workplace, job_id: str) -> list[int]:
    with place.database.read() as session:
        text = logs.read_log(session, place.tenant, job_id).text
    return [int(pid) for line in re.findall(r"^daemons (.*)$", text, re.MULTILINE) for pid in line.split()]


def all_gone(pids: list[int]) -> Callable[[], bool]:
    def hold() -> bool:
        return not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]

    return hold


@pytest.mark.parametrize("is_warm", [True, False])
def test_daemons_are_gone_when_their_job_has_succeeded(place: Workplace, is_warm: bool) -> None:
    with pool_at_work(place, spec_of(DAEMONS, iterations=3), is_warm=is_warm) as (pid, job_id):
        eventually(place.ended(job_id), seconds=120)
        pids = daemons_of(place, job_id)
        assert len(pids) >= 6
        eventually(all_gone(pids), seconds=10)
        assert psutil.pid_exists(pid)


@pytest.mark.parametrize("victim", ["child", "fork server", "pool process"])
def test_daemons_are_gone_whatever_was_killed_above_them(
    place: Workplace, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "READY_SECONDS", 120.0)
    spec = spec_of(DAEMONS, iterations=1000, kwargs={"seconds_per_step": 0.002})
    with pool_at_work(place, spec, is_warm=True) as (pid, job_id):
        pids = eventually(lambda: len(found := daemons_of(place, job_id)) >= 6 and found, seconds=120)
        assert not all_gone(pids)()
        pool = psutil.Process(pid)
        server = next(process for process in pool.children() if is_fork_server(process))
        child = next(process for process in server.children() if is_fork_server(process))
        {"child": child, "fork server": server, "pool process": pool}[victim].kill()
        eventually(all_gone(pids), seconds=15)
        if victim != "pool process":
            eventually(place.ended(job_id, JobStatus.QUEUED), seconds=15)


def test_an_orphan_of_another_process_is_left_alone() -> None:
    mine = psutil.Popen(["/bin/sleep", "60"])
    try:
        kernel.end_orphans(())
        assert mine.is_running() and mine.status() != "zombie"
    finally:
        mine.kill()
        mine.wait()


def test_orphans_are_ended_and_the_kept_stay() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            kernel.adopt_orphans()
            kept, stray = psutil.Popen(["/bin/sleep", "60"]), psutil.Popen(["/bin/sh", "-c", "sleep 60 & sleep 60"])
            time.sleep(0.3)
            below = stray.children()
            kernel.end_orphans({kept.pid})
            fine = kept.poll() is None and bool(below) and not any(process.is_running() for process in [stray, *below])
            kept.kill()
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
