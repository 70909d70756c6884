"""All presets together."""

from fnmatch import fnmatchcase

from ppo_engine.presets import atari, box2d, classic_control, minigrid, mujoco
from ppo_engine.presets.preset import Preset

_TUNED = (classic_control.PRESETS, box2d.PRESETS, mujoco.PRESETS)
_OF_FAMILIES = (*atari.PRESETS, *minigrid.PRESETS)


def presets() -> dict[str, Preset]:
    """The presets of single environments, by id."""
    return {preset.env_id: preset for family in _TUNED for preset in family}


def family_presets() -> tuple[Preset, ...]:
    """The presets of families, whose `env_id` is a pattern of the ids that they hold for."""
    return _OF_FAMILIES


def preset_of(env_id: str) -> Preset | None:
    """The preset of an environment: its own, else its family's; None where there is neither."""
    families = (preset for preset in _OF_FAMILIES if fnmatchcase(env_id, preset.env_id))
    return presets().get(env_id) or next(families, None)
