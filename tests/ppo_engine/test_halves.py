"""Acting by halves: it leads to what stepping all at once leads to, and one half steps while the other is acted for."""

from dataclasses import fields
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from ppo_engine.components import build
from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.envs.vector import Step, VectorEnvironment
from ppo_engine.errors import EnvironmentFault
from ppo_engine.halves import HalvesCollector
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy
from ppo_engine.random import stream
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import PolicySpec
from tests.environments import add_plugin
from tests.ppo_engine.scripted import Ramp
from tests.ppo_engine.trainings import spec_of

STEPS = 40
CASES: dict[str, dict[str, Any]] = {
    "images, cut off": {"id": "test/ProbeImage-v0", "max_episode_steps": 3},
    "images and numbers": {"id": "test/ProbeImageDict-v0"},
    "games with lives": {"id": "ALE/Breakout-v5", "frame_stack": 2, "max_episode_steps": 30},
    "masks": {"id": "test/MaskedMulti-v0", "action_masks": True},
    "numbers, cut off": {"id": "test/Walk-v0", "max_episode_steps": 7},
}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)


def collector_of(kind: type[Collector], environment: VectorEnvironment, *, action_masks: bool = False) -> Collector:
    """With a policy that is the same each time; numbers are normalised, but for those of `Ramp`."""
    encoder, network = environment.encoder, PolicySpec(hidden_sizes=(8,), activation="relu")
    policy = Policy(
        network,
        environment.observation_size,
        environment.action_space,
        images=encoder.images,
        generator=stream(0, "init"),
        action_masks=action_masks,
    )
    normalizer = None
    if encoder.dtype != np.uint8 and not isinstance(environment, Ramp):
        normalizer = ObservationNormalizer(environment.observation_size, clip=10.0)
        normalizer.update(np.linspace(-1, 1, 8 * environment.observation_size).reshape(8, -1).astype(np.float32))
    return kind(environment, policy, normalizer, n_steps=STEPS, generator=stream(0, "actions"))


def rollouts(collector: Collector) -> list[dict[str, NDArray[Any]]]:
    """Two rollouts on end, as arrays; closes the environment."""
    collector.last_observations = collector.environment.reset()
    collected = [arrays(collector.collect()) for _ in range(2)]
    collector.environment.close()
    return collected


def arrays(rollout: Rollout) -> dict[str, NDArray[Any]]:
    given = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
    return {
        name: (value.numpy() if isinstance(value, torch.Tensor) else value).copy()
        for name, value in given.items()
        if value is not None
    }


