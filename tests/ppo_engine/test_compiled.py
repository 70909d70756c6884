"""Machine code is kept by the content of its sources, and a training does without where it cannot be kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ppo_engine
from ppo_engine import compiled
from ppo_engine.fused.network import forward

PROBE = """
import logging, sys
import numpy as np
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from ppo_engine.fused.finite import all_finite
print("finite", all_finite(np.ones(3, dtype=np.float32)))
print("loaded", sum(all_finite.stats.cache_hits.values()))
"""


def probe(package: Path, cache: Path, *, before: str = "") -> list[str]:
    """What a process says that calls one compiled function of the package."""
    variables = {**os.environ, "PYTHONPATH": str(package.parent), "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", before + PROBE]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True, cwd=package.parent
    ).stdout.splitlines()


def copy_of_the_engine(folder: Path) -> Path:
    source = Path(ppo_engine.__file__).parent
    return Path(shutil.copytree(source, folder / "ppo_engine", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_same_sources_at_another_path_find_the_code_that_is_kept(tmp_path: Path) -> None:
    first, second = copy_of_the_engine(tmp_path / "a"), copy_of_the_engine(tmp_path / "b")
    assert probe(first, tmp_path / "code") == ["finite True", "loaded 0"]
    assert probe(second, tmp_path / "code") == ["finite True", "loaded 1"]


def test_other_sources_do_not_find_it(tmp_path: Path) -> None:
    package = copy_of_the_engine(tmp_path)
    assert probe(package, tmp_path / "code") == ["finite True", "loaded 0"]
    with (package / "fused" / "network.py").open("a") as file:
        file.write("# another engine\n")
    assert probe(package, tmp_path / "code") == ["finite True", "loaded 0"]


def test_code_that_does_not_fit_on_the_disk_costs_a_warning_and_no_training(tmp_path: Path) -> None:
    small_files = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
    package = copy_of_the_engine(tmp_path)
    warning, *answers = probe(package, tmp_path / "code", before=small_files)
    assert answers == ["finite True", "loaded 0"]
    assert warning.startswith("WARNING compiled code cannot be kept in ") and "File too large" in warning


def test_code_that_cannot_be_read_is_compiled_anew(tmp_path: Path) -> None:
    package = copy_of_the_engine(tmp_path)
    probe(package, tmp_path / "code")
    damaged = list((tmp_path / "code").rglob("*.nbc"))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100])
    assert damaged
    warning, *answers = probe(package, tmp_path / "code")
    assert answers == ["finite True", "loaded 0"]
    assert warning.startswith("WARNING compiled code cannot be read from ")


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    package, cache = copy_of_the_engine(tmp_path), tmp_path / "code"
    cache.mkdir()
    cache.chmod(0o777)
    warning, *answers = probe(package, cache)
    assert answers == ["finite True", "loaded 0"]
    assert warning.startswith("WARNING compiled code cannot be kept in ") and "others can write" in warning
    assert not list(cache.rglob("*.nbi"))


def test_machines_that_share_a_directory_do_not_share_code(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compiled.sources_digest()
    for other in (("another model", ["fma"]), (compiled.processor()[0], ["fma"])):
        monkeypatch.setattr(compiled, "processor", lambda other=other: other)
        assert compiled.sources_digest() != here
    monkeypatch.undo()
    monkeypatch.setattr(compiled.platform, "python_version", lambda: "3.99.0")
    assert compiled.sources_digest() != here


def test_a_part_of_compiled_functions_refuses_to_be_called_from_python() -> None:
    with pytest.raises(TypeError, match="forward is a part of compiled functions"):
        forward(None, None, None)
