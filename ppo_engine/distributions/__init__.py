"""Action distributions as functions of a network's outputs. No branch on data, so they trace, batch and capture.

Sampling takes its randomness as an argument: uniform numbers in [0, 1) for the discrete kinds, standard normals for the
continuous one. Rows of actions are int64 [B, heads] and float32 [B, A].
"""

from ppo_engine.deviations import LOG_STD_BOUNDS
from ppo_engine.distributions.base import Distribution
from ppo_engine.distributions.continuous import (
    DiagonalGaussian,
    ExploringGaussian,
    SquashedGaussian,
    StateDependentGaussian,
)
from ppo_engine.distributions.discrete import Bernoulli, MultiCategorical
from ppo_engine.distributions.product import Product

__all__ = [
    "LOG_STD_BOUNDS",
    "Bernoulli",
    "DiagonalGaussian",
    "Distribution",
    "ExploringGaussian",
    "MultiCategorical",
    "Product",
    "SquashedGaussian",
    "StateDependentGaussian",
]
