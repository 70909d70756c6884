import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from worker.runs import HIDDEN, LEFTOVER_SECONDS, REMOVED, orphans, remove_leftovers, run_directory


def hold(root: Path, pipe: Connection) -> None:
    with run_directory(root, "job_a", 1):
        pipe.send("held")
        time.sleep(60)


def test_a_directory_is_nobodys_orphan_while_its_supervisor_lives_and_one_when_it_was_killed(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    supervisor = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path, theirs))
    supervisor.start()
    assert ours.recv() == "held"
    with orphans(tmp_path) as found:
        assert found == []
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # It may go on later, so it is no orphan either.
    with orphans(tmp_path) as found:
        assert found == []
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.join()
    with orphans(tmp_path) as found:
        assert [(run.job_id, run.attempt) for run in found] == [("job_a", 1)]


def test_an_orphan_is_found_by_one_searcher_at_a_time(tmp_path: Path) -> None:
    with run_directory(tmp_path, "job_a", 1):
        pass
    with orphans(tmp_path) as first, orphans(tmp_path) as second:
        assert (len(first), len(second)) == (1, 0)
        first[0].remove()
    with orphans(tmp_path) as found:
        assert found == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_half_removed_goes_at_once_and_half_made_when_it_is_old(tmp_path: Path) -> None:
    for name, age in (("young", 0.0), ("old", LEFTOVER_SECONDS + 60)):
        path = tmp_path / f"{HIDDEN}{name}.1"
        (path / "checkpoints").mkdir(parents=True)
        os.utime(path, times=(time.time() - age,) * 2)
    (tmp_path / f"{HIDDEN}half.1{REMOVED}" / "scratch").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{HIDDEN}young.1"]
