"""What is installed, and from which versions."""

import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    rows = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in rows}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]


def test_every_dependency_is_pinned_inside_its_range():
    versions = pinned()
    for requirement in declared():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), str(requirement)


def test_every_range_has_an_upper_end():
    for requirement in declared():
        assert {"<", "=="} & {part.operator for part in requirement.specifier}, str(requirement)


def test_pins_are_installable_from_any_registry():
    for name, version in pinned().items():
        assert Version(version).local is None, f"{name}=={version} exists on one index only"


def test_the_base_install_is_the_client():
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert names == {"click", "httpx2", "pydantic", "rich"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_migrations_and_types_and_no_tests(wheel):
    shipped = set(zipfile.ZipFile(wheel).namelist())
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "migrations").rglob("*.py")}
    assert tree <= shipped
    assert {"migrations/env.py"} <= tree
    folders = {name.split("/")[0] for name in shipped if "dist-info" not in name}
    assert folders == {"api", "migrations", "ppo_client", "ppo_engine", "ppo_jobs", "ppo_server", "worker"}
    assert {f"{folder}/py.typed" for folder in folders} <= shipped


PROGRAM = """
from ppo_client import Client

def steps(client: Client) -> int:
    job = client.submit("CartPole-v1", seed=1)
    client.jobs(limitt=3)
    reveal_type(job.data.progress.fps)
    return job.data.name
"""


@pytest.mark.timeout(300)
def test_who_installs_the_client_has_its_types(wheel, tmp_path):
    """In an environment of its own with the wheel unpacked; the other packages are those that are installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    python = tmp_path / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "program.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout.splitlines()
    assert [line.partition(" ")[2].partition("[")[2] or line for line in told if "error: " in line] == [
        "call-arg]",
        "return-value]",
    ], told
    assert any('Revealed type is "float | None"' in line for line in told), told
