import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.errors import EnvironmentTimedOut
from ppo_engine.spec import EnvSpec
from tests.environments import PLUGIN_PATH
from tests.ppo_engine.envs.playing import played, random_actions

RUNS = """
import os
import sys
import numpy as np
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs import watchdog
from ppo_engine.spec import EnvSpec

def fail(error):
    print(f"{error.code}: {error}", flush=True)
    os._exit(17)

watchdog.STUCK_MARGIN_SECONDS = 0.5
watchdog.install_timeout_handler(fail, exit_when_stuck=True)
environment = SyncVectorEnvironment(EnvSpec(id=sys.argv[1], n_envs=2, step_timeout_seconds=0.5), [1, 2])
environment.reset()
for _ in range(20):
    environment.step(np.zeros((2, 1), np.int64))
print("never reached")
"""


def run(env_id: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that steps an environment, and answers a timeout with a line and status 17."""
    paths = {"PYTHONPATH": os.pathsep.join([str(PLUGIN_PATH), str(Path(__file__).parents[3])])}
    command = [sys.executable, "-c", textwrap.dedent(RUNS), env_id]
    return subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, timeout=60)


def test_a_hang_in_process_interrupts_the_main_thread_with_a_clear_error() -> None:
    spec = EnvSpec(id="test/HangsInStep-v0", n_envs=2, kwargs={"at_step": 3}, step_timeout_seconds=0.5)
    environment = SyncVectorEnvironment(spec, [1, 2])
    environment.reset()
    with pytest.raises(EnvironmentTimedOut) as failed:
        played(environment, random_actions(environment.action_space, 2, 5))
    assert str(failed.value) == (
        "test/HangsInStep-v0, environment 0, episode 0, step 3: took longer than step_timeout_seconds = 0.5"
    )


def test_a_hang_in_reset_is_noticed_too() -> None:
    spec = EnvSpec(id="test/HangsInReset-v0", n_envs=1, step_timeout_seconds=0.5)
    environment = SyncVectorEnvironment(spec, [1])
    with pytest.raises(EnvironmentTimedOut, match="episode 0, step 0"):
        environment.reset()


def test_the_programs_handler_is_told_of_a_hang_and_may_end_the_process() -> None:
    ended = run("test/HangsInStep-v0")
    assert ended.returncode == 17
    assert ended.stdout.splitlines() == [
        "env_timeout: test/HangsInStep-v0, environment 0, episode 0, step 5: "
        "took longer than step_timeout_seconds = 0.5"
    ]


def test_a_hang_that_holds_the_interpreters_lock_ends_the_process_with_a_traceback() -> None:
    ended = run("test/HangsWithLock-v0")
    assert ended.returncode == 1
    assert "never reached" not in ended.stdout
    assert "deadly.py" in ended.stderr


def test_slow_steps_that_add_up_beyond_the_timeout_are_no_hang() -> None:
    spec = EnvSpec(id="test/Slow-v0", n_envs=4, kwargs={"seconds_per_step": 0.2}, step_timeout_seconds=0.5)
    environment = SyncVectorEnvironment(spec, [1, 2, 3, 4])
    environment.reset()
    environment.step(np.zeros((4, 1), np.int64))
    environment.close()


def test_nothing_is_watched_between_steps() -> None:
    spec = EnvSpec(id="test/Walk-v0", n_envs=1, step_timeout_seconds=0.1)
    environment = SyncVectorEnvironment(spec, [1])
    environment.reset()
    # The trainer's own work may take as long as it likes.
    subprocess.run(["sleep", "0.6"], check=True)
    environment.step(np.zeros((1, 1), np.int64))
    assert environment._watch.expired is None
