"""How well a policy does: whole episodes in an environment of its own, on raw returns.

`python -m ppo_engine.evaluate BUNDLE --episodes 100 --json` evaluates a downloaded policy.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError

from ppo_engine.aggregates import interquartile_mean, interquartile_mean_bootstrap, mean_bootstrap
from ppo_engine.bundle import LoadedPolicy, load_policy
from ppo_engine.envs.batched import is_batched
from ppo_engine.envs.masks import GivesMasks
from ppo_engine.envs.registry import episode_limit
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.state.generators import apart
from ppo_engine.envs.vector import VectorEnvironment, make_vector_environment
from ppo_engine.errors import EngineError, TrainingDiverged
from ppo_engine.fused.compile import require
from ppo_engine.fused.parts import parts_of_evaluation
from ppo_engine.recurrent.acting import Remembering
from ppo_engine.spec import EnvSpec, EvaluationPlan

MAX_EPISODE_STEPS = 27_000
"""Where an episode without a limit is cut: the longest games of Atari's standard, half an hour, have as many steps. A
number that depended on more than the environment would make the scores of two jobs incomparable."""
CUTS = "eval/n_cut"
EVALUATION_KEY = 0x6576616C
"""Spawn key that keeps an evaluation's own episodes apart from every stream of training ("eval" in ASCII)."""
INTERRUPTED_STATUS = 130
"""As shells have it: 128 + SIGINT."""
_EPISODES, _ACTIONS = 0, 1
"""Below it and the block's number: what environments are seeded with, and what actions are sampled by."""


