"""Presets of Gymnasium's MuJoCo environments, for a million steps.

Published results are of versions 2 to 4. Version 5 differs: Ant observes contact forces and pays for them; Ant, Hopper,
Walker2d and both inverted pendulums are no longer rewarded for the step in which they fall; Walker2d's right foot
slides less; Reacher is rewarded by the state after the step.
"""

from collections.abc import Mapping

from pydantic import JsonValue

from ppo_engine.presets.preset import Preset
from ppo_engine.presets.tianshou import TIANSHOU, recipe
from ppo_engine.spec import KLAdaptiveRate

_NORMALIZED: Mapping[str, JsonValue] = {"recompute_advantages": False, "normalize_advantage": "minibatch"}
_OTHERWISE = f"{TIANSHOU}, but for advantages that are normalised and not recomputed"
_BY_KL = KLAdaptiveRate(kind="kl_adaptive", initial=3e-4, target_kl=0.01, maximum=1e-3).model_dump(mode="json")

PRESETS = (
    *(Preset(env_id, recipe(), TIANSHOU) for env_id in ("Hopper-v5", "Walker2d-v5")),
    Preset(
        "InvertedDoublePendulum-v5",
        # The pole is up after 50,000 steps. Where training goes on, a rare fall among a thousand like steps weighs so
        # much that now and then a policy is lost, unless each update knows more.
        recipe({"total_timesteps": 200_000}, normalize={"observations": False}),
        f"{TIANSHOU}, but for observations that are left as they are, in 200,000 steps; 1 trial of benchmarks/tune.py",
        longer={},
    ),
    Preset(
        "InvertedPendulum-v5",
        recipe({"total_timesteps": 100_000}, normalize={"observations": False}),
        f"{TIANSHOU}, but for observations that are left as they are, in 100,000 steps; 1 trial of benchmarks/tune.py",
    ),
    Preset(
        "Ant-v5",
        # 78 of the 105 numbers are contact forces between -1 and 1, zero nearly always: divided by their own deviation
        # they would drown the rest. Velocities, which reach 15, are divided by theirs. Actions are costly: after
        # 12,000 steps seeds 1000 and 1001 return 212 and 195, where it is -39 and -50 with the recipe's own deviation.
        recipe({"learning_rate": _BY_KL}, log_std_init=-1.0, normalize={"epsilon": 1.0}),
        f"{TIANSHOU}, but for a rate that follows the KL, the first deviation and the epsilon of the observations' "
        "variance; one of 9 trials of benchmarks/tune.py",
    ),
    Preset(
        "HalfCheetah-v5",
        recipe({**_NORMALIZED, "gamma": 0.98}, log_std_init=-1.0, learning_rate=1e-3),
        f"{_OTHERWISE}; learning rate, discount and first deviation by benchmarks/tune.py, the better of 2 trials",
        longer={},
    ),
    Preset(
        "Swimmer-v5",
        recipe(
            {**_NORMALIZED, "n_steps": 1024, "batch_size": 256, "gamma": 0.9999, "gae_lambda": 0.98},
            log_std_init=0.0,
            learning_rate=6e-4,
            n_envs=4,
        ),
        f"{_OTHERWISE}, with discount, rollouts, learning rate and first deviation of RL Baselines3 Zoo; the better of "
        "2 trials of benchmarks/tune.py",
    ),
    Preset(
        "Reacher-v5",
        recipe({**_NORMALIZED, "gamma": 0.95}, log_std_init=-1.0, learning_rate=1e-3),
        f"{_OTHERWISE}; learning rate, discount and first deviation were the first trial of benchmarks/tune.py",
    ),
)
