"""Which combinations of head, memory, estimator and objective there are, and a small set that has all their pairs."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.presets import resolve
from ppo_engine.spec import InvalidSpec, TrainingSpec

Patch = dict[str, Any]

HEADS: dict[str, tuple[str, Patch]] = {
    "categorical": ("Choice", {}),
    "multi-categorical": ("Choices", {}),
    "bernoulli": ("Bits", {}),
    "masked": ("Masked", {}),
    "gaussian": ("Number", {}),
    "state-dependent": ("Number", {"state_dependent_std": True}),
    "squashed": ("Number", {"squash_output": True}),
    "gsde": ("Number", {"use_sde": True, "sde_sample_freq": 4, "log_std_init": -1.0}),
    "tuple": ("Tuple", {}),
    "dict": ("Dict", {}),
}
"""Environment, and fields of `policy`."""

MEMORIES = ("none", "lstm", "gru")

ESTIMATORS: dict[str, Patch] = {
    "gae": {"gae_lambda": 0.9},
    "monte_carlo": {},
    "td": {},
    "n_step": {"n_step": 3},
}
"""Fields of `ppo`."""

# One step for each rollout, since it has no ratios that would correct for the steps before. Only an entropy bonus keeps
# the deviation of such a policy from vanishing, and its steps from growing with that.
PLAIN = {
    "objective": "none",
    "total_timesteps": 49_152,
    "n_steps": 8,
    "batch_size": 128,
    "n_epochs": 1,
    "learning_rate": {"kind": "linear", "initial": 1e-2, "final": 0.0},
    "ent_coef": 0.05,
    "normalize_advantage": "off",
}
OBJECTIVES: dict[str, Patch] = {
    "clip": {"objective": "clip"},
    "dual_clip": {"objective": "dual_clip"},
    "kl_adaptive": {"objective": "kl_penalty", "kl_penalty": {"kind": "adaptive", "target": 0.03}},
    "kl_dual": {"objective": "kl_penalty", "kl_penalty": {"kind": "dual", "target": 0.03}},
    "none": PLAIN,
    "trpo": {"objective": "trpo", "trpo": {"max_kl": 0.03}, "n_epochs": 1},
}
"""Fields of `ppo`."""


class Combination(NamedTuple):
    head: str
    memory: str
    estimator: str
    objective: str

    def __str__(self) -> str:
        return " ".join(self)


ALL = tuple(Combination(*names) for names in product(HEADS, MEMORIES, ESTIMATORS, OBJECTIVES))


def spec_of(combination: Combination) -> TrainingSpec:
    """What is trained, not resolved. Where there is memory, the cue is forgotten."""
    name, policy = HEADS[combination.head]
    remembers = combination.memory != "none"
    document = {
        "preset": "default",
        "env": {
            "id": f"test/Cue{name}{'Forgotten' if remembers else ''}-v0",
            "n_envs": 16,
            "action_masks": combination.head == "masked",
        },
        "policy": {
            "hidden_sizes": [32],
            "log_std_init": -0.5,
            "memory": combination.memory,
            **({"memory_size": 16, "sequence_length": 8} if remembers else {}),
            **policy,
        },
        "ppo": {
            "total_timesteps": 12_288,
            "n_steps": 16,
            "batch_size": 64,
            "n_epochs": 4,
            "gamma": 0.5,
            "advantage_estimator": combination.estimator,
            "learning_rate": {"kind": "linear", "initial": 5e-3, "final": 0.0},
            "ent_coef": 0.0,
            **ESTIMATORS[combination.estimator],
            **OBJECTIVES[combination.objective],
        },
        "normalize": {"observations": False, "rewards": False},
        "seed": 1,
    }
    return TrainingSpec.model_validate(document)


def refusal(combination: Combination) -> str | None:
    """Why the spec of a combination is refused; None where it is admitted."""
    spec = spec_of(combination)
    try:
        resolve(spec, describe_environment(spec.env.id))
    except InvalidSpec as error:
        return str(error)
    return None


def all_pairs(admitted: Sequence[Combination]) -> list[Combination]:
    """Few of the combinations, in which every two values occur together that do so in any of them.

    Greedy: the next is the first one with the most pairs that are not there yet.
    """
    missing = {pair for combination in admitted for pair in pairs_of(combination)}
    chosen = []
    while missing:
        best = max(admitted, key=lambda combination: len(missing.intersection(pairs_of(combination))))
        chosen.append(best)
        missing.difference_update(pairs_of(best))
    return chosen


def pairs_of(combination: Combination) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Every two of its values, each with the name of its axis."""
    return combinations(zip(Combination._fields, combination, strict=True), 2)
