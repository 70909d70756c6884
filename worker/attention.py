"""In the child: what is looked at between the steps of an evaluation, which may take longer than all of training."""

import time
from collections.abc import Callable
from typing import Literal

from ppo_engine.evaluate import Playing
from worker.lifeline import Lifeline

LOOK_SECONDS = 1.0


class Interrupted(Exception):
    """A command came while episodes were played."""

    def __init__(self, command: Literal["cancel", "drain"]) -> None:
        super().__init__(command)
        self.command = command


class Attention:
    """Called between two steps: ends the evaluation when a command has come, and tells how far it is."""

    def __init__(self, lifeline: Lifeline, tell: Callable[[Playing], None]) -> None:
        """`tell` is called every LOOK_SECONDS, and not at all in a shorter evaluation."""
        self._lifeline = lifeline
        self._tell = tell
        self._due_at = time.monotonic() + LOOK_SECONDS

    def __call__(self, playing: Playing) -> None:
        """Raises Interrupted."""
        if (command := self._lifeline.command) is not None:
            raise Interrupted(command)
        if time.monotonic() >= self._due_at:
            self._tell(playing)
            self._due_at = time.monotonic() + LOOK_SECONDS
