"""Which code computes a training, as a function of its spec alone."""

from typing import Literal, TypeAlias

from ppo_engine.spec import CriticSpec, KLAdaptiveRate, TrainingSpec

BackendName: TypeAlias = Literal["torch", "fused"]


WIDEST_FUSED = 512
"""Units of a layer. Two layers of 1024 trained 4 to 10 % faster in torch, two of 512 12 to 23 % faster in compiled
loops: CartPole with 4 to 1024 environments, steps per CPU second, one run of each on an Intel Xeon."""


def choose_backend(spec: TrainingSpec) -> tuple[BackendName, str]:
    """The backend of a resolved spec, and why."""
    if spec.backend != "auto":
        return spec.backend, "the spec asks for it"
    obstacle = fused_obstacle(spec)
    if obstacle is not None:
        return "torch", f"the fused backend {obstacle}"
    if max(spec.policy.hidden_sizes, default=0) > WIDEST_FUSED:
        return "torch", f"compiled loops gain nothing on layers of more than {WIDEST_FUSED} units"
    return "fused", "compiled loops are faster for an MLP on the CPU"


def fused_obstacle(spec: TrainingSpec) -> str | None:
    """Why compiled loops cannot compute the training; None where they can."""
    if spec.device == "cuda":
        return "runs on the CPU only"
    if spec.env.vectorization == "device":
        return "steps no environments that are torch's tensors"
    return beyond_both(spec)


def graph_obstacle(spec: TrainingSpec) -> str | None:
    """Why captured graphs on CUDA cannot compute the training; None where they can."""
    if spec.ppo.recompute_advantages:
        return "does not estimate advantages anew between epochs (recompute_advantages)"
    if spec.normalize.values:
        return "does not know values in units of their statistics (normalize.values)"
    if spec.env.action_masks:
        return "does not know action masks"
    ppo = spec.ppo
    if ppo.objective != "clip":
        return f"does not know the objective {ppo.objective}"
    if ppo.kl_penalty is not None:
        return "does not know a penalty on the KL"
    if isinstance(ppo.learning_rate, KLAdaptiveRate):
        return "does not know a learning rate that follows the KL"
    return beyond_both(spec)


def beyond_both(spec: TrainingSpec) -> str | None:
    """What neither compiled loops nor captured graphs know of a training, as "does not know …"; None where they do."""
    if spec.env.atari is not None:
        return "does not know games with several lives"
    policy = spec.policy
    if policy.memory != "none":
        return "does not know policies with memory"
    if policy.network in ("cnn", "impala"):
        return "does not know convolutions"
    if policy.activation not in ("tanh", "relu"):
        return f"does not know the activation {policy.activation}"
    if policy.layer_norm:
        return "does not know layer norm"
    if policy.use_sde:
        return "does not know noise that depends on features (use_sde)"
    if policy.state_dependent_std:
        return "does not know standard deviations that depend on the state (state_dependent_std)"
    ppo = spec.ppo
    if ppo.objective in ("none", "trpo"):
        return f"does not know the objective {ppo.objective}"
    if ppo.rpo_alpha > 0:
        return "does not know perturbed means"
    if ppo.critic != CriticSpec():
        return "does not know an optimiser of the critic's own"
    return None
