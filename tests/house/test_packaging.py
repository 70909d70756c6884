"""What is installed, and from which versions."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

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
    assert names == {"click", "httpx", "pydantic", "rich"}


def test_the_wheel_holds_the_migrations_and_no_tests(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "migrations").rglob("*.py")}
    assert tree <= shipped
    assert {"migrations/env.py"} <= tree
    folders = {name.split("/")[0] for name in shipped if "dist-info" not in name}
    assert folders == {"api", "migrations", "ppo_client", "ppo_engine", "ppo_jobs", "ppo_server", "worker"}