class Acts(Protocol):
    """What gives action rows for flat encoded observations [n, D], which it must not keep."""

    def __call__(self, observations: Rows, masks: NDArray[np.bool_] | None = None, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Playing:
    """How far the episodes of an evaluation have come; each environment has a share of them."""

    shares: Sequence[int]
    played: list[list[tuple[float, int]]]
    """(return, length) of each environment's episodes, more than its share where others take longer."""
    lengths: NDArray[np.int64]
    """Of the episode that is under way in each environment."""

    @property
    def is_over(self) -> bool:
        return all(len(episodes) >= share for episodes, share in self._seats())

    @property
    def episodes(self) -> int:
        """That count and have ended."""
        return sum(min(len(episodes), share) for episodes, share in self._seats())

    @property
    def timesteps(self) -> int:
        """Of the episodes that count, those under way among them."""
        total = 0
        for seat, (episodes, share) in enumerate(self._seats()):
            total += sum(length for _, length in episodes[:share])
            total += int(self.lengths[seat]) if len(episodes) < share else 0
        return total

    def _seats(self) -> Iterator[tuple[list[tuple[float, int]], int]]:
        return zip(self.played, self.shares, strict=True)


Meanwhile: TypeAlias = Callable[[Playing], None]
"""Called between the steps of an evaluation; what it raises ends the evaluation, which can be begun again."""


def unwatched(playing: Playing) -> None:
    """Nobody looks on."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Undiscounted raw returns and lengths of whole episodes, in the order of the episodes."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    n_cut: int = 0
    """Episodes that did not end within MAX_EPISODE_STEPS, where no other limit was set."""

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

    def statistics(self) -> dict[str, JsonValue]:
        """Everything but the episodes themselves; intervals are of 95 %, by bootstrap, and null for one episode."""
        mean, iqm = mean_bootstrap(self.returns), interquartile_mean_bootstrap(self.returns)
        return {
            "n_episodes": len(self.returns),
            "mean_reward": self.mean_reward,
            "ci95": None if mean is None else list(mean),
            "iqm_reward": interquartile_mean(self.returns),
            "iqm_ci95": None if iqm is None else list(iqm),
            "std_reward": self.std_reward,
            "mean_length": self.mean_length,
            "n_cut": self.n_cut,
        }

    def metrics(self) -> dict[str, float]:
        """The same as metrics of training; a single episode has no intervals."""
        metrics = {
            "eval/n_episodes": float(len(self.returns)),
            "eval/mean_reward": self.mean_reward,
            "eval/std_reward": self.std_reward,
            "eval/iqm_reward": interquartile_mean(self.returns),
            "eval/mean_ep_length": self.mean_length,
        }
        if (interval := mean_bootstrap(self.returns)) is not None:
            metrics |= {"eval/mean_reward_low": interval[0], "eval/mean_reward_high": interval[1]}
        if (interval := interquartile_mean_bootstrap(self.returns)) is not None:
            metrics |= {"eval/iqm_reward_low": interval[0], "eval/iqm_reward_high": interval[1]}
        return metrics | self.cuts()

    def cuts(self) -> dict[str, float]:
        """How many episodes had no end, as a metric; none where all had one."""
        return {CUTS: float(self.n_cut)} if self.n_cut else {}

    def as_json(self) -> dict[str, JsonValue]:
        return {**self.statistics(), "returns": list(self.returns), "lengths": list(self.lengths)}


def joined(evaluations: Iterable[Evaluation]) -> Evaluation:
    """One evaluation of all their episodes, in order."""
    parts = list(evaluations)
    return Evaluation(
        tuple(value for part in parts for value in part.returns),
        tuple(length for part in parts for length in part.lengths),
        sum(part.n_cut for part in parts),
    )


def evaluate_blocks(
    policy: LoadedPolicy, plan: EvaluationPlan, *, first: int = 0, meanwhile: Meanwhile = unwatched
) -> Iterator[Evaluation]:
    """The blocks of a plan from the `first` on, each when its episodes have been played.

    Raises: UnknownEnvironment, UnsupportedSpace, InvalidSpec, EnvironmentFault, TrainingDiverged.
    """
    for block in range(first, plan.blocks):
        generator = None if plan.deterministic else np.random.default_rng(block_seeds(plan.seed, block, _ACTIONS))
        yield evaluate(
            acting(policy, generator),
            plan.env,
            n_episodes=plan.episodes_until(block + 1) - plan.episodes_until(block),
            seeds=block_seeds(plan.seed, block, _EPISODES),
            n_envs=plan.env.n_envs,
            meanwhile=meanwhile,
        )


def block_seeds(seed: int, block: int, purpose: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY, block, purpose))


def acting(policy: LoadedPolicy, generator: np.random.Generator | None = None) -> Acts:
    """What acts in one environment per row: by the likeliest actions, or by those that `generator` draws."""

    def step(
        observations: Rows, state: NDArray[np.float32], masks: NDArray[np.bool_] | None
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        return policy.step(observations, state, masks, deterministic=generator is None, generator=generator)

    def act(observations: Rows, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        return policy.act(observations, masks=masks, deterministic=generator is None, generator=generator)

    return Remembering(step, policy.state_size) if policy.state_size else act


def evaluate(
    act: Acts,
    env: EnvSpec,
    *,
    n_episodes: int,
    seeds: np.random.SeedSequence,
    n_envs: int = 8,
    meanwhile: Meanwhile = unwatched,
) -> Evaluation:
    """Returns of exactly `n_episodes` episodes under `act`.

    Which environment plays how many episodes is settled before the first step, so short episodes do not crowd out long
    ones. Each environment draws from a child of `seeds` of its own, which leaves `seeds` as it is.

    Args:
        act: flat encoded observations [n, D], n = min(n_envs, n_episodes) → action rows; where `env` asks for action
            masks, it is given these too.
            `Remembering` is told when episodes end.
        meanwhile: called between steps; it changes nothing that is played, and may raise to end it.
    Raises: UnknownEnvironment, UnsupportedSpace, InvalidSpec, EnvironmentFault; TrainingDiverged where a return is
        not finite.
    """
    require(parts_of_evaluation(env))
    seats = min(n_envs, n_episodes)
    shares = [len(range(seat, n_episodes, seats)) for seat in range(seats)]
    # A training's own environments may draw from the global generators: they go on where they were.
    with apart():
        environments = make_vector_environment(_seated(env, seats), [_child(seeds, seat) for seat in range(seats)])
        try:
            played = _play(act, environments, shares, meanwhile)
        finally:
            environments.close()
    episodes = [played[episode % seats][episode // seats] for episode in range(n_episodes)]
    if not all(math.isfinite(total) for total, _ in episodes):
        raise TrainingDiverged(f"the return of an episode of {env.id} is not finite")
    lengths = tuple(length for _, length in episodes)
    n_cut = 0 if episode_limit(env) is not None else sum(length >= MAX_EPISODE_STEPS for length in lengths)
    return Evaluation(tuple(total for total, _ in episodes), lengths, n_cut)


def _play(
    act: Acts, environments: VectorEnvironment, shares: Sequence[int], meanwhile: Meanwhile
) -> list[list[tuple[float, int]]]:
    """(return, length) of each environment's episodes, its share of them at least."""
    totals, lengths = np.zeros(len(shares)), np.zeros(len(shares), dtype=np.int64)
    playing = Playing(shares, [[] for _ in shares], lengths)
    observations = environments.reset()
    while not playing.is_over:
        meanwhile(playing)
        masks = environments.action_masks if isinstance(environments, GivesMasks) else None
        step = environments.step(act(observations) if masks is None else act(observations, masks))
        observations = step.observations
        totals += step.rewards
        lengths += 1
        ended = step.terminated | step.truncated
        if isinstance(act, Remembering):
            act.forget(ended)
        for seat in np.flatnonzero(ended).tolist():
            playing.played[seat].append((float(totals[seat]), int(lengths[seat])))
            totals[seat], lengths[seat] = 0.0, 0
    return playing.played


def _seated(env: EnvSpec, seats: int) -> EnvSpec:
    limit = episode_limit(env) or MAX_EPISODE_STEPS
    form = "batched" if env.frame_stack == 1 and not env.action_masks and is_batched(env) else "sync"
    return env.model_copy(update={"n_envs": seats, "vectorization": form, "max_episode_steps": limit})


def _child(seeds: np.random.SeedSequence, seat: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, seat))


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
    except KeyboardInterrupt:
        print(f"interrupted: the {options.episodes} episodes have not all been played", file=sys.stderr)
        return INTERRUPTED_STATUS
    if options.json:
        print(json.dumps(answer))
    else:
        print(in_words(answer))
    return 0


