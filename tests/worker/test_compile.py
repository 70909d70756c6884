"""What is kept of compiled code, and that a worker has it before it offers itself."""

import fcntl
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from worker import compile as compiling
from worker.compile import compile_apart, compile_missing, compile_once, is_compiled, prune


@pytest.fixture
def code(tmp_path: Path) -> Path:
    directory = tmp_path / "digest"
    directory.mkdir()
    return directory


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A compiler that notes that it was called."""
    calls: list[str] = []
    module = ModuleType("test_warm_module")
    module.warm = lambda: calls.append("warm")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(compiling, "WARM_MODULE", module.__name__)
    return calls


def test_code_is_compiled_once(code: Path, warmed: list[str]) -> None:
    assert not is_compiled(code)
    assert compile_once(code)
    assert compile_once(code)
    assert is_compiled(code)
    assert warmed == ["warm"]


def test_code_that_another_cpu_compiled_does_not_count(code: Path, warmed: list[str], monkeypatch) -> None:
    assert compile_once(code)
    monkeypatch.setattr(compiling, "processor", lambda: ("another", ["flag"]))
    assert not is_compiled(code)


def test_a_compiler_that_fails_leaves_no_mark_and_raises_nothing(code: Path, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "WARM_MODULE", "no_such_module")
    assert not compile_once(code)
    assert not is_compiled(code)


def test_code_that_did_not_fit_on_the_disk_leaves_no_mark(code: Path, warmed: list[str], monkeypatch) -> None:
    monkeypatch.setattr(compiling, "all_kept", lambda: False)
    assert not compile_once(code)
    assert not is_compiled(code)


def test_code_of_other_sources_is_deleted_a_day_after_it_was_last_asked_for(code: Path, warmed: list[str]) -> None:
    old, used = code.parent / "old", code.parent / "used"
    day_and_more = time.time() - 90_000
    for directory in (old, used):
        directory.mkdir()
        assert compile_once(directory)
        for path in (*directory.iterdir(), directory):
            os.utime(path, (day_and_more, day_and_more))
    assert is_compiled(used)
    os.utime(code, (day_and_more, day_and_more))
    prune(code)
    assert sorted(path.name for path in code.parent.iterdir()) == ["digest", "lock", "used"]


def test_a_child_never_compiles_in_the_process_that_trains(monkeypatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(compiling.subprocess, "run", lambda command, **options: commands.append(command))
    monkeypatch.setattr(compiling, "is_compiled", lambda: False)
    compile_apart()
    assert commands == [[sys.executable, "-P", "-m", "worker.compile", "--soon"]]
    monkeypatch.setattr(compiling, "is_compiled", lambda: True)
    compile_apart()
    assert len(commands) == 1


def test_what_somebody_waits_for_is_compiled_beside_who_compiles_already(code: Path, warmed: list[str]) -> None:
    with (code.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert compile_missing(code)
    assert is_compiled(code)
