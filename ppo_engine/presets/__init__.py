"""Tuned specs per environment, and how a spec becomes a resolved one: general defaults < preset < what the user set.

A preset is a JSON patch of a `TrainingSpec`. Imports neither torch, Gymnasium nor NumPy: the API resolves specs too.
"""

from ppo_engine.presets.budget import parameter_count
from ppo_engine.presets.faults import consistency_faults
from ppo_engine.presets.preset import Preset
from ppo_engine.presets.resolution import resolve
from ppo_engine.presets.tuned import family_presets, preset_of, presets

__all__ = [
    "Preset",
    "consistency_faults",
    "family_presets",
    "parameter_count",
    "preset_of",
    "presets",
    "resolve",
]
