"""How long a stretch of a run took, and how much of a core it had."""

import time
from typing import NamedTuple, Self


class Mark(NamedTuple):
    """A moment of this process, in seconds."""

    wall: float
    cpu: float
    """Of all its threads."""

    @classmethod
    def now(cls) -> Self:
        return cls(time.perf_counter(), time.process_time())


def speed(steps: int, begun: Mark, ended: Mark) -> dict[str, float | int]:
    """Steps per second between two marks, and the share of a core that they had.

    A share well below 1 says that others used the machine, and that the speed is not the contestant's own.
    """
    wall = ended.wall - begun.wall
    return {"steps_per_second": steps / wall, "steps": steps, "core_share": (ended.cpu - begun.cpu) / wall}
