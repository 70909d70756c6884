import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.environments import PLUGIN_PATH


def checked(env_id: str, *options: str, kwargs: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """The exit status and the answer of a check of some hundred steps."""
    env = json.dumps({"id": env_id, "kwargs": kwargs or {}})
    command = [sys.executable, "-m", "ppo_engine.envs.check", env, "--json", "--steps", "400", *options]
    told = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PLUGIN_PATH), os.getcwd()])},
        check=False,
    )
    return told.returncode, json.loads(told.stdout)


def texts(answer: dict[str, Any], name: str) -> list[tuple[str, str]]:
    return [(found["verdict"], found["text"]) for found in answer["findings"] if found["name"] == name]


def test_a_sound_environment_passes_in_everything() -> None:
    status, answer = checked("test/Walk-v0")
    assert (status, answer["usable"]) == (0, True)
    assert {found["verdict"] for found in answer["findings"]} == {"ok"}
    names = [found["name"] for found in answer["findings"]]
    assert names == [
        "registration", "arguments", "construction", "spaces", "observations", "episodes", "rewards", "speed", "seeds",
        "processes", "resume",
    ]  # fmt: skip


def test_what_keeps_a_resume_from_being_exact_is_told() -> None:
    status, answer = checked("test/LateCurriculum-v0")
    assert status == 0
    [(verdict, text)] = texts(answer, "resume")
    assert verdict == "note" and "LateCurriculum.numbers is a itertools.count" in text
    _, answer = checked("test/Unrepeatable-v0")
    assert texts(answer, "seeds")[0][1].startswith("two runs of one seed differ from step 1 on")


@pytest.mark.parametrize(
    ("env_id", "name", "text"),
    [
        ("test/NaNObservation-v0", "episodes", "observation is nan"),
        ("test/RaisesInConstructor-v0", "construction", "raised RuntimeError"),
        ("test/TextAction-v0", "construction", "action space Text is not supported"),
        ("test/NoSuch-v0", "registration", "no environment 'test/NoSuch-v0' is installed"),
        ("test/KillsItself-v0", "spaces", "after that its process was ended by SIGKILL"),
    ],
)
def test_an_unusable_environment_is_told_with_its_reason(env_id: str, name: str, text: str) -> None:
    status, answer = checked(env_id)
    assert (status, answer["usable"]) == (1, False)
    last = answer["findings"][-1]
    assert (last["name"], last["verdict"]) == (name, "fault")
    assert text in last["text"]


def test_a_check_that_does_not_come_back_ends_at_its_deadline() -> None:
    status, answer = checked("test/HangsInStep-v0", "--deadline", "12")
    assert status == 1
    assert "did not come back within 12 s" in answer["findings"][-1]["text"]
