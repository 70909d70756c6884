"""Which code computes a training, as a function of its spec alone: each backend states every value that it knows.

What a backend does not state it does not compute: a field or a choice that is new to the spec is refused until someone
says here who knows it. Keys are paths of fields, values what a field may be: one of these values, or of these types.
"""

import json
from collections.abc import Iterator
from typing import Literal, TypeAlias

from pydantic import BaseModel

from ppo_engine.spec import (
    AtariSpec,
    BudgetSpec,
    CheckpointSpec,
    CriticSpec,
    EnvSpec,
    EvaluationSpec,
    KLAdaptiveRate,
    KLPenaltySpec,
    LinearSchedule,
    MetricsSpec,
    NormalizeSpec,
    PolicySpec,
    PPOSpec,
    SpecFault,
    StopSpec,
    TrainingSpec,
    TRPOSpec,
)

BackendName: TypeAlias = Literal["torch", "fused"]
Known: TypeAlias = dict[str, tuple[object, ...]]

WIDEST_FUSED = 512
"""Units of a layer. Two layers of 1024 trained 4 to 10 % faster in torch, two of 512 12 to 23 % faster in compiled
loops: CartPole with 4 to 1024 environments, steps per CPU second, one run of each on an Intel Xeon."""

JOB: Known = {
    "name": (str, None),
    "metadata": (dict,),
    "preset": ("tuned", "default"),
    "seed": (int, None),
    "evaluation": (EvaluationSpec,),
    "evaluation.every_timesteps": (int, None),
    "evaluation.n_episodes": (int,),
    "evaluation.deterministic": (False, True),
    "checkpoints": (CheckpointSpec,),
    "checkpoints.every_timesteps": (int, None),
    "checkpoints.every_seconds": (float, None),
    "checkpoints.keep_last": (int,),
    "checkpoints.keep_best": (int,),
    "metrics": (MetricsSpec,),
    "metrics.every_iterations": (int, None),
    "stop": (StopSpec,),
    "stop.metric": ("rollout/ep_rew_mean", "eval/mean_reward"),
    "stop.threshold": (float, None),
    "budget": (BudgetSpec,),
    "budget.max_wall_seconds": (float, None),
    "max_attempts": (int,),
    "group": (str, None),
    "priority": (int,),
}
"""What is done around iterations, whoever computes them."""

COMMON: Known = JOB | {
    "env": (EnvSpec,),
    "env.id": (str,),
    "env.kwargs": (dict,),
    "env.n_envs": (int,),
    "env.max_episode_steps": (int, None),
    "env.frame_stack": (int,),
    "env.step_timeout_seconds": (float,),
    "policy": (PolicySpec,),
    "policy.hidden_sizes": (tuple,),
    "policy.autocast": ("off", "bf16"),
    "policy.share_features": (False, True),
    "policy.log_std_init": (float,),
    "policy.squash_output": (False, True),
    "policy.memory_size": (int,),
    "policy.sequence_length": (int,),
    "ppo": (PPOSpec,),
    "ppo.total_timesteps": (int,),
    "ppo.n_steps": (int,),
    "ppo.batch_size": (int,),
    "ppo.n_epochs": (int,),
    "ppo.gamma": (float,),
    "ppo.gae_lambda": (float,),
    "ppo.advantage_estimator": ("gae", "monte_carlo", "td", "n_step"),
    "ppo.n_step": (int, None),
    "ppo.learning_rate.kind": ("linear", "kl_adaptive"),
    "ppo.learning_rate.initial": (float,),
    "ppo.learning_rate.final": (float,),
    "ppo.clip_range": (float, LinearSchedule),
    "ppo.clip_range.kind": ("linear",),
    "ppo.clip_range.initial": (float,),
    "ppo.clip_range.final": (float,),
    "ppo.dual_clip": (float,),
    "ppo.clip_range_vf": (float, LinearSchedule, None),
    "ppo.clip_range_vf.kind": ("linear",),
    "ppo.clip_range_vf.initial": (float,),
    "ppo.clip_range_vf.final": (float,),
    "ppo.normalize_advantage": ("minibatch", "batch", "off"),
    "ppo.ent_coef": (float, LinearSchedule),
    "ppo.ent_coef.kind": ("linear",),
    "ppo.ent_coef.initial": (float,),
    "ppo.ent_coef.final": (float,),
    "ppo.vf_coef": (float,),
    "ppo.critic": (CriticSpec,),
    "ppo.max_grad_norm": (float,),
    "ppo.target_kl": (float, None),
    "normalize": (NormalizeSpec,),
    "normalize.observations": (False, True),
    "normalize.rewards": (False, True),
    "normalize.epsilon": (float,),
    "normalize.clip_observations": (float,),
    "normalize.clip_rewards": (float,),
}
"""What every backend computes. Some fields mean nothing without another one, which only some backends know."""

KL_FOLLOWERS: Known = {
    "ppo.learning_rate": (float, LinearSchedule, KLAdaptiveRate),
    "ppo.learning_rate.final": (float, None),
    "ppo.learning_rate.target_kl": (float,),
    "ppo.learning_rate.minimum": (float,),
    "ppo.learning_rate.maximum": (float,),
    "ppo.learning_rate.factor": (float,),
    "ppo.kl_penalty": (None, KLPenaltySpec),
    "ppo.kl_penalty.kind": ("fixed", "adaptive", "dual"),
    "ppo.kl_penalty.coef": (float,),
    "ppo.kl_penalty.target": (float,),
    "ppo.kl_penalty.factor": (float,),
    "ppo.kl_penalty.step_size": (float,),
    "ppo.kl_penalty.stiffness": (float,),
    "ppo.kl_penalty.minimum": (float,),
    "ppo.kl_penalty.maximum": (float,),
}

