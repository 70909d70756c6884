"""How a spec becomes a resolved one: general defaults < preset < what the user set."""

import math
import secrets
from collections.abc import Mapping
from typing import Any

from ppo_engine.images import NetworkName, images_of, network_for
from ppo_engine.presets.action_faults import is_product
from ppo_engine.presets.atari import GAME, is_atari
from ppo_engine.presets.faults import consistency_faults
from ppo_engine.presets.general import GENERAL
from ppo_engine.presets.preset import Patch
from ppo_engine.presets.tuned import preset_of
from ppo_engine.spec import (
    EnvironmentDescription,
    InvalidSpec,
    KLPenaltySpec,
    SpecModel,
    TrainingSpec,
    TRPOSpec,
    settings_made,
)

MAX_METRICS_EVENTS = 10_000
TRPO_CRITIC_EPOCHS = 10
"""As in sb3-contrib."""


def resolve(
    spec: TrainingSpec, environment: EnvironmentDescription | None = None, *, draw_seed: bool = False
) -> TrainingSpec:
    """The spec with every default filled in: general defaults, then the environment's preset, then what the user set.

    Every field of the answer counts as set, so resolving it again changes nothing, whatever the presets become.

    Args:
        environment: picks the general defaults by the kind of its action space, and checks what depends on it.
        draw_seed: draw the seed if there is none.
    Raises:
        InvalidSpec: the fields contradict each other or the environment, or go beyond a budget.
    """
    user = settings_made(spec)
    merged = TrainingSpec(env=spec.env).model_dump(mode="json")
    for patch in (_general(spec, environment), _family(spec), _tuned(spec), user):
        merged = _merge(merged, patch)
    merged["policy"]["network"] = _network(merged, environment)
    _fill_objective(merged["ppo"], user.get("ppo", {}))
    _give_way(merged, user)
    if merged["metrics"]["every_iterations"] is None:
        merged["metrics"]["every_iterations"] = _metrics_window(merged)
    if merged["backend"] == "auto" and environment is not None and is_product(environment.action_space):
        # Which a spec alone does not tell, and compiled loops do not know.
        merged["backend"] = "torch"
    if merged["seed"] is None and draw_seed:
        merged["seed"] = secrets.randbits(32)
    resolved = TrainingSpec.model_validate(merged)
    faults = consistency_faults(resolved, environment)
    if faults:
        raise InvalidSpec(faults)
    return resolved


def _fill_objective(ppo: dict[str, Any], user: Patch) -> None:
    """What an objective needs, where neither preset nor user has it."""
    if ppo["objective"] == "kl_penalty" and ppo["kl_penalty"] is None:
        ppo["kl_penalty"] = KLPenaltySpec().model_dump(mode="json")
    if ppo["objective"] != "trpo":
        return
    if ppo["trpo"] is None:
        ppo["trpo"] = TRPOSpec().model_dump(mode="json")
    if "n_epochs" not in user:
        ppo["n_epochs"] = 1
    rate = ppo["learning_rate"]
    if "learning_rate" not in user and isinstance(rate, dict) and rate["kind"] == "kl_adaptive":
        # Only the critic has a rate, which follows no KL.
        ppo["learning_rate"] = rate["initial"]
    if ppo["critic"].get("n_epochs") is None:
        ppo["critic"] = {**ppo["critic"], "n_epochs": TRPO_CRITIC_EPOCHS}


def _give_way(merged: dict[str, Any], user: Mapping[str, Any]) -> None:
    """What defaults and presets set fits what the user set, where it would contradict that."""
    policy, ppo, own = merged["policy"], merged["ppo"], user.get("ppo", {})
    if "batch_size" not in own:
        ppo["batch_size"] = min(ppo["batch_size"], merged["env"]["n_envs"] * ppo["n_steps"])
    remembers = policy["memory"] != "none"
    if remembers and "sequence_length" not in user.get("policy", {}):
        policy["sequence_length"] = min(policy["sequence_length"], ppo["n_steps"], ppo["batch_size"])
    epochs = max(ppo["n_epochs"], ppo["critic"].get("n_epochs") or 1)
    if "recompute_advantages" not in own and (remembers or epochs == 1):
        ppo["recompute_advantages"] = False


def _general(spec: TrainingSpec, environment: EnvironmentDescription | None) -> Patch:
    if environment is None:
        return {}
    if network_for(spec.policy.network, images_of(environment.observation_space)) != "mlp":
        return GENERAL["image"]
    return GENERAL["box" if environment.action_space.get("type") == "Box" else "discrete"]


def _family(spec: TrainingSpec) -> Patch:
    return GAME if is_atari(spec.env.id) else {}


def _tuned(spec: TrainingSpec) -> Patch:
    preset = preset_of(spec.env.id)
    return preset.spec if preset is not None and spec.preset == "tuned" else {}


def _merge(base: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """`patch` laid over `base`, section by section; a field is replaced whole, so two schedules never mix."""
    merged = dict(base)
    for name, value in patch.items():
        section = TrainingSpec.model_fields[name].annotation
        is_section = isinstance(section, type) and issubclass(section, SpecModel)
        merged[name] = {**base[name], **value} if is_section and isinstance(value, dict) else value
    return merged


def _network(merged: dict[str, Any], environment: EnvironmentDescription | None) -> NetworkName:
    """The network that `auto` stands for, or still `auto` where only the environment itself can tell."""
    network: NetworkName = merged["policy"]["network"]
    if environment is None:
        return network
    images = images_of(environment.observation_space)
    # Arguments may give the environment other observations than it is described with, such as Atari's memory.
    return network if images and merged["env"]["kwargs"] else network_for(network, images)


def _metrics_window(merged: dict[str, Any]) -> int:
    iterations: int = math.ceil(merged["ppo"]["total_timesteps"] / (merged["env"]["n_envs"] * merged["ppo"]["n_steps"]))
    return math.ceil(iterations / MAX_METRICS_EVENTS)
