"""What can go wrong with an environment in this process: it raises, its numbers are not finite, it does not close."""

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from ppo_engine.envs.limits import Limits
from ppo_engine.envs.spaces import NotInSpace, Rows
from ppo_engine.envs.vector import Step
from ppo_engine.errors import (
    EnvironmentFailed,
    EnvironmentFault,
    EnvironmentPlace,
    EnvironmentTimedOut,
    InvalidObservation,
)

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0


class FiniteNumbers:
    """Checks the observations and rewards of a step, with room of its own for the answers."""

    def __init__(self, step: Step, limits: Limits | None = None) -> None:
        """`limits` are those that observations are held to; None: they may be any numbers."""
        self._limits = None if step.observations.dtype == np.uint8 else limits
        n_envs = len(step.rewards)
        self._rewards = step.rewards
        # Bytes are finite.
        self._features = 0 if step.observations.dtype == np.uint8 else step.observations.shape[1]
        self._is_finite = np.empty((self._features + 1) * n_envs, np.bool_)
        self._finite_observations = self._is_finite[:-n_envs].reshape(n_envs, self._features)
        self._finite_rewards = self._is_finite[-n_envs:]

    def require_finite(self, observations: Rows, place: Callable[[int], EnvironmentPlace]) -> None:
        """Accepts observations [N, D] and the step's rewards as they stand.

        Args:
            place: where the environment of an index stands; only asked for one at fault.
        Raises:
            InvalidObservation: one of them is NaN or infinite, or an observation is beyond its limits.
        """
        np.isfinite(observations[:, : self._features], self._finite_observations)
        np.isfinite(self._rewards, self._finite_rewards)
        # Looking for a zero byte takes a third of the time of ndarray.all() on few rows.
        if b"\0" not in self._is_finite.tobytes():
            if self._limits is not None:
                _require_within(observations, self._limits, place)
            return
        if not self._finite_observations.all():
            index, feature = np.argwhere(~self._finite_observations)[0].tolist()
            value = observations[index, feature]
            raise InvalidObservation(f"observation is {value} at flat index {feature}", place(index))
        index = int(np.flatnonzero(~self._finite_rewards)[0])
        raise InvalidObservation(f"reward is {self._rewards[index]}", place(index))


def _require_within(observations: Rows, limits: Limits, place: Callable[[int], EnvironmentPlace]) -> None:
    low, high = limits
    outside = (observations < low) | (observations > high)
    if not outside.any():
        return
    index, feature = np.argwhere(outside)[0].tolist()
    value, bound = observations[index, feature], f"from {low[feature]:.9g} to {high[feature]:.9g}"
    fault = f"observation is {value:.9g} at flat index {feature}, outside its space, whose numbers are taken {bound}"
    raise InvalidObservation(fault, place(index))


def fault_of(error: BaseException, place: EnvironmentPlace, *, expired: EnvironmentTimedOut | None) -> BaseException:
    """What to raise for an error of the environment at `place`; `expired` is its watchdog's word, if it gave one."""
    if isinstance(error, EnvironmentFault):
        return error
    if isinstance(error, KeyboardInterrupt):
        return expired or error
    if isinstance(error, NotInSpace):
        return InvalidObservation(str(error), place)
    text = "".join(traceback.format_exception(error))
    return EnvironmentFailed(f"raised {type(error).__name__}: {error}", place, text)


def close_all(envs: Sequence[gymnasium.Env[Any, Any]], env_id: str) -> None:
    """Closes what can be closed within CLOSE_SECONDS."""
    # In a thread, since an environment that hangs now changes nothing that was learned.
    closing = threading.Thread(target=_close_each, args=(envs,), daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    if closing.is_alive():
        log.warning("%s did not close within %g s", env_id, CLOSE_SECONDS)


def _close_each(envs: Sequence[gymnasium.Env[Any, Any]]) -> None:
    for env in envs:
        try:
            env.close()
        except Exception:
            log.warning("%s could not be closed", env, exc_info=True)
