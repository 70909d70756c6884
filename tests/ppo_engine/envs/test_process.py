import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.errors import (
    EnvironmentFailed,
    EnvironmentFault,
    EnvironmentTimedOut,
    EnvironmentWorkerDied,
    InvalidObservation,
)
from ppo_engine.spec import EnvSpec
from tests.environments import PLUGIN_PATH
from tests.ppo_engine.envs.playing import played, random_actions, same


@pytest.fixture(autouse=True)
def _no_process_is_left_behind() -> Iterator[None]:
    before = steppers()
    yield
    assert steppers() <= before


def steppers() -> set[int]:
    """The processes of this one that step environments."""
    return {
        child.pid for child in psutil.Process().children(recursive=True) if "ppo_engine.envs.stepper" in child.cmdline()
    }


def afresh(law: Callable[..., None], *arguments: Any) -> None:
    """In a new process, as trainings are: what modules hold here is what the tests before have left in them."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(law, *arguments).result()


def spec(env_id: str, n_envs: int, **settings: Any) -> EnvSpec:
    return EnvSpec(id=env_id, n_envs=n_envs, vectorization="process", **settings)


@pytest.mark.parametrize(("env_id", "limit"), [("test/Walk-v0", None), ("LunarLanderContinuous-v3", 40)])
def test_any_number_of_workers_gives_the_bits_of_stepping_in_process(env_id: str, limit: int | None) -> None:
    afresh(any_number_of_workers, env_id, limit)


def any_number_of_workers(env_id: str, limit: int | None) -> None:
    n_envs, seeds = 3, [5, 6, 7]
    wanted = spec(env_id, n_envs, max_episode_steps=limit)
    plain = SyncVectorEnvironment(wanted, seeds)
    actions = random_actions(plain.action_space, n_envs, 120)
    expected = [plain.reset().copy(), *played(plain, actions)]
    for workers in (1, 3) if limit is None else (2,):
        environment = ProcessVectorEnvironment(wanted, seeds, workers=workers)
        assert len(steppers()) >= workers
        assert same([environment.reset().copy(), *played(environment, actions)], expected)
        state, plain_state = environment.state(), plain.state()
        assert state.keys() == plain_state.keys()
        assert all(np.array_equal(np.asarray(state[name]), np.asarray(plain_state[name])) for name in state)
        environment.close()


def test_a_state_is_restored_exactly_in_either_vectorization() -> None:
    afresh(restored_in_either_vectorization)


def restored_in_either_vectorization() -> None:
    wanted = spec("test/Walk-v0", 3)
    plain = SyncVectorEnvironment(wanted, [1, 2, 3])
    plain.reset()
    actions = random_actions(plain.action_space, 3, 80)
    played(plain, actions[:30])
    state = plain.state()
    expected = [played(plain, actions[30:60]), played(plain, actions[60:])]
    environment = ProcessVectorEnvironment(wanted, [1, 2, 3], workers=2)
    environment.restore(state)
    assert environment.resume.kind == "exact"
    assert same(played(environment, actions[30:60]), expected[0])
    again = SyncVectorEnvironment(wanted, [1, 2, 3])
    again.restore(environment.state())
    assert same(played(again, actions[60:]), expected[1])
    environment.close()


def test_an_approximate_restore_in_a_worker_says_so() -> None:
    plain = SyncVectorEnvironment(spec("test/Unrepeatable-v0", 2), [1, 2])
    plain.reset()
    played(plain, [np.full((2, 1), step % 2) for step in range(4)])
    environment = ProcessVectorEnvironment(spec("test/Unrepeatable-v0", 2), [1, 2], workers=2)
    environment.restore(plain.state())
    assert environment.resume.kind == "approximate"
    assert "environment 1" in str(environment.resume.reason)
    environment.close()


def first_fault(env_id: str, *, n_envs: int = 3, workers: int = 2, **settings: Any) -> EnvironmentFault:
    """What a play ends with in an environment whose fault comes in time."""
    with pytest.raises(EnvironmentFault) as failed:
        fail(ProcessVectorEnvironment(spec(env_id, n_envs, **settings), list(range(n_envs)), workers=workers))
    return failed.value


def fail(environment: ProcessVectorEnvironment) -> None:
    environment.reset()
    played(environment, random_actions(environment.action_space, environment.n_envs, 20))


def test_an_error_in_a_worker_is_the_error_that_it_is_in_process() -> None:
    failed = first_fault("test/RaisesInStep-v0", kwargs={"at_step": 6}, max_episode_steps=4)
    assert isinstance(failed, EnvironmentFailed)
    assert str(failed) == (
        "test/RaisesInStep-v0, environment 0, episode 1, step 2: "
        "raised RuntimeError: this environment cannot be stepped"
    )
    assert "faulty.py" in failed.traceback_text


def test_an_invalid_observation_in_a_worker_names_the_environments_own_index() -> None:
    # All three fail in the same step; each worker's first is told by the first worker.
    failed = first_fault("test/NaNObservation-v0", kwargs={"at_step": 3})
    assert isinstance(failed, InvalidObservation)
    assert (failed.place.env_index, failed.place.step) == (0, 3)


@pytest.mark.law("G10")
def test_a_worker_that_is_killed_from_within_is_named_with_environment_and_step() -> None:
    failed = first_fault("test/KillsItself-v0", kwargs={"at_step": 4})
    assert isinstance(failed, EnvironmentWorkerDied)
    assert str(failed) == "test/KillsItself-v0, environment 0, episode 0, step 4: its process was killed by SIGKILL"


def test_a_worker_that_exits_is_named_with_its_status() -> None:
    failed = first_fault("test/ExitsProcess-v0", kwargs={"at_step": 4, "status": 9})
    assert isinstance(failed, EnvironmentWorkerDied)
    assert "step 4: its process exited with status 9" in str(failed)


def test_a_worker_killed_between_two_steps_ends_the_next_step() -> None:
    environment = ProcessVectorEnvironment(spec("test/Walk-v0", 2), [1, 2], workers=2)
    environment.reset()
    os.kill(environment._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(EnvironmentWorkerDied) as died:
        environment.step(np.zeros((2, 1), np.int64))
    assert died.value.place.env_index == 1


@pytest.mark.law("G10")
@pytest.mark.parametrize("env_id", ["test/HangsInStep-v0", "test/HangsWithLock-v0"])
def test_a_hang_ends_within_the_timeout_and_names_environment_and_step(env_id: str) -> None:
    failed = first_fault(env_id, kwargs={"at_step": 4}, step_timeout_seconds=0.5)
    assert isinstance(failed, EnvironmentTimedOut)
    assert str(failed) == f"{env_id}, environment 0, episode 0, step 4: took longer than step_timeout_seconds = 0.5"


def test_a_hang_in_a_later_reset_names_the_episode_that_was_to_begin() -> None:
    failed = first_fault("test/HangsInReset-v0", kwargs={"at_reset": 1}, max_episode_steps=3, step_timeout_seconds=0.5)
    assert isinstance(failed, EnvironmentTimedOut)
    assert (failed.place.episode, failed.place.step) == (1, 0)


def test_slow_steps_that_add_up_beyond_the_timeout_are_no_hang() -> None:
    # One worker steps four environments of 0.2 s each: 0.8 s per vector step, none longer than 0.5 s.
    wanted = spec("test/Slow-v0", 4, kwargs={"seconds_per_step": 0.2}, step_timeout_seconds=0.5)
    environment = ProcessVectorEnvironment(wanted, [1, 2, 3, 4], workers=1)
    environment.reset()
    environment.step(np.zeros((4, 1), np.int64))
    environment.close()


def test_an_environment_that_hangs_in_close_is_ended_all_the_same() -> None:
    environment = ProcessVectorEnvironment(spec("test/HangsInClose-v0", 2, step_timeout_seconds=1.0), [1, 2], workers=2)
    environment.reset()
    environment.close()
    environment.close()


def test_dropping_an_environment_ends_its_workers() -> None:
    environment = ProcessVectorEnvironment(spec("test/Walk-v0", 2), [1, 2], workers=2)
    environment.reset()
    del environment
    assert not steppers()


def test_workers_import_no_torch() -> None:
    environment = ProcessVectorEnvironment(spec("test/Walk-v0", 1), [1], workers=1)
    (pid,) = steppers()
    assert not any("torch" in Path(file.path).parts for file in psutil.Process(pid).memory_maps())
    environment.close()


@pytest.mark.parametrize(
    ("env_id", "thread"),
    [("test/HangsInStep-v0", "main"), ("test/HangsWithLock-v0", "main"), ("test/HangsInStep-v0", "other")],
)
def test_workers_die_with_their_training_process_whatever_they_are_doing(env_id: str, thread: str) -> None:
    program = textwrap.dedent(f"""
        import threading
        import numpy as np
        import psutil
        from ppo_engine.envs.process import ProcessVectorEnvironment
        from ppo_engine.spec import EnvSpec

        def train():
            environment = ProcessVectorEnvironment(EnvSpec(id={env_id!r}, n_envs=2), [1, 2], workers=2)
            environment.reset()
            print(*[child.pid for child in psutil.Process().children()], flush=True)
            while True:
                environment.step(np.zeros((2, 1), np.int64))

        if {thread!r} == "main":
            train()
        else:
            threading.Thread(target=train).start()
    """)
    root = Path(__file__).parents[3]
    paths = {"PYTHONPATH": os.pathsep.join([str(PLUGIN_PATH), str(root)])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, **paths}
    ) as training:
        assert training.stdout is not None
        workers = [int(pid) for pid in training.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(0.3)
        training.kill()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=20)
    assert not alive


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_process_that_steps_computes_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever the training itself may use. The other thread waits for the training process to be gone.
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    environment = ProcessVectorEnvironment(spec("HalfCheetah-v5", 2), [1, 2], workers=1)
    environment.reset()
    played(environment, random_actions(environment.action_space, 2, 3))
    counted = [psutil.Process(pid).num_threads() for pid in steppers()]
    environment.close()
    assert counted == [2]
