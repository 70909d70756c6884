"""What ties a child to its supervisor: commands while the pipe is open, death when it closes."""

import os
import signal
import threading
from typing import BinaryIO, Literal

from worker.protocol import Command


class Lifeline:
    """Reads commands from the supervisor's pipe in a thread of its own; its end is the end of this process group."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._command: Literal["cancel", "drain"] | None = None

    @property
    def command(self) -> Literal["cancel", "drain"] | None:
        """The newest command; `cancel` is never replaced."""
        return self._command

    def start(self) -> None:
        threading.Thread(target=self._follow, name="lifeline", daemon=True).start()

    def _follow(self) -> None:
        try:
            for line in self._pipe:
                command = Command.model_validate_json(line).command
                self._command = "cancel" if "cancel" in (command, self._command) else command
        finally:
            end_process_group()


def end_process_group() -> None:
    """Kill this process and, where it leads a group, everything that it started in it."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
