"""Random trainings: a policy, hyperparameters, and environments that play a script whatever the actions are."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.spaces import ActionSpace, ObservationEncoder, action_space_of
from ppo_engine.envs.vector import EXACT, Resumability, Step, allocate_step
from ppo_engine.fused.rollout import FusedCollector, FusedRollout
from ppo_engine.fused.update import FusedLearner
from ppo_engine.normalization import ObservationNormalizer, ValueNormalizer
from ppo_engine.policy import Policy
from ppo_engine.random import stream
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.schedules import Coefficients, coefficients
from ppo_engine.spec import KLAdaptiveRate, KLPenaltySpec, LinearSchedule, PolicySpec, PPOSpec, Schedule
from ppo_engine.update import Learner

HEADS = ("categorical", "multi_categorical", "bernoulli", "gaussian", "squashed_gaussian")
KINK = 1e-4
"""Rows closer than this to where the loss has no derivative are moved away: there, rounding picks the side."""


@dataclass(frozen=True)
class Case:
    """What two backends are given; `seed` settles every number that is not named here."""

    head: str
    columns: int
    policy: PolicySpec
    ppo: PPOSpec
    observation_size: int
    n_envs: int
    normalized: bool
    values_normalized: bool
    masked: bool
    """Whether environments say which choices are valid."""
    foreign: bool
    """Whether environments reset in a step of their own, whose rows are not valid."""
    fraction_done: float
    seed: int

    @property
    def now(self) -> Coefficients:
        return coefficients(self.ppo, self.fraction_done)

    @property
    def rows(self) -> int:
        return self.n_envs * self.ppo.n_steps

    def generator(self, name: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, name])


def schedules(low: float, high: float) -> st.SearchStrategy[Schedule]:
    numbers = st.floats(low, high)
    return st.one_of(numbers, st.builds(LinearSchedule, initial=numbers, final=numbers))


def penalties() -> st.SearchStrategy[KLPenaltySpec]:
    return st.builds(
        KLPenaltySpec,
        kind=st.sampled_from(["fixed", "adaptive", "dual"]),
        coef=st.floats(0.01, 5.0),
        target=st.floats(0.001, 0.1),
        stiffness=st.sampled_from([0.0, 1.0, 10.0]),
    )


def rates() -> st.SearchStrategy[Schedule | KLAdaptiveRate]:
    adaptive = st.builds(KLAdaptiveRate, kind=st.just("kl_adaptive"), initial=st.floats(1e-4, 1e-2))
    return schedules(1e-4, 1e-2) | adaptive


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Every head, network, way of normalising, schedule and shape, edges as likely as the rest."""
    head = draw(st.sampled_from(HEADS))
    n_envs, n_steps = draw(st.sampled_from([8, 1, 3, 16])), draw(st.sampled_from([33, 1, 2, 7, 16]))
    rows = n_envs * n_steps
    batch_size = min(rows, draw(st.sampled_from([rows // 2 + 1, 1 + rows // 99, 2 + rows // 66, 7, 64, 65, 100, rows])))
    estimator: Any = draw(st.sampled_from(["gae", "gae", "monte_carlo", "td", "n_step"]))
    modes = ["minibatch", "batch", "off"] if batch_size > 1 else ["batch", "off"]
    objective: Any = draw(st.sampled_from(["clip", "clip", "dual_clip", "kl_penalty"]))
    return Case(
        head=head,
        columns=1 if head == "categorical" else draw(st.integers(1, 4)),
        policy=PolicySpec(
            hidden_sizes=tuple(draw(st.lists(st.sampled_from([1, 2, 5, 16, 33, 64]), max_size=4))),
            activation=draw(st.sampled_from(["tanh", "relu"])),
            share_features=draw(st.booleans()),
            log_std_init=draw(st.floats(-2, 1)),
            squash_output=head == "squashed_gaussian",
        ),
        ppo=PPOSpec(
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=draw(st.integers(1, 3)),
            gamma=draw(st.sampled_from([0.0, 0.9, 0.99, 1.0])),
            gae_lambda=draw(st.sampled_from([0.0, 0.95, 1.0])),
            advantage_estimator=estimator,
            n_step=draw(st.integers(1, n_steps)) if estimator == "n_step" else None,
            recompute_advantages=draw(st.booleans()),
            learning_rate=draw(rates()),
            objective=objective,
            dual_clip=draw(st.floats(1.05, 2.0)) if objective == "dual_clip" else 3.0,
            kl_penalty=draw(penalties() if objective == "kl_penalty" else st.none() | penalties()),
            clip_range=draw(schedules(0.05, 0.4)),
            clip_range_vf=draw(st.none() | schedules(0.05, 1.0)),
            normalize_advantage=draw(st.sampled_from(modes)),
            ent_coef=draw(st.sampled_from([0.0, 0.01, 0.5])),
            vf_coef=draw(st.sampled_from([0.0, 0.5, 2.0])),
            max_grad_norm=draw(st.sampled_from([0.05, 0.5, 1e3])),
            target_kl=draw(st.none() | st.floats(0.005, 0.06)),
        ),
        observation_size=draw(st.sampled_from([1, 2, 4, 17])),
        n_envs=n_envs,
        normalized=draw(st.booleans()),
        values_normalized=draw(st.booleans()),
        masked="gaussian" not in head and draw(st.booleans()),
        foreign=draw(st.booleans()),
        fraction_done=draw(st.floats(0, 1)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def case_of(head: str = "categorical", *, hidden_sizes: tuple[int, ...] = (5, 3), **settings: Any) -> Case:
    """16 steps of 3 environments, in minibatches of 20 rows; `settings` are those of the policy or of PPO."""
    ppo = {"n_steps": 16, "batch_size": 20, "n_epochs": 2}
    ppo |= {name: value for name, value in settings.items() if name in PPOSpec.model_fields}
    policy = {name: value for name, value in settings.items() if name in PolicySpec.model_fields}
    return Case(
        head=head,
        columns=1 if head == "categorical" else 2,
        policy=PolicySpec(hidden_sizes=hidden_sizes, squash_output=head == "squashed_gaussian", **policy),
        ppo=PPOSpec(**ppo),
        observation_size=4,
        n_envs=3,
        normalized=False,
        values_normalized=False,
        masked=False,
        foreign=False,
        fraction_done=0.0,
        seed=3,
    )


def action_space(case: Case) -> ActionSpace:
    sizes = case.generator(0).integers(2, 6, size=case.columns)
    bounds = case.generator(1).uniform(0.1, 3, size=(2, case.columns)).astype(np.float32)
    space: dict[str, spaces.Space[Any]] = {
        "categorical": spaces.Discrete(int(sizes[0])),
        "multi_categorical": spaces.MultiDiscrete(sizes),
        "bernoulli": spaces.MultiBinary(case.columns),
        "gaussian": spaces.Box(-np.inf, np.inf, (case.columns,)),
        "squashed_gaussian": spaces.Box(-bounds[0], bounds[1]),
    }
    return action_space_of(space[case.head])


def policy_of(case: Case) -> Policy:
    """A policy whose biases are not zero and whose actions are not alike; the same at each call."""
    space, generator = action_space(case), case.generator(2)
    policy = Policy(case.policy, case.observation_size, space, generator=generator, action_masks=case.masked)
    noise = case.generator(3).normal(scale=0.2, size=policy.flat.numel())
    policy.flat.add_(torch.from_numpy(noise.astype(np.float32)))
    return policy


def masks_of(case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """[*shape, masks]: half of all choices are valid, and one of each head at least."""
    generator, space = case.generator(9), action_space(case)
    masks = generator.random(size=(*shape, space.masks)) < 0.5
    first = 0
    for size in space.choices:
        valid = generator.integers(first, first + size, size=shape)
        np.put_along_axis(masks, valid[..., None], True, axis=-1)
        first += size
    return masks


class Script:
    """N environments whose observations, rewards and ends were written beforehand, 2 T steps of them."""

    vectorization: Literal["sync"] = "sync"
    vectorization_reason = "scripted"
    resume: Resumability = EXACT

    def __init__(self, case: Case) -> None:
        steps, self.n_envs, self.observation_size = 2 * case.ppo.n_steps, case.n_envs, case.observation_size
        self.action_space = action_space(case)
        self.encoder = ObservationEncoder(spaces.Box(-np.inf, np.inf, (self.observation_size,)))
        self.arrays = allocate_step(self.n_envs, self.observation_size)
        generator = case.generator(4)
        shape = (steps + 1, self.n_envs, self.observation_size)
        self.observations, self.finals = generator.normal(0.5, 2.0, size=(2, *shape)).astype(np.float32)
        self.rewards = generator.normal(size=shape[:2])
        self.terminated, self.truncated = generator.random(size=(2, *shape[:2])) < 0.15
        self.valid = np.ones(shape[:2], np.bool_)
        self.masks = masks_of(case, shape[:2]) if case.masked else None
        if case.foreign:
            self._reset_between_steps()
        self.actions: list[NDArray[Any]] = []

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        return None if self.masks is None else self.masks[len(self.actions)]

    def reset(self) -> NDArray[np.float32]:
        return self.observations[0]

    def step(self, actions: NDArray[Any]) -> Step:
        t = len(self.actions)
        self.actions.append(actions.copy())
        done = (self.terminated | self.truncated)[t]
        self.arrays.observations[:] = self.observations[t + 1]
        self.arrays.final_observations[:] = np.where(done[:, None], self.finals[t], self.observations[t + 1])
        self.arrays.rewards[:] = self.rewards[t]
        self.arrays.terminated[:] = self.terminated[t]
        self.arrays.truncated[:] = self.truncated[t]
        self.arrays.valid[:] = self.valid[t]
        return self.arrays

    def state(self) -> dict[str, NDArray[Any] | JsonValue]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> NDArray[np.float32]:
        raise NotImplementedError

    def close(self) -> None: ...

    def _reset_between_steps(self) -> None:
        for t in range(1, len(self.valid)):
            self.valid[t] = ~(self.valid[t - 1] & (self.terminated | self.truncated)[t - 1])
            self.terminated[t] &= self.valid[t]
            self.truncated[t] &= self.valid[t]
            self.rewards[t, ~self.valid[t]] = 1e6
        # The second rollout may not begin with reset rows alone.
        middle = (len(self.valid) - 1) // 2
        self.terminated[middle - 1], self.truncated[middle - 1], self.valid[middle] = False, False, True


def normalizer_of(case: Case) -> ObservationNormalizer | None:
    """One that has seen something, but for its last feature, which stays as it is."""
    if not case.normalized:
        return None
    kept = np.arange(case.observation_size) < max(1, case.observation_size - 1)
    normalizer = ObservationNormalizer(case.observation_size, clip=1.5, epsilon=0.5, normalizable=kept)
    normalizer.update(case.generator(5).normal(0.5, 2.0, size=(50, case.observation_size)).astype(np.float32))
    return normalizer


def torch_collector(case: Case) -> Collector:
    return collector_of(Collector, case)


def fused_collector(case: Case) -> FusedCollector:
    return collector_of(FusedCollector, case)


def collector_of(kind: Any, case: Case) -> Any:
    environment = Script(case)
    collector = kind(
        environment,
        policy_of(case),
        normalizer_of(case),
        n_steps=case.ppo.n_steps,
        generator=stream(case.seed, "actions"),
    )
    collector.last_observations = environment.reset()
    return collector


def older_rollout(case: Case) -> Rollout:
    """One whose policy and critic have moved on since, so that some rows are clipped; none stands on a kink."""
    rollout = torch_collector(case).collect()
    generator, now = case.generator(6), case.now
    with torch.inference_mode():
        shift = torch.from_numpy(generator.normal(scale=0.25, size=rollout.log_probs.shape).astype(np.float32))
        for bound in (1 - now.clip_range, 1 + now.clip_range, case.ppo.dual_clip):
            shift[(shift.exp() - bound).abs() < KINK] += 10 * KINK
        change = torch.from_numpy(generator.normal(scale=0.5, size=rollout.values.shape).astype(np.float32))
        if now.clip_range_vf is not None:
            change[(change.abs() - now.clip_range_vf).abs() < KINK] += 10 * KINK
        outputs = generator.normal(scale=0.2, size=rollout.outputs.shape).astype(np.float32)
        log_std = generator.normal(scale=0.1, size=rollout.log_std.shape).astype(np.float32)
        moved = {
            "log_probs": rollout.log_probs - shift,
            "values": rollout.values - change,
            "outputs": rollout.outputs - torch.from_numpy(outputs),
            "log_std": rollout.log_std - torch.from_numpy(log_std),
        }
    same = {name: getattr(rollout, name) for name in Rollout.__dataclass_fields__}
    return Rollout(**{**same, **{name: column.clone() for name, column in moved.items()}})


def as_fused(rollout: Rollout) -> FusedRollout:
    """The same numbers as the fused learner takes them, in memory of their own."""
    fields = {name: np.asarray(getattr(rollout, name)).copy() for name in FusedRollout.__dataclass_fields__}
    if rollout.action_masks is None:
        fields["action_masks"] = np.empty((*rollout.rewards.shape, 0), np.bool_)
    return FusedRollout(**{**fields, "actions": fields["actions"].astype(np.float32)})


def learners(case: Case, **ppo: Any) -> tuple[Learner, FusedLearner]:
    """Both kinds on equal policies; `ppo` is laid over the case's."""
    spec = case.ppo.model_copy(update=ppo)
    return (
        Learner(policy_of(case), spec, stream(case.seed, "minibatches"), value_normalizer=value_normalizer_of(case)),
        FusedLearner(
            policy_of(case), spec, stream(case.seed, "minibatches"), value_normalizer=value_normalizer_of(case)
        ),
    )


def value_normalizer_of(case: Case) -> ValueNormalizer | None:
    """One that has seen something."""
    if not case.values_normalized:
        return None
    normalizer = ValueNormalizer()
    normalizer.update(case.generator(8).normal(0.5, 3.0, size=50).astype(np.float32))
    return normalizer


def in_float64(policy: Policy) -> Policy:
    """A copy that computes in float64; its parameters are no views any more."""
    exact: Policy = copy.deepcopy(policy).double()
    return exact
