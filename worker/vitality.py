"""Whether a child gets anywhere: what it tells its supervisor, who sees only that a process is there."""

import time

from ppo_engine.envs import watchdog

WORKING_SECONDS = 0.005
"""Of processor time within a second: more than threads take that look at the clock, less than any learning does."""


class Vitality:
    """Progress is a step of an environment, or computing; before training begins, that the interpreter runs."""

    def __init__(self) -> None:
        self._is_expected = False
        self._steps = watchdog.beats()
        self._worked = time.process_time()

    def expect_progress(self) -> None:
        """From now on nothing is waited for but environments."""
        self._is_expected = True

    def has_progressed(self) -> bool:
        """Since the last time that it was asked."""
        steps, worked = watchdog.beats(), time.process_time()
        is_stepping, is_working = steps != self._steps, worked - self._worked >= WORKING_SECONDS
        self._steps, self._worked = steps, worked
        return is_stepping or is_working or not self._is_expected
