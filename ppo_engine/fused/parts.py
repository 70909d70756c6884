"""Which parts of the engine a training needs compiled, as a function of its spec alone."""

from ppo_engine.envs.batched import is_batched, will_be_batched
from ppo_engine.presets.backends import choose_backend
from ppo_engine.spec import EnvSpec, KLAdaptiveRate, TrainingSpec


def parts_of(spec: TrainingSpec) -> frozenset[str]:
    """Those of `ppo_engine.packs.PARTS` that a resolved spec calls."""
    parts = {"bookkeeping"}
    batched = will_be_batched(spec.env)
    if choose_backend(spec)[0] == "fused":
        parts |= {"learning", "batched" if batched else "stepwise"}
        if spec.ppo.kl_penalty or spec.ppo.recompute_advantages or isinstance(spec.ppo.learning_rate, KLAdaptiveRate):
            parts.add("divergence")
    elif batched:
        parts.add("environments")
    if spec.policy.memory != "none" and spec.device != "cuda":
        parts.add(spec.policy.memory)
    if spec.evaluation.every_timesteps is not None:
        parts |= parts_of_evaluation(spec.env)
    return frozenset(parts)


def parts_of_evaluation(env: EnvSpec) -> frozenset[str]:
    """Those that playing episodes of an environment calls, whatever its vectorization says."""
    return frozenset({"environments"} if is_batched(env) else ())
