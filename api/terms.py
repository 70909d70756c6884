"""The terms that scores are earned under: only by scores of the same terms can one say which policy is better.

How a policy sees the environment, which actions it may choose, and what it learns from are no terms but what is
compared: every score is a mean of returns as the environment gives them, over whole episodes.
"""

import json
from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import JsonValue

from ppo_engine.spec import AtariSpec, EnvSpec, EvaluationPlan, TrainingSpec

Score: TypeAlias = Literal["evaluation", "eval/mean_reward", "rollout/ep_rew_mean"]
Terms: TypeAlias = Mapping[str, JsonValue]
"""By the field of a spec that they stand in, such as `env.max_episode_steps`."""

_STEPPING = {"n_envs", "vectorization", "step_timeout_seconds"}
_VIEW = {"frame_stack", "action_masks"}
_ATARI_VIEW = {"screen_size", "grayscale", "terminal_on_life_loss", "clip_rewards"}


def terms_of_training(spec: TrainingSpec, score: Score) -> Terms:
    """What must be equal of two jobs for their scores to be comparable."""
    terms = _task(spec.env)
    if score == "evaluation":
        # Each evaluation has its own.
        del terms["env.max_episode_steps"]
    if score == "eval/mean_reward":
        terms["evaluation.deterministic"] = spec.evaluation.deterministic
    return terms


def terms_of_evaluation(plan: EvaluationPlan) -> Terms:
    """All but how many episodes are played, and from which seed: these say how sure a mean is, not what it means."""
    return {**_task(plan.env), "deterministic": plan.deterministic}


def difference(ours: Terms, theirs: Terms) -> str:
    """Each term that differs, with both its values; empty where none does."""
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} is {_in_words(ours, name)} and {_in_words(theirs, name)}" for name in names)


def _task(env: EnvSpec) -> dict[str, JsonValue]:
    """What episodes are played of; an AtariSpec that is left out is the default one."""
    parts = env.model_dump(mode="json", exclude={"kwargs", "atari"} | _STEPPING | _VIEW)
    terms = {f"env.{name}": value for name, value in parts.items()}
    terms |= {f"env.kwargs.{name}": value for name, value in env.kwargs.items()}
    atari = (env.atari or AtariSpec()).model_dump(mode="json", exclude=_ATARI_VIEW)
    return terms | {f"env.atari.{name}": value for name, value in atari.items()}


def _in_words(terms: Terms, name: str) -> str:
    return json.dumps(terms[name]) if name in terms else "not set"
