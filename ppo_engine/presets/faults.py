"""What is wrong between the fields of a resolved spec, and between it and its environment."""

from typing import cast

from ppo_engine.images import images_of, policy_faults
from ppo_engine.presets.action_faults import action_faults, noise_faults
from ppo_engine.presets.atari import is_atari
from ppo_engine.presets.backends import backend_faults
from ppo_engine.presets.budget import budget_faults
from ppo_engine.presets.estimator_faults import estimator_faults
from ppo_engine.presets.memory_faults import memory_faults
from ppo_engine.presets.objective_faults import objective_faults
from ppo_engine.spec import EnvironmentDescription, SpecFault, TrainingSpec, masking_fault, stacking_fault


def consistency_faults(spec: TrainingSpec, environment: EnvironmentDescription | None = None) -> list[SpecFault]:
    """What is wrong between the fields of a resolved spec, and between it and its environment."""
    faults = _minibatch_faults(spec) + estimator_faults(spec) + objective_faults(spec, environment)
    known = environment if environment is not None and environment.describes(spec.env) else None
    faults += budget_faults(spec, known) + noise_faults(spec)
    if (
        spec.stop.threshold is not None
        and spec.stop.metric == "eval/mean_reward"
        and not spec.evaluation.every_timesteps
    ):
        faults.append(SpecFault("/stop/metric", "eval/mean_reward needs evaluation.every_timesteps"))
    if spec.env.vectorization in ("native", "envpool") and spec.ppo.n_steps < 2:
        message = "the one step of a rollout may be the reset of every environment: 2 are needed at least"
        faults.append(SpecFault("/ppo/n_steps", message))
    faults += memory_faults(spec)
    if spec.env.atari is not None and not is_atari(spec.env.id):
        faults.append(SpecFault("/env/atari", f"{spec.env.id} is no Atari game"))
    faults += [fault for fault in (stacking_fault(spec.env), masking_fault(spec.env)) if fault is not None]
    faults += backend_faults(spec)
    if environment is None:
        return faults
    if not environment.supported:
        faults.append(SpecFault("/env/id", environment.unsupported_reason or "this environment is not supported"))
    if spec.env.vectorization == "native" and not environment.native_vector:
        faults.append(SpecFault("/env/vectorization", f"{environment.id} has no vector form of its own"))
    if spec.env.vectorization in ("batched", "device") and not environment.batched_vector:
        faults.append(SpecFault("/env/vectorization", f"{environment.id} has no {spec.env.vectorization} form"))
    required = cast(list[str], environment.kwargs_schema.get("required", []))
    missing = [name for name in required if name not in spec.env.kwargs]
    faults += [SpecFault("/env/kwargs", f"{environment.id} needs the argument {name}") for name in missing]
    # Arguments may change the spaces: where they are not described, the faults are found when the environment is made.
    if environment.describes(spec.env):
        faults += policy_faults(spec.policy, images_of(environment.observation_space))
    return faults + action_faults(spec, environment)


def _minibatch_faults(spec: TrainingSpec) -> list[SpecFault]:
    rollout_size = spec.env.n_envs * spec.ppo.n_steps
    faults = []
    if spec.ppo.batch_size > rollout_size:
        faults.append(
            SpecFault("/ppo/batch_size", f"{spec.ppo.batch_size} is more than n_envs * n_steps = {rollout_size}")
        )
    if spec.ppo.batch_size < 2 and spec.ppo.normalize_advantage == "minibatch":
        faults.append(SpecFault("/ppo/batch_size", "normalising advantages per minibatch needs at least 2 rows"))
    return faults
