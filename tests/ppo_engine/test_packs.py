"""Machine code is kept by the content of its sources, and a training does without where it cannot be kept."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ppo_engine
from ppo_engine import packs
from ppo_engine.fused.network import forward

PROBE = """
import logging, sys
import numpy as np
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from ppo_engine.fused.finite import all_finite
print("finite", all_finite(np.ones(3, dtype=np.float32)))
print("loaded", sum(all_finite.stats.cache_hits.values()))
"""


def probe(package: Path, cache: Path, *, compiled: bool = True, before: str = "") -> list[str]:
    """What a process says that calls one compiled function of the package, after another compiled it."""
    variables = {**os.environ, "PYTHONPATH": str(package.parent), "NUMBA_CACHE_DIR": str(cache)}
    if compiled:
        compile_bookkeeping(package, variables)
    command = [sys.executable, "-c", before + PROBE]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True, cwd=package.parent
    ).stdout.splitlines()


def compile_bookkeeping(package: Path, variables: dict[str, str]) -> None:
    """By the engine's own means, or by copying what they made for the same sources before."""
    made, folder = packs.file_of("bookkeeping"), Path(variables["NUMBA_CACHE_DIR"])
    if made is not None and made.exists():
        kept = folder / made.parent.name
        for directory in (folder, kept):
            directory.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(made, kept)
        return
    command = [sys.executable, "-m", "ppo_engine.fused.compile", "bookkeeping"]
    subprocess.run(command, env=variables, cwd=package.parent, check=True)


def copy_of_the_engine(folder: Path) -> Path:
    source = Path(ppo_engine.__file__).parent
    return Path(shutil.copytree(source, folder / "ppo_engine", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_same_sources_at_another_path_find_the_code_that_is_kept(tmp_path: Path) -> None:
    first, second = copy_of_the_engine(tmp_path / "a"), copy_of_the_engine(tmp_path / "b")
    assert probe(first, tmp_path / "code") == ["finite True", "loaded 1"]
    assert probe(second, tmp_path / "code", compiled=False) == ["finite True", "loaded 1"]


def test_other_sources_do_not_find_it(tmp_path: Path) -> None:
    package = copy_of_the_engine(tmp_path)
    assert probe(package, tmp_path / "code") == ["finite True", "loaded 1"]
    with (package / "fused" / "network.py").open("a") as file:
        file.write("# another engine\n")
    assert probe(package, tmp_path / "code", compiled=False) == ["finite True", "loaded 0"]


def test_code_that_does_not_fit_on_the_disk_leaves_nothing_and_costs_no_training(tmp_path: Path) -> None:
    package, cache = copy_of_the_engine(tmp_path), tmp_path / "code"
    variables = {**os.environ, "PYTHONPATH": str(package.parent), "NUMBA_CACHE_DIR": str(cache)}
    small = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); "
    run = "sys.argv[1:] = ['bookkeeping']; runpy.run_module('ppo_engine.fused.compile', run_name='__main__')"
    made = subprocess.run(
        [sys.executable, "-c", small + run],
        env=variables,
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 1 and "File too large" in made.stderr
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert probe(package, cache, compiled=False) == ["finite True", "loaded 0"]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_code_that_is_damaged_is_not_read(tmp_path: Path, damage: str) -> None:
    package, cache = copy_of_the_engine(tmp_path), tmp_path / "code"
    probe(package, cache)
    (pack,) = cache.rglob("*.pack")
    content = pack.read_bytes()
    other = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    pack.write_bytes({"cut": content[:1000], "changed": other, "empty": b""}[damage])
    warning, *answers = probe(package, cache, compiled=False)
    assert answers == ["finite True", "loaded 0"]
    assert warning.startswith("WARNING compiled code cannot be read from ") and "damaged" in warning


def test_what_has_been_read_stays_whatever_is_written_to_the_file(tmp_path: Path, monkeypatch) -> None:
    """Environment code may write there: the processes that have read it, and those that they fork, do not care."""
    monkeypatch.setattr(packs, "directory", lambda: tmp_path)
    monkeypatch.setattr(packs, "_read", {})
    packs.write("gru", {"a.function": {"()": (b"", b"good")}})
    assert packs.read("gru") == {"a.function": {"()": (b"", b"good")}}
    (tmp_path / "gru.pack").write_bytes(b"bad")
    assert packs.read("gru") == {"a.function": {"()": (b"", b"good")}}


@pytest.mark.parametrize("who", ["the directory", "the base"])
def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path, who: str) -> None:
    package, cache = copy_of_the_engine(tmp_path), tmp_path / "code"
    probe(package, cache)
    (cache if who == "the base" else next(cache.iterdir())).chmod(0o777)
    warning, *answers = probe(package, cache, compiled=False)
    assert answers == ["finite True", "loaded 0"]
    assert warning.startswith("WARNING compiled code cannot be kept in ") and "others can write" in warning


def test_machines_that_share_a_directory_do_not_share_code(monkeypatch: pytest.MonkeyPatch) -> None:
    here = packs.sources_digest()
    for other in (("another model", ["fma"]), (packs.processor()[0], ["fma"])):
        monkeypatch.setattr(packs, "processor", lambda other=other: other)
        assert packs.sources_digest() != here
    monkeypatch.undo()
    monkeypatch.setattr(packs.platform, "python_version", lambda: "3.99.0")
    assert packs.sources_digest() != here


def test_code_of_other_sources_is_deleted_a_day_after_it_was_last_asked_for(tmp_path: Path, monkeypatch) -> None:
    current, old, used = (tmp_path / name for name in ("current", "old", "used"))
    day_and_more = time.time() - 90_000
    for directory in (current, old, used):
        directory.mkdir()
        monkeypatch.setattr(packs, "directory", lambda directory=directory: directory)
        packs.write("gru", {})
        os.utime(directory, (day_and_more, day_and_more))
    monkeypatch.setattr(packs, "_read", {})
    assert packs.read("gru") == {}
    monkeypatch.setattr(packs, "directory", lambda: current)
    packs.prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "used"]


def test_a_part_of_compiled_functions_refuses_to_be_called_from_python() -> None:
    with pytest.raises(TypeError, match="forward is a part of compiled functions"):
        forward(None, None, None)
