"""What the README says, held against what is there."""

import json
import re
from pathlib import Path

import pytest

from ppo_engine.presets import consistency_faults, resolve
from ppo_engine.spec import TrainingSpec
from ppo_jobs.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("json"))
def test_every_spec_can_be_trained(block):
    spec = TrainingSpec.model_validate_json(block)
    assert consistency_faults(resolve(spec)) == []
    assert json.loads(block)["env"]["id"] == spec.env.id


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_the_table_of_variables_is_the_settings():
    rows = re.findall(r"^\| (`PPO_[^|]+)\|", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(PPO_\w+)`", row)}
    settings = {f"PPO_{field.upper()}" for field in Settings.model_fields}
    assert named == settings | {"PPO_API_KEY", "PPO_API_URL"}
