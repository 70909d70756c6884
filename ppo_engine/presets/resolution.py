"""How a spec becomes a resolved one: general defaults < preset < what the user set."""

import math
import secrets
from collections.abc import Mapping
from typing import Any

from ppo_engine.images import images_of, network_for
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
_GENERAL_FIELDS: set[tuple[str, str]] = {
    (section, name)
    for general in GENERAL.values()
    for section, fields in general.items()
    if isinstance(fields, dict)
    for name in fields
}
_SETTLED_LATE = _GENERAL_FIELDS | {
    ("policy", "network"),
    ("policy", "sequence_length"),
    ("ppo", "recompute_advantages"),
    ("metrics", "every_iterations"),
}
"""The fields that depend on the environment's spaces: those of the general defaults, and what follows."""


def resolve(
    spec: TrainingSpec, environment: EnvironmentDescription | None = None, *, draw_seed: bool = False
) -> TrainingSpec:
    """The spec with every default filled in: general defaults, then the environment's preset, then what the user set.

    Every field of the answer counts as set, so resolving it again changes nothing, whatever the presets become. Where
    the environment is described without the arguments that the spec gives it, those that depend on its spaces are left
    unset, unless the user set them: they are settled by resolving the answer again where the environment is made.

    Args:
        environment: picks the general defaults by its spaces, and checks what depends on it.
        draw_seed: draw the seed if there is none.
    Raises:
        InvalidSpec: the fields contradict each other or the environment, or go beyond a budget.
    """
    if spec.seed is None and draw_seed:
        spec = spec.model_copy(update={"seed": secrets.randbits(32)})
    if environment is None or environment.describes(spec.env):
        return _resolved(spec, environment, _general(spec, environment))
    refusals, accepted = [], None
    for general in GENERAL.values():
        try:
            accepted = _resolved(spec, environment, general)
        except InvalidSpec as error:
            refusals.append(error)
    if accepted is None:
        # Whatever its spaces turn out to be.
        raise refusals[0]
    return _unsettled(accepted, settings_made(spec))


def _resolved(spec: TrainingSpec, environment: EnvironmentDescription | None, general: Patch) -> TrainingSpec:
    user = settings_made(spec)
    merged = TrainingSpec(env=spec.env).model_dump(mode="json")
    for patch in (general, _family(spec), _tuned(spec, user), user):
        merged = _merge(merged, patch)
    if environment is not None and environment.describes(spec.env):
        merged["policy"]["network"] = network_for(merged["policy"]["network"], images_of(environment.observation_space))
    _fill_objective(merged["ppo"], user.get("ppo", {}))
    _give_way(merged, user)
    if merged["metrics"]["every_iterations"] is None:
        merged["metrics"]["every_iterations"] = _metrics_window(merged)
    if merged["backend"] == "auto" and environment is not None and is_product(environment.action_space):
        # Which a spec alone does not tell, and compiled loops do not know.
        merged["backend"] = "torch"
    resolved = TrainingSpec.model_validate(merged)
    faults = consistency_faults(resolved, environment)
    if faults:
        raise InvalidSpec(faults)
    return resolved


def _unsettled(resolved: TrainingSpec, user: Mapping[str, Any]) -> TrainingSpec:
    """The spec without what only the environment's true spaces tell, and without what follows from that."""
    document = resolved.model_dump(mode="json")
    for section, name in _SETTLED_LATE:
        said = user.get(section, {})
        if isinstance(said, dict) and name not in said:
            del document[section][name]
    if "backend" not in user:
        del document["backend"]
    return TrainingSpec.model_validate(document)


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


def _tuned(spec: TrainingSpec, user: Mapping[str, Any]) -> Patch:
    preset = preset_of(spec.env.id)
    return preset.patch(user.get("ppo", {})) if preset is not None and spec.preset == "tuned" else {}


def _merge(base: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """`patch` laid over `base`, section by section; a field is replaced whole, so two schedules never mix."""
    merged = dict(base)
    for name, value in patch.items():
        section = TrainingSpec.model_fields[name].annotation
        is_section = isinstance(section, type) and issubclass(section, SpecModel)
        merged[name] = {**base[name], **value} if is_section and isinstance(value, dict) else value
    return merged


def _metrics_window(merged: dict[str, Any]) -> int:
    iterations: int = math.ceil(merged["ppo"]["total_timesteps"] / (merged["env"]["n_envs"] * merged["ppo"]["n_steps"]))
    return math.ceil(iterations / MAX_METRICS_EVENTS)
