import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ppo_server import services
from ppo_server.launch import PARENT_VARIABLE
from ppo_server.services import RunningService, Service, stop_all

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
WILLING = "import time; print('up', flush=True); time.sleep(60)"
ORPHANING = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); time.sleep(60)"


def a_service(code: str, log: Path, *, stop_seconds: float = 0.3) -> RunningService:
    return RunningService(Service("it", (sys.executable, "-c", code), stop_seconds), log)


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def never() -> bool:
    return False


def test_a_service_that_ends_is_started_again_later_each_time(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(services, "FIRST_BACKOFF_SECONDS", 0.02)
    running = a_service("raise SystemExit(3)", tmp_path / "log")

    def crashed_three_times() -> bool:
        running.keep_running()
        return running.crashes == 3

    until(crashed_three_times)
    waits = [record.getMessage().rpartition("again in ")[2] for record in caplog.records]
    assert waits == ["0.02 s", "0.04 s", "0.08 s"]
    assert "ended with status 3" in caplog.text


def test_one_that_ignores_sigterm_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    running = a_service(STUBBORN, tmp_path / "log")
    until(lambda: "up" in (tmp_path / "log").read_text())
    stop_all([running], never)
    assert not running.is_running


def test_what_a_service_started_goes_with_it(tmp_path: Path) -> None:
    running = a_service(ORPHANING, tmp_path / "log", stop_seconds=5)
    until(lambda: "up" in (tmp_path / "log").read_text())
    group = running.pid
    stop_all([running], never)

    def is_gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    until(is_gone)


def test_services_are_stopped_in_their_order(tmp_path: Path) -> None:
    stopped: list[str] = []
    running = [a_service(WILLING, tmp_path / name, stop_seconds=5) for name in ("first", "second")]
    for name, service in zip(("first", "second"), running, strict=True):
        until(lambda name=name: "up" in (tmp_path / name).read_text())
        ask = service.ask_to_stop

        def noting(name: str = name, ask=ask) -> None:
            assert [other.is_running for other in running] == [name == "first", True]
            stopped.append(name)
            ask()

        service.ask_to_stop = noting  # type: ignore[method-assign]  # Listens in on it.
    stop_all(running, never)
    assert stopped == ["first", "second"]


def test_a_service_whose_parent_is_gone_does_not_start() -> None:
    variables = {**os.environ, PARENT_VARIABLE: "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "ppo_server", "sweeper"], env=variables, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr == "the process that started this service is gone\n"


BEATING = """
import os, pathlib, time
from ppo_jobs.pulse import own_pulse, touch
while True:
    touch(own_pulse())
    time.sleep(0.1)
"""


def test_one_that_hangs_is_replaced_and_one_that_never_said_that_it_works_is_not(tmp_path: Path, caplog) -> None:
    command = (sys.executable, "-c", BEATING)
    frozen = RunningService(Service("frozen", command, stop_seconds=1, still_seconds=2), tmp_path / "frozen.log")
    silent = RunningService(
        Service("silent", (sys.executable, "-c", WILLING), stop_seconds=1, still_seconds=2), tmp_path / "silent.log"
    )
    try:
        until(lambda: (tmp_path / "frozen.pulse").exists())
        first = frozen.pid
        os.kill(first, signal.SIGSTOP)

        def is_replaced() -> bool:
            for running in (frozen, silent):
                running.keep_running()
            return frozen.crashes == 1 and frozen.pid != first

        until(is_replaced)
        assert "frozen does nothing any more" in caplog.text
        assert (silent.crashes, silent.is_running) == (0, True)
        until(lambda: (tmp_path / "frozen.pulse").exists())
    finally:
        stop_all([frozen, silent], lambda: True)


def test_a_stopped_one_ends_by_the_signal_that_asked_it(tmp_path: Path) -> None:
    running = a_service(WILLING, tmp_path / "log", stop_seconds=5)
    until(lambda: "up" in (tmp_path / "log").read_text())
    running.ask_to_stop()
    until(lambda: not running.is_running)
    assert running._process.returncode == -signal.SIGTERM


def test_a_service_that_cannot_be_started_is_tried_again_later(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(services, "FIRST_BACKOFF_SECONDS", 0.02)
    log = tmp_path / "logs" / "log"
    log.parent.mkdir()
    running = a_service("raise SystemExit(3)", log)
    until(lambda: not running.is_running)
    log.unlink()
    log.parent.rmdir()

    def came_to(crashes: int) -> bool:
        running.keep_running()
        return running.crashes >= crashes

    until(lambda: came_to(3))
    log.parent.mkdir()
    until(lambda: came_to(5))
    assert log.exists()
    stop_all([running], never)
