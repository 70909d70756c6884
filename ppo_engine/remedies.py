"""Changes of a spec that may help a training: each makes another spec that can be trained, or is empty.

A change is a JSON patch of the resolved spec that means the same whether fields of a section are replaced, as a client
and presets do, or what they hold is set one by one, as `ppo train --set` does.
"""

from typing import Literal, TypeAlias

from pydantic import JsonValue

from ppo_engine.spec import KLAdaptiveRate, SpecModel, TrainingSpec, TRPOSpec

Patch: TypeAlias = dict[str, JsonValue]


def patch(spec: TrainingSpec, section: Literal["policy", "ppo", "normalize"], **fields: JsonValue) -> Patch:
    """Those of the fields that the spec has otherwise; empty where it has none, as where a value is at its bound."""
    own = getattr(spec, section).model_dump(mode="json")
    changed = {name: value for name, value in fields.items() if value != own[name]}
    return {section: changed} if changed else {}


def smaller_change(spec: TrainingSpec) -> Patch:
    """Bound the KL of an iteration, or where it is bounded already, halve the steps towards it."""
    if spec.ppo.objective == "trpo":
        return _smaller_trust_region(spec)
    return patch(spec, "ppo", target_kl=0.03) if spec.ppo.target_kl is None else slower(spec)


def slower(spec: TrainingSpec) -> Patch:
    """Half the learning rate, of the same schedule."""
    rate = spec.ppo.learning_rate
    if isinstance(rate, float):
        return patch(spec, "ppo", learning_rate=_half(rate))
    initial = _half(rate.initial)
    halved: Patch = {**rate.model_dump(mode="json"), "initial": initial}
    if isinstance(rate, KLAdaptiveRate):
        halved["minimum"] = min(rate.minimum, initial)
        if rate.final is not None:
            maximum = max(initial, _half(rate.maximum))
            halved |= {"maximum": maximum, "final": min(rate.final, maximum)}
    return patch(spec, "ppo", learning_rate=halved)


def more_exploration(spec: TrainingSpec) -> JsonValue:
    """Twice the coefficient of the entropy bonus, of the same schedule, as far as it goes."""
    coefficient = spec.ppo.ent_coef
    if isinstance(coefficient, float):
        return min(10.0, max(0.01, 2 * coefficient))
    return {**coefficient.model_dump(mode="json"), "initial": min(1e3, max(0.01, 2 * coefficient.initial))}


def better_critic(spec: TrainingSpec) -> Patch:
    """Layers of the critic's own, then returns of order 1, then more epochs."""
    if spec.policy.share_features and spec.policy.hidden_sizes:
        return patch(spec, "policy", share_features=False)
    if not spec.normalize.rewards:
        return patch(spec, "normalize", rewards=True)
    return _more_epochs_of_the_critic(spec)


def smaller_value_loss(spec: TrainingSpec) -> Patch:
    """Returns of order 1, then a tenth of the weight."""
    if not spec.normalize.rewards:
        return patch(spec, "normalize", rewards=True)
    return patch(spec, "ppo", vf_coef=spec.ppo.vf_coef / 10)


def _smaller_trust_region(spec: TrainingSpec) -> Patch:
    settings = spec.ppo.trpo or TRPOSpec()
    max_kl = _half(settings.max_kl)
    return {} if max_kl == settings.max_kl else patch(spec, "ppo", trpo=_with(settings, max_kl=max_kl))


def _more_epochs_of_the_critic(spec: TrainingSpec) -> Patch:
    """Twice as many: without the actor where they are the critic's own already, or where more would lead it astray."""
    policy, ppo = spec.policy, spec.ppo
    epochs = ppo.critic.n_epochs or ppo.n_epochs
    more = min(1000, 2 * epochs)
    if more == epochs:
        return {}
    if ppo.critic.n_epochs is None and ppo.objective not in ("none", "trpo"):
        return patch(spec, "ppo", n_epochs=more)
    has_own_layers = policy.network == "mlp" and policy.memory == "none" and not policy.share_features
    return patch(spec, "ppo", critic=_with(ppo.critic, n_epochs=more)) if has_own_layers else {}


def _with(part: SpecModel, **changes: JsonValue) -> Patch:
    """A part of a section with the changes; what it leaves out is as it is by default, however it is laid over."""
    return {**part.model_dump(mode="json", exclude_defaults=True), **changes}


def _half(value: float) -> float:
    """The least number that there is has no half."""
    return value / 2 or value
