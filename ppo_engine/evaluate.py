"""How well a policy does: whole episodes in an environment of its own, on raw returns.

`python -m ppo_engine.evaluate BUNDLE --episodes 100 --json` evaluates a downloaded policy.
"""

import argparse
import json
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError

from ppo_engine.bundle import load_policy
from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.spaces import ActionSpace, NotInSpace, Observation, ObservationEncoder, action_space_of
from ppo_engine.envs.vector import seed_of
from ppo_engine.errors import EngineError, EnvironmentFailed, EnvironmentPlace, InvalidObservation
from ppo_engine.spec import EnvSpec

MAX_EPISODE_STEPS = 1_000_000
"""Where an episode of an environment without a time limit is cut."""
EVALUATION_KEY = 0x6576616C
"""Spawn key that keeps the command line's episodes apart from every stream of training ("eval" in ASCII)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Undiscounted raw returns and lengths of whole episodes, in the order of the episodes."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean_reward(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std_reward(self) -> float:
        """Over the episodes as a population, as Stable-Baselines3 reports it."""
        return float(np.std(self.returns))

    @property
    def mean_length(self) -> float:
        return float(np.mean(self.lengths))

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean return; None for a single episode."""
        return mean_interval(self.returns)

    def as_json(self) -> dict[str, JsonValue]:
        interval = self.ci95
        return {
            "n_episodes": len(self.returns),
            "mean_reward": self.mean_reward,
            "std_reward": self.std_reward,
            "mean_length": self.mean_length,
            "ci95": None if interval is None else list(interval),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }


def evaluate(
    act: Callable[[NDArray[np.float32]], NDArray[Any]],
    env: EnvSpec,
    *,
    n_episodes: int,
    seeds: np.random.SeedSequence,
    n_envs: int = 8,
) -> Evaluation:
    """Returns of exactly `n_episodes` episodes under `act`.

    Episode k is seeded by child k of `seeds` and belongs to environment k modulo `n_envs` from the start, so short
    episodes do not crowd out long ones, and the answer depends on `n_envs` only as far as `act` does.

    Args:
        act: flat encoded observations [n, D], n ≤ n_envs → action rows.
    Raises:
        EnvironmentFailed: a reset or a step raised.
        InvalidObservation: an observation or reward was not finite, or not of its space.
    """
    seats = [_Seat(env, index, range(index, n_episodes, n_envs), seeds) for index in range(min(n_envs, n_episodes))]
    try:
        running = [seat for seat in seats if seat.begin()]
        while running:
            actions = act(np.stack([seat.observation for seat in running]))
            running = [seat for seat, action in zip(running, actions, strict=True) if seat.step(action)]
    finally:
        for seat in seats:
            seat.environment.close()
    outcomes = {episode: outcome for seat in seats for episode, outcome in seat.outcomes.items()}
    ordered = [outcomes[episode] for episode in range(n_episodes)]
    return Evaluation(tuple(outcome[0] for outcome in ordered), tuple(outcome[1] for outcome in ordered))


def episode_seed(seeds: np.random.SeedSequence, episode: int) -> int:
    """The seed of one episode; deriving it changes nothing in `seeds`."""
    child = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, episode))
    return seed_of(child)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = student_t_975(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def student_t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to three digits from one degree of freedom on.

    Source: exact for 1 and 2 degrees, then Abramowitz and Stegun 26.7.5.
    """
    p = 0.975
    if degrees == 1:
        return math.tan(math.pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    x = NormalDist().inv_cdf(p)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    correction: float = sum(term / degrees**order for order, term in enumerate(terms, start=1))
    return x + correction


@dataclass(slots=True)
class _Seat:
    """One environment that plays its share of the episodes, one after the other."""

    env: EnvSpec
    index: int
    episodes: range
    seeds: np.random.SeedSequence
    environment: gymnasium.Env[Any, Any] = field(init=False)
    encoder: ObservationEncoder = field(init=False)
    actions: ActionSpace = field(init=False)
    observation: NDArray[np.float32] = field(init=False)
    outcomes: dict[int, tuple[float, int]] = field(default_factory=dict)
    total: float = 0.0
    length: int = 0

    def __post_init__(self) -> None:
        self.environment = make_environment(self.env)
        self.encoder = ObservationEncoder(self.environment.observation_space)
        self.actions = action_space_of(self.environment.action_space)

    @property
    def place(self) -> EnvironmentPlace:
        return EnvironmentPlace(self.env.id, self.index, len(self.outcomes), self.length)

    def begin(self) -> bool:
        """Starts the next episode; False when none is left."""
        if len(self.outcomes) == len(self.episodes):
            return False
        self.total, self.length = 0.0, 0
        seed = episode_seed(self.seeds, self.episodes[len(self.outcomes)])
        try:
            observation, _ = self.environment.reset(seed=seed)
        except Exception as error:
            raise EnvironmentFailed(f"reset raised {error!r}", self.place, traceback.format_exc()) from error
        self.observation = self._encoded(observation)
        return True

    def step(self, action: NDArray[Any]) -> bool:
        """Takes one step, and begins the next episode after the last step of one; False when none is left."""
        self.length += 1
        try:
            observation, reward, terminated, truncated, _ = self.environment.step(self.actions.decode(action))
        except Exception as error:
            raise EnvironmentFailed(f"step raised {error!r}", self.place, traceback.format_exc()) from error
        if not math.isfinite(reward):
            raise InvalidObservation(f"reward is {reward}", self.place)
        self.total += float(reward)
        if terminated or truncated or self.length >= MAX_EPISODE_STEPS:
            self.outcomes[self.episodes[len(self.outcomes)]] = (self.total, self.length)
            return self.begin()
        self.observation = self._encoded(observation)
        return True

    def _encoded(self, observation: Observation) -> NDArray[np.float32]:
        try:
            row = self.encoder.encode(observation)
        except NotInSpace as error:
            raise InvalidObservation(str(error), self.place) from error
        if not np.isfinite(row).all():
            raise InvalidObservation("the observation is not finite", self.place)
        return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates a downloaded policy; the exit status is 1 when that is impossible, with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ppo_engine.evaluate", description=main.__doc__)
    parser.add_argument("bundle", type=Path, help="directory with policy.json and policy.safetensors")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-envs", type=int, default=8, help="environments stepped side by side")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.episodes < 1 or options.n_envs < 1 or options.seed < 0:
        parser.error("--episodes and --n-envs must be at least 1, --seed at least 0")
    try:
        answer = _evaluate_bundle(options)
    except (EngineError, OSError, ValidationError, ValueError) as error:
        print(f"cannot evaluate {options.bundle}: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(answer))
    else:
        print(f"{answer['env_id']}: mean return {answer['mean_reward']:.2f} over {answer['n_episodes']} episodes")
    return 0


def _evaluate_bundle(options: argparse.Namespace) -> dict[str, JsonValue]:
    policy = load_policy(options.bundle)
    sequence = np.random.SeedSequence(options.seed, spawn_key=(EVALUATION_KEY,))
    generator = np.random.default_rng(sequence) if options.stochastic else None

    def act(observations: NDArray[np.float32]) -> NDArray[Any]:
        return policy.act(observations, deterministic=generator is None, generator=generator)

    env = EnvSpec.model_validate(policy.manifest.env.model_dump())
    evaluation = evaluate(act, env, n_episodes=options.episodes, seeds=sequence, n_envs=options.n_envs)
    return {
        "env_id": env.id,
        "deterministic": not options.stochastic,
        "seed": options.seed,
        **evaluation.as_json(),
    }


if __name__ == "__main__":
    sys.exit(main())
