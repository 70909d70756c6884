"""Parts of the engine are compiled once, by processes that do nothing else, and whoever waits is not kept waiting."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ppo_engine import packs
from ppo_engine.fused import compile as compiling
from ppo_engine.fused.compile import being_compiled, compile_all, hurry, lock_file, missing, require, seconds_for
from ppo_engine.fused.parts import parts_of
from ppo_engine.fused.warm import WARM
from tests.ppo_engine.trainings import spec_of


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory for packs."""
    monkeypatch.setattr(packs, "directory", lambda: tmp_path)
    monkeypatch.setattr(packs, "_read", {})
    return tmp_path


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, kept: Path) -> list[str]:
    """Has no process compile; what would be compiled is noted, and kept."""
    calls: list[str] = []

    def fork(part: str, lock: object, **_: object) -> int:
        calls.append(part)
        packs.write(part, {})
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return pid

    monkeypatch.setattr(compiling, "_fork", fork)
    return calls


@contextmanager
def compiled_by_another(part: str, *, idle: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of a part."""
    code = "import fcntl, sys, time; lock = open(sys.argv[1], 'a+'); fcntl.flock(lock, fcntl.LOCK_EX); print(); "
    command = [sys.executable, "-uc", code + "time.sleep(60)", str(lock_file(part))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        lock_file(part).write_text(str(process.pid) if idle else "")
        try:
            yield process
        finally:
            process.kill()


def test_every_part_can_be_warmed_and_is_listed() -> None:
    assert sorted(WARM) == sorted(packs.PARTS)


@pytest.mark.usefixtures("kept")
def test_what_is_missing_is_compiled_once(forked: list[str]) -> None:
    assert missing(["gru", "learning"]) == ["learning", "gru"]
    assert compile_all(["learning", "gru"], urgent=packs.PARTS)
    assert compile_all(["learning", "gru"], urgent=packs.PARTS)
    assert forked == ["learning", "gru"]
    assert missing(["gru", "learning", "lstm"]) == ["lstm"]


@pytest.mark.usefixtures("kept")
def test_a_part_that_another_process_compiles_is_waited_for(forked: list[str]) -> None:
    with compiled_by_another("learning") as process:
        assert being_compiled() == ["learning"]
        packs.write("learning", {})
        process.kill()
        assert compile_all(["learning"], urgent=packs.PARTS)
    assert forked == []


@pytest.mark.usefixtures("kept")
def test_a_part_whose_compiler_died_is_compiled_by_who_waits(forked: list[str]) -> None:
    with compiled_by_another("learning") as process:
        process.kill()
        process.wait()
        assert compile_all(["learning"], urgent=packs.PARTS)
    assert forked == ["learning"]


@pytest.mark.usefixtures("kept")
def test_who_compiles_when_the_machine_is_idle_is_hurried_by_who_waits() -> None:
    with compiled_by_another("learning", idle=True) as process:
        assert being_compiled() == []
        os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        hurry(lock_file("learning"))
        # Who may not lift a process above idle ends it, and takes over.
        if process.poll() is None and os.sched_getscheduler(process.pid) == os.SCHED_IDLE:
            assert process.wait(5) < 0
        assert lock_file("learning").read_text() == ""


@pytest.mark.usefixtures("kept")
def test_who_may_not_hurry_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with compiled_by_another("learning", idle=True) as process:
        hurry(lock_file("learning"))
        assert process.wait(5) < 0


def test_a_part_that_cannot_be_compiled_is_told_and_leaves_nothing(kept: Path, monkeypatch) -> None:
    monkeypatch.setitem(WARM, "lstm", lambda: 1 / 0)
    monkeypatch.setattr(compiling, "prepare", lambda: None)
    monkeypatch.setattr(compiling, "die_with_parent", lambda: None)
    assert not compile_all(["lstm"], urgent=packs.PARTS)
    assert not (kept / "lstm.pack").exists()


def test_a_training_compiles_what_it_lacks_in_another_process(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(compiling.subprocess, "run", lambda command, **options: commands.append(command))
    packs.write("bookkeeping", {})
    require({"bookkeeping", "learning"})
    assert commands == [[sys.executable, "-P", "-m", "ppo_engine.fused.compile", "learning"]]


def test_times_are_of_the_longest_part_or_of_all_cores() -> None:
    assert seconds_for(["learning"]) == 2 + compiling.SECONDS["learning"]
    assert seconds_for(packs.PARTS) >= 2 + sum(compiling.SECONDS.values()) // compiling.AT_ONCE


def test_an_unknown_part_is_refused() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "ppo_engine.fused.compile", "nothing"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2 and "there is no part nothing" in asked.stderr


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (spec_of("CartPole-v1"), {"bookkeeping", "learning", "batched"}),
        (spec_of("CartPole-v1", env={"vectorization": "sync"}), {"bookkeeping", "learning", "stepwise"}),
        (spec_of("CartPole-v1", ppo={"kl_penalty": {}}), {"bookkeeping", "learning", "batched", "divergence"}),
        (spec_of("CartPole-v1", backend="torch"), {"bookkeeping", "environments"}),
        (spec_of("CartPole-v1", policy={"memory": "gru"}), {"bookkeeping", "environments", "gru"}),
        (
            spec_of("CartPole-v1", evaluation={"every_timesteps": 100}),
            {"bookkeeping", "learning", "batched", "environments"},
        ),
    ],
)
def test_a_job_needs_what_it_uses(spec, parts: set[str]) -> None:
    assert parts_of(spec) == parts


def test_locks_of_the_dead_are_free(kept: Path) -> None:
    with compiled_by_another("gru") as process:
        assert compiling.is_locked("gru")
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while compiling.is_locked("gru") and time.monotonic() < deadline:
            time.sleep(0.01)
    with lock_file("gru").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.usefixtures("kept")
def test_the_number_of_a_dead_compiler_is_nobodys_who_has_the_lock_now() -> None:
    """It may be another process's by then, which must be neither hurried nor ended."""
    with compiled_by_another("gru", idle=True) as process:
        process.kill()
        process.wait()
    assert lock_file("gru").read_text() != ""
    lock = compiling.locked("gru")
    assert lock is not None
    with lock:
        assert lock_file("gru").read_text() == ""