def in_words(answer: Mapping[str, Any]) -> str:
    """`CartPole-v1: mean return 498.21 (495.20 to 500.00), interquartile mean 500.00 (…) over 100 episodes`."""
    parts = []
    for name, key, interval in (
        ("mean return", "mean_reward", "ci95"),
        ("interquartile mean", "iqm_reward", "iqm_ci95"),
    ):
        bounds = answer[interval]
        parts.append(f"{name} {answer[key]:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""))
    words = f"{answer['env_id']}: {', '.join(parts)} over {answer['n_episodes']} episodes"
    return words + (f"; {cut_in_words(answer['n_cut'])}" if answer["n_cut"] else "")


def cut_in_words(n_cut: int) -> str:
    return f"{n_cut} had no end within {MAX_EPISODE_STEPS:,} steps and were cut there: set env.max_episode_steps"


def _evaluate_bundle(options: argparse.Namespace) -> dict[str, JsonValue]:
    policy = load_policy(options.bundle)
    env = EnvSpec.model_validate({**policy.manifest.env.model_dump(), "n_envs": options.n_envs})
    plan = EvaluationPlan(env=env, n_episodes=options.episodes, seed=options.seed, deterministic=not options.stochastic)
    return {
        "env_id": env.id,
        "deterministic": plan.deterministic,
        "seed": plan.seed,
        **joined(evaluate_blocks(policy, plan)).as_json(),
    }


if __name__ == "__main__":
    sys.exit(main())