TORCH: Known = (
    COMMON
    | KL_FOLLOWERS
    | {
        "device": ("auto", "cpu", "cuda"),
        "backend": ("auto", "torch"),
        "env.vectorization": ("auto", "sync", "process", "batched", "native", "envpool"),
        "env.action_masks": (False, True),
        "env.atari": (None, AtariSpec),
        "env.atari.frame_skip": (int,),
        "env.atari.screen_size": (int,),
        "env.atari.grayscale": (False, True),
        "env.atari.noop_max": (int,),
        "env.atari.fire_reset": (False, True),
        "env.atari.terminal_on_life_loss": (False, True),
        "env.atari.clip_rewards": (False, True),
        "policy.network": ("auto", "mlp", "cnn", "impala"),
        "policy.activation": ("tanh", "relu", "elu", "silu", "gelu", "leaky_relu"),
        "policy.layer_norm": (False, True),
        "policy.state_dependent_std": (False, True),
        "policy.use_sde": (False, True),
        "policy.sde_sample_freq": (int, None),
        "policy.memory": ("none", "lstm", "gru"),
        "ppo.recompute_advantages": (False, True),
        "ppo.objective": ("clip", "dual_clip", "kl_penalty", "none", "trpo"),
        "ppo.trpo": (None, TRPOSpec),
        "ppo.trpo.max_kl": (float,),
        "ppo.trpo.cg_steps": (int,),
        "ppo.trpo.cg_damping": (float,),
        "ppo.trpo.line_search_steps": (int,),
        "ppo.trpo.line_search_shrink": (float,),
        "ppo.rpo_alpha": (float,),
        "ppo.critic.learning_rate": (float, LinearSchedule, None),
        "ppo.critic.learning_rate.kind": ("linear",),
        "ppo.critic.learning_rate.initial": (float,),
        "ppo.critic.learning_rate.final": (float,),
        "ppo.critic.n_epochs": (int, None),
        "normalize.values": (False, True),
    }
)
"""The plain path: what it does not know, nobody does."""

PLAIN: Known = {
    "env.atari": (None,),
    "policy.network": ("auto", "mlp"),
    "policy.activation": ("tanh", "relu"),
    "policy.layer_norm": (False,),
    "policy.state_dependent_std": (False,),
    "policy.use_sde": (False,),
    "policy.sde_sample_freq": (None,),
    "policy.memory": ("none",),
    "ppo.trpo": (None,),
    "ppo.rpo_alpha": (0.0,),
    "ppo.critic.learning_rate": (None,),
    "ppo.critic.n_epochs": (None,),
}
"""Whatever else may be asked for of these, compiled loops and captured graphs do not know it."""

FUSED: Known = (
    COMMON
    | KL_FOLLOWERS
    | PLAIN
    | {
        "device": ("auto", "cpu"),
        "backend": ("auto", "fused"),
        "env.vectorization": ("auto", "sync", "process", "batched", "native", "envpool"),
        "env.action_masks": (False, True),
        "ppo.recompute_advantages": (False, True),
        "ppo.objective": ("clip", "dual_clip", "kl_penalty"),
        "normalize.values": (False, True),
    }
)
"""Compiled loops on the CPU."""

GRAPHS: Known = (
    COMMON
    | PLAIN
    | {
        "device": ("auto", "cpu", "cuda"),
        "backend": ("auto", "torch"),
        # A graph is of one shape: what resets in steps of its own does not fill every row.
        "env.vectorization": ("auto", "sync", "process", "batched", "device"),
        "env.action_masks": (False,),
        "ppo.learning_rate": (float, LinearSchedule),
        "ppo.kl_penalty": (None,),
        "ppo.recompute_advantages": (False,),
        "ppo.objective": ("clip",),
        "normalize.values": (False,),
    }
)
"""Updates that are captured as CUDA graphs."""


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
    return _obstacle(spec, FUSED)


def graph_obstacle(spec: TrainingSpec) -> str | None:
    """Why captured graphs on CUDA cannot compute the training; None where they can."""
    return _obstacle(spec, GRAPHS)


def backend_faults(spec: TrainingSpec) -> list[SpecFault]:
    """What of a resolved spec those who are to compute it do not know."""
    if spec.backend == "fused":
        obstacle = fused_obstacle(spec)
        return [] if obstacle is None else [SpecFault("/backend", f"the fused backend {obstacle}")]
    if spec.env.vectorization == "device":
        obstacle = graph_obstacle(spec)
        return [] if obstacle is None else [SpecFault("/env/vectorization", f"the learner on the device {obstacle}")]
    return [
        SpecFault(f"/{field.replace('.', '/')}", f"no backend knows {_in_words(field, value)}")
        for field, value in unknown(spec, TORCH)
    ]


def unknown(model: BaseModel, known: Known, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each field of a model that has a value which is not known, and the value."""
    for name in type(model).model_fields:
        field, value = f"{prefix}{name}", getattr(model, name)
        if not any(_is_one(value, choice) for choice in known.get(field, ())):
            yield field, value
        elif isinstance(value, BaseModel):
            yield from unknown(value, known, f"{field}.")


def _is_one(value: object, choice: object) -> bool:
    if isinstance(value, bool) or choice is None:
        return value is choice
    if choice is float:
        return isinstance(value, float | int)
    return isinstance(value, choice) if isinstance(choice, type) else value == choice


def _obstacle(spec: TrainingSpec, known: Known) -> str | None:
    first = next(unknown(spec, known), None)
    return None if first is None else f"does not know {_in_words(*first)}"


def _in_words(field: str, value: object) -> str:
    """`policy.layer_norm = true`, and of a whole section its name."""
    return f"{field} = {json.dumps(value)}" if isinstance(value, bool | int | float | str | None) else field
