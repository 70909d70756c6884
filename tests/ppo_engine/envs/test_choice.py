import os
import time
from typing import Any

import numpy as np
import pytest

from ppo_engine.envs import choice
from ppo_engine.envs.choice import choose, choose_by_time, step_seconds
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import make_vector_environment, seed_of
from ppo_engine.errors import UnknownEnvironment
from ppo_engine.spec import EnvSpec, InvalidSpec
from tests.ppo_engine.envs.playing import played, random_actions, same

MICROSECOND = 1e-6


@pytest.mark.parametrize(
    ("n_envs", "microseconds", "cores", "workers"),
    [
        # 8 x 27 = 216 here; 4 x 27 + 2 x 50 = 208 by two processes.
        (8, 27.0, 2, 0),
        # 8 x 320 = 2560 here; 4 x 320 + 2 x 50 = 1380 by two: 1.86 times sooner.
        (8, 320.0, 2, 2),
        # 16 x 20 = 320 here; 8 x 20 + 2 x 50 = 260 by two: not 1.5 times sooner.
        (16, 20.0, 2, 0),
        # 2 x 400 = 800 here; 400 + 2 x 50 = 500 by two, and there are no more environments to share.
        (2, 400.0, 64, 2),
        # 64 x 100 = 6400 here; 8 x 100 + 8 x 50 = 1200 by eight: by 64 it would be 100 + 64 x 50 = 3300.
        (64, 100.0, 8, 8),
    ],
)
def test_processes_are_chosen_where_a_step_takes_much_longer_than_waking_them(
    n_envs: int, microseconds: float, cores: int, workers: int
) -> None:
    assert choose_by_time(n_envs, microseconds * MICROSECOND, cores=cores).workers == workers


def test_more_processes_than_pay_are_not_chosen() -> None:
    # 64 x 100 us: k processes take ceil(64 / k) x 100 + k x 50, the least of it 1200 for 8 and for 11 of them.
    assert choose_by_time(64, 100 * MICROSECOND, cores=64).workers in (8, 11)


def test_the_choice_says_what_was_measured() -> None:
    assert choose_by_time(8, 320 * MICROSECOND, cores=2).reason == (
        "stepped by 2 processes: 8 environments, 320 us a step"
    )
    assert choose_by_time(8, 27 * MICROSECOND, cores=2).reason == (
        "stepped in the training process: 8 environments, 27 us a step, too little to share among 2 processes"
    )


@pytest.mark.parametrize(
    ("env_id", "n_envs", "cores", "reason"),
    [
        ("test/Slow-v0", 1, 8, "stepped in the training process: there is one environment"),
        ("test/Slow-v0", 8, 1, "stepped in the training process: it has one CPU core"),
        ("Taxi-v4", 8, 8, "stepped in the training process: a step is cheaper than waking another one"),
    ],
)
def test_nothing_is_measured_where_the_answer_is_known(
    monkeypatch: pytest.MonkeyPatch, env_id: str, n_envs: int, cores: int, reason: str
) -> None:
    def never(env: EnvSpec) -> float:
        raise AssertionError

    monkeypatch.setattr(choice, "step_seconds", never)
    found = choose(EnvSpec(id=env_id, n_envs=n_envs), cores=cores)
    assert (found.workers, found.reason) == (0, reason)


def test_a_step_is_measured() -> None:
    # It sleeps 10 ms; a sleep ends late at times, but never early.
    assert step_seconds(EnvSpec(id="test/Slow-v0", n_envs=4)) >= 0.01


def test_measuring_stops_after_a_step_that_takes_longer_than_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = time.sleep

    def counted(seconds: float) -> None:
        slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", counted)
    step_seconds(EnvSpec(id="test/Slow-v0", n_envs=4, kwargs={"seconds_per_step": 0.05}))
    assert slept == [0.05]


@pytest.mark.parametrize("name", ["RaisesInStep", "NaNObservation", "WrongShape", "RaisesInReset"])
def test_a_fault_while_measuring_is_left_to_the_training(name: str) -> None:
    found = choose(EnvSpec(id=f"test/{name}-v0", n_envs=4), cores=2)
    assert found.workers == 0
    assert f"measuring a step failed, test/{name}-v0, environment 0" in found.reason


def test_an_unknown_environment_is_not_measured_but_refused() -> None:
    with pytest.raises(UnknownEnvironment):
        choose(EnvSpec(id="Nowhere-v0", n_envs=4), cores=2)


def auto(env_id: str, n_envs: int, cores: int, **settings: Any) -> Any:
    sequences = np.random.SeedSequence(3).spawn(n_envs)
    return make_vector_environment(EnvSpec(id=env_id, n_envs=n_envs, **settings), sequences, cores=cores)


def test_the_choice_changes_no_bit() -> None:
    slow = auto("test/Slow-v0", 4, 2)
    assert (slow.vectorization, slow.vectorization_reason[:24]) == ("process", "stepped by 2 processes: ")
    seeds = [seed_of(sequence) for sequence in np.random.SeedSequence(3).spawn(4)]
    plain = SyncVectorEnvironment(EnvSpec(id="test/Walk-v0", n_envs=4), seeds)
    actions = random_actions(plain.action_space, 4, 30)
    try:
        assert same([slow.reset().copy(), *played(slow, actions)], [plain.reset().copy(), *played(plain, actions)])
    finally:
        slow.close()


def test_the_reason_stands_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "step_seconds", lambda _: 5 * MICROSECOND)
    environment = auto("test/Walk-v0", 4, 2)
    assert environment.vectorization == "sync"
    assert environment.vectorization_reason == (
        "stepped in the training process: 4 environments, 5 us a step, too little to share among 2 processes"
    )
    assert auto("LunarLander-v3", 4, 1).vectorization_reason.endswith("it has one CPU core")


def test_auto_is_batched_where_there_is_that_form() -> None:
    assert auto("CartPole-v1", 4, 8).vectorization == "batched"


def test_batched_is_refused_where_there_is_no_such_form() -> None:
    with pytest.raises(InvalidSpec) as refused:
        auto("LunarLander-v3", 2, 1, vectorization="batched")
    assert [fault.pointer for fault in refused.value.faults] == ["/env/vectorization"]


def test_cores_are_those_that_the_process_may_run_on() -> None:
    assert 1 <= choice.usable_cores() <= (os.cpu_count() or 1)
