"""The compose file and the image against the settings and commands that they name."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppo_jobs.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"api", "migrate", "sweeper", "worker", "worker-cuda"}


def test_the_production_start_runs_every_part():
    assert set(SERVICES) == {"postgres", "redis", *OURS}
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["worker-cuda"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_a_setting(name):
    variables = SERVICES[name]["environment"]
    fields = {f"PPO_{field.upper()}" for field in Settings.model_fields}
    assert set(variables) <= fields
    assert {"PPO_DATABASE_URL", "PPO_BROKER_URL", "PPO_ARTIFACTS_URL", "PPO_DATA_DIR"} <= set(variables)


def test_the_settings_accept_what_compose_sets(monkeypatch):
    for variable, value in SERVICES["api"]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(\w*)\}", r"\1", value))
    settings = Settings()
    assert str(settings.data_dir) == "/data"


def test_every_image_is_pinned():
    images = [SERVICES[name]["image"] for name in ("postgres", "redis")]
    images += re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 3
    for image in images:
        assert re.search(r":\d+\.\d+", image), image


def test_redis_neither_evicts_nor_forgets():
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_nothing_starts_before_the_migration_is_done():
    for name in OURS - {"migrate"}:
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_images_run_without_root_and_say_whether_they_are_healthy():
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    for stage in stages:
        if stage.split("\n")[0].endswith(("AS api", "AS worker")):
            assert "\nUSER ppo\n" in stage
            assert "\nHEALTHCHECK " in stage


def test_every_started_command_is_one_of_the_servers():
    from ppo_server.__main__ import main

    started = [service["command"] for name, service in SERVICES.items() if name in OURS and "command" in service]
    for command in started:
        assert command[:3] == ["python", "-m", "ppo_server"]
        assert command[3] in main.commands


def compose() -> list[str] | None:
    """The compose that is installed: Docker's plugin, or the program that came before it."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


@pytest.mark.skipif(compose() is None, reason="docker compose is not installed")
def test_compose_accepts_the_file():
    command = compose()
    assert command is not None
    subprocess.run([*command, "-f", ROOT / "docker-compose.yml", "config", "--quiet"], check=True)
