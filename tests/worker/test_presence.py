"""What a worker's main process asks of other processes while Celery forks its pool."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ppo_jobs.database import Database
from ppo_jobs.repository import workers
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from tests.environments import add_plugin
from tests.worker.workplace import eventually
from worker import environments
from worker.presence import Presence

FORKED_SECONDS = 300


def test_a_pool_process_that_is_forked_meanwhile_does_not_keep_the_worker_from_appearing(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would inherit the pipe that the description comes through, and its end would never be seen."""
    forked: list[int] = []
    forkers: list[threading.Thread] = []

    class ForkedMeanwhile(subprocess.Popen):
        """Another thread forks while the pipes are there and the process is not."""

        def _execute_child(self, *args: object) -> None:
            forkers.append(threading.Thread(target=fork, args=(forked,)))
            forkers[-1].start()
            time.sleep(0.3)
            super()._execute_child(*args)

    monkeypatch.setattr(environments.subprocess, "Popen", ForkedMeanwhile)
    add_plugin(monkeypatch)
    worker = Presence(
        settings, database, worker_id="cpu@here:1", queue=QueueName.CPU, slots=1, drain_mark=tmp_path / "draining" / "1"
    )
    worker.start()
    try:
        eventually(lambda: is_described(database), seconds=60)
    finally:
        for forker in forkers:
            forker.join()
        for pid in forked:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        worker.stop()
    assert forked


def fork(forked: list[int]) -> None:
    """A process like the pool's: it executes no other program, and so keeps every descriptor."""
    if (pid := os.fork()) == 0:
        time.sleep(FORKED_SECONDS)
        os._exit(0)
    forked.append(pid)


def is_described(database: Database) -> bool:
    with database.read() as session:
        return workers.environment(session, "test/Walk-v0") is not None
