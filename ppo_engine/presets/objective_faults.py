"""What is wrong between a resolved spec's objective and the settings that belong to one objective or another."""

from collections.abc import Iterator

from ppo_engine.images import images_of, network_for
from ppo_engine.spec import CriticSpec, EnvironmentDescription, KLAdaptiveRate, KLPenaltySpec, SpecFault, TrainingSpec

PENALISED = ("clip", "dual_clip", "kl_penalty")
FIRST_DUAL_CLIP = 3.0


def objective_faults(spec: TrainingSpec, environment: EnvironmentDescription | None) -> list[SpecFault]:
    """One entry per setting that its objective, policy or environment leaves without a meaning."""
    return [
        *_foreign_settings(spec),
        *_numbers(spec),
        *_trust_region(spec),
        *_critic(spec, environment),
        *_rpo(spec, environment),
    ]


def _foreign_settings(spec: TrainingSpec) -> Iterator[SpecFault]:
    ppo = spec.ppo
    if ppo.kl_penalty is not None and ppo.objective not in PENALISED:
        yield SpecFault("/ppo/kl_penalty", f"the objective {ppo.objective} has no penalty")
    if ppo.trpo is not None and ppo.objective != "trpo":
        yield SpecFault("/ppo/trpo", f"these are settings of the objective trpo, not of {ppo.objective}")
    if ppo.dual_clip != FIRST_DUAL_CLIP and ppo.objective != "dual_clip":
        yield SpecFault("/ppo/dual_clip", f"this is a setting of the objective dual_clip, not of {ppo.objective}")


def _numbers(spec: TrainingSpec) -> Iterator[SpecFault]:
    penalty, rate = spec.ppo.kl_penalty, spec.ppo.learning_rate
    if penalty is not None:
        yield from _penalty(penalty)
    if isinstance(rate, KLAdaptiveRate) and not rate.minimum <= rate.initial <= rate.maximum:
        yield SpecFault("/ppo/learning_rate/initial", f"is not between {rate.minimum} and {rate.maximum}")
    if isinstance(rate, KLAdaptiveRate) and rate.final is not None and rate.final > rate.maximum:
        yield SpecFault("/ppo/learning_rate/final", f"is above the maximum, {rate.maximum}, which falls to it")


def _penalty(penalty: KLPenaltySpec) -> Iterator[SpecFault]:
    if penalty.kind != "fixed" and not penalty.minimum <= penalty.coef <= penalty.maximum:
        yield SpecFault("/ppo/kl_penalty/coef", f"is not between {penalty.minimum} and {penalty.maximum}")


def _trust_region(spec: TrainingSpec) -> Iterator[SpecFault]:
    ppo = spec.ppo
    if ppo.objective != "trpo":
        return
    if ppo.n_epochs > 1:
        yield SpecFault("/ppo/n_epochs", "TRPO makes one step per iteration; critic.n_epochs are those of the critic")
    if spec.policy.share_features:
        message = "TRPO's step is for the actor alone: the critic needs layers of its own"
        yield SpecFault("/policy/share_features", message)
    if isinstance(ppo.learning_rate, KLAdaptiveRate):
        yield SpecFault("/ppo/learning_rate", "TRPO bounds the KL of its step itself: only the critic has a rate")
    if ppo.target_kl is not None:
        yield SpecFault("/ppo/target_kl", "trpo.max_kl bounds the KL of TRPO's step")
    if ppo.rpo_alpha > 0:
        yield SpecFault("/ppo/rpo_alpha", "with perturbed means TRPO's step would not start at the policy that acted")


def _critic(spec: TrainingSpec, environment: EnvironmentDescription | None) -> Iterator[SpecFault]:
    is_trpo = spec.ppo.objective == "trpo"
    if spec.ppo.critic == CriticSpec() and not is_trpo:
        return
    message = "one step moves the layers that actor and critic share: the critic has none of its own"
    if spec.policy.share_features and not is_trpo:
        yield SpecFault("/ppo/critic", message)
    elif spec.policy.memory != "none" or (environment is not None and _sees_images(spec, environment)):
        yield SpecFault("/ppo/objective" if is_trpo else "/ppo/critic", message)


def _sees_images(spec: TrainingSpec, environment: EnvironmentDescription) -> bool:
    # Arguments may change the observation space: where they are not described, the fault is found when it is made.
    return (
        environment.describes(spec.env)
        and network_for(spec.policy.network, images_of(environment.observation_space)) != "mlp"
    )


def _rpo(spec: TrainingSpec, environment: EnvironmentDescription | None) -> Iterator[SpecFault]:
    # Arguments may change the action space: where they are not described, the fault is found when it is made.
    if environment is None or not environment.describes(spec.env) or spec.ppo.rpo_alpha == 0:
        return
    if environment.action_space.get("type") != "Box":
        message = f"{environment.id}: its action is no Box, whose mean could be perturbed"
        yield SpecFault("/ppo/rpo_alpha", message)
