"""The two commands of the README, before anything is installed."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def checkout(folder: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_a_missing_python_is_named(tmp_path):
    answer = make("demo", "PYTHON=no-such-python", cwd=checkout(tmp_path))
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer, and there is no 'no-such-python'" in answer.stderr


def test_an_old_python_is_named_with_its_version(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    answer = make("test", f"PYTHON={old}", cwd=checkout(tmp_path))
    assert answer.returncode != 0
    assert "is Python 3.8.18" in answer.stderr
    assert not (tmp_path / ".venv").exists()
