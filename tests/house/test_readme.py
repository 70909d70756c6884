"""What the README says, held against what is there."""

import json
import re
from pathlib import Path

import click
import pytest

from ppo_client.cli.root import ppo
from ppo_engine.bundle import load_policy
from ppo_engine.presets import consistency_faults, resolve
from ppo_engine.spec import TrainingSpec
from ppo_engine.trainer import Trainer
from ppo_jobs.settings import Settings
from ppo_server.__main__ import main as server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("json"))
def test_every_spec_can_be_trained(block):
    spec = TrainingSpec.model_validate_json(block)
    assert consistency_faults(resolve(spec)) == []
    assert json.loads(block)["env"]["id"] == spec.env.id


@pytest.mark.parametrize("block", blocks("json"))
def test_every_spec_is_trained_as_it_says(block, tmp_path):
    """For one iteration, which is shorter than it would be."""
    document = json.loads(block)
    document["ppo"] = {**document.get("ppo", {}), "total_timesteps": 1, "n_steps": 32}
    trainer = Trainer(TrainingSpec.model_validate_json(json.dumps(document)))
    assert [step.finished for step in trainer.iterations()] == [True]
    trainer.save(tmp_path / "policy")
    trainer.close()
    assert load_policy(tmp_path / "policy").manifest.env.id == document["env"]["id"]


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_the_table_of_variables_is_the_settings():
    rows = re.findall(r"^\| (`PPO_[^|]+)\|", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(PPO_\w+)`", row)}
    settings = {f"PPO_{field.upper()}" for field in Settings.model_fields}
    assert named == settings | {"PPO_API_KEY", "PPO_API_URL"}


def commands() -> list[list[str]]:
    """Every use of `ppo` in a block of bash, and in backticks, as words."""
    lines = [line for block in blocks("bash") for line in block.splitlines()] + re.findall(r"`(ppo [^`]+)`", README)
    parts = [part.strip() for line in lines for part in line.partition("#")[0].split("&&")]
    return [part.split() for part in parts if part.startswith("ppo ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_option_exists(words):
    client_command = ppo.get_command(click.Context(ppo), words[1])
    assert client_command is not None
    command = server.commands.get(words[1], client_command)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known