@pytest.mark.parametrize("case", CASES)
def test_halves_in_turns_give_the_bits_of_stepping_all_at_once(case: str) -> None:
    """With an odd number of environments, and once with an even one and more processes than halves."""
    for n_envs, workers in [(5, 2), (4, 4)][: 1 + (case == "images, cut off")]:
        env = spec_of(env={**CASES[case], "n_envs": n_envs}).env
        seeds = list(range(n_envs))
        in_turns = ProcessVectorEnvironment(env, seeds, workers=workers)
        assert in_turns.steps_halves
        expected, got, plain = (
            rollouts(collector_of(kind, environment, action_masks=env.action_masks))
            for kind, environment in (
                (HalvesCollector, SyncVectorEnvironment(env, seeds)),
                (HalvesCollector, in_turns),
                (Collector, SyncVectorEnvironment(env, seeds)),
            )
        )
        for ours, theirs, whole in zip(got, expected, plain, strict=True):
            assert ours.keys() == theirs.keys() == whole.keys()
            for name, array in ours.items():
                np.testing.assert_array_equal(array, theirs[name], err_msg=name)
                # Products of half as many rows may end in other bits.
                np.testing.assert_allclose(array, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
            assert not case.endswith("cut off") or len(ours["final_observations"]) > n_envs
            assert case != "games with lives" or (ours["lives_lost"].any() and ours["truncated"].any())


class Narrated(Ramp):
    """Two environments that each step by themselves, and say what happens when."""

    def __init__(self) -> None:
        super().__init__([5, 9], ["terminated", "truncated"])
        self.halves, self.said = (slice(0, 1), slice(1, 2)), list[str]()
        self._actions: dict[int, NDArray[Any]] = {}
        self._led_to: Step | None = None

    def begin_step(self, rows: slice, actions: NDArray[Any]) -> None:
        self.said.append(f"begin {rows.start}")
        self._actions[rows.start] = actions

    def finish_step(self, rows: slice) -> Step:
        self.said.append(f"finish {rows.start}")
        if self._led_to is None or rows.start == 0:
            self._led_to = self.step(np.concatenate([self._actions[0], self._actions[1]]))
        return self._led_to


def test_one_half_steps_while_the_policy_acts_for_the_other() -> None:
    environment = Narrated()
    collector = collector_of(HalvesCollector, environment)
    assert isinstance(collector, HalvesCollector)
    collector._halves = environment
    act = collector.policy.act

    def narrated_act(observations: torch.Tensor, *rest: Any) -> Any:
        [[_, index]] = observations.tolist()
        environment.said.append(f"act {index:.0f}")
        return act(observations, *rest)

    collector.policy.act = narrated_act  # type: ignore[method-assign]
    collector.last_observations = environment.reset()
    collector.collect()
    turn = ["finish 0", "act 0", "begin 0", "finish 1", "act 1", "begin 1"]
    first = ["act 0", "begin 0", "act 1", "begin 1"]
    assert environment.said == [*first, *turn * (STEPS - 1), "finish 0", "finish 1"]


@pytest.mark.parametrize(("env_id", "killed", "named"), [("test/RaisesInStep-v0", None, 0), ("test/Walk-v0", 1, 2)])
def test_a_fault_in_either_half_names_its_environment_and_leaves_no_process(
    env_id: str, killed: int | None, named: int
) -> None:
    environment = ProcessVectorEnvironment(spec_of(env={"id": env_id, "n_envs": 4}).env, [0, 1, 2, 3], workers=2)
    processes = [psutil.Process(worker.process.pid) for worker in environment._workers]
    collector = collector_of(HalvesCollector, environment)
    collector.last_observations = environment.reset()
    if killed is not None:
        processes[killed].kill()
    with pytest.raises(EnvironmentFault) as failed:
        collector.collect()
    assert failed.value.place.env_index == named
    assert not any(process.is_running() for process in processes)


def test_acting_by_halves_leaves_half_of_the_cores_to_the_games() -> None:
    """And the threads are back for the update, even where acting failed."""
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(4)
    try:
        parts = build(spec_of("test/ProbeImage-v0", policy={"network": "cnn"}), 1)
        collector = parts.backend.collector
        assert isinstance(collector, HalvesCollector)
        collector.last_observations = parts.environment.reset()
        act = parts.policy.act

        def watched_act(*given: Any) -> Any:
            seen.append(torch.get_num_threads())
            if len(seen) == 5:
                raise RuntimeError("this one fails")
            return act(*given)

        parts.policy.act = watched_act  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="this one fails"):
            collector.collect()
        assert seen == [2] * 5 and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("sections", "by_halves"),
    [
        ({"env": {"id": "test/ProbeImage-v0"}, "policy": {"network": "cnn"}}, True),
        ({"env": {"id": "test/ProbeImage-v0", "n_envs": 1}, "policy": {"network": "cnn"}}, False),
        ({"env": {"id": "test/ProbeImage-v0"}, "policy": {"network": "cnn", "memory": "gru"}}, False),
        ({"env": {"id": "test/ProbeImage-v0"}, "policy": {"network": "mlp"}, "backend": "torch"}, False),
        ({"env": {"id": "CartPole-v1"}, "backend": "torch"}, False),
    ],
)
def test_who_acts_by_halves(sections: dict[str, Any], by_halves: bool) -> None:
    collector = build(spec_of(**sections), 1).backend.collector
    assert isinstance(collector, HalvesCollector) == by_halves
