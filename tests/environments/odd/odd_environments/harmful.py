"""Environments that cannot be described, each in its own way, and two that can be, though they litter."""

import os
import threading
import time

from gymnasium import spaces

from odd_environments.base import Drift
from odd_environments.base import register as add


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def raises(error: BaseException):
    def make() -> Drift:
        raise error

    return make


class BadMasks(Drift):
    action_masks = property(lambda self: 1 / 0)


class NoSpace(Drift):
    observation_space = None


class ClashingKeys(Drift):
    observation_space = spaces.Dict({0: spaces.Discrete(2), "0": spaces.Discrete(2)})


class Aborts(Drift):
    def __init__(self) -> None:
        os.abort()


class Ends(Drift):
    def __init__(self) -> None:
        os._exit(0)


class Hangs(Drift):
    def __init__(self) -> None:
        time.sleep(10_000)


class Prints(Drift):
    def __init__(self) -> None:
        os.write(1, b'{"ids": ["odd/Made-up-v0"]}\n')
        print("not JSON", flush=True)


class Threads(Drift):
    def __init__(self) -> None:
        threading.Thread(target=time.sleep, args=(10_000,)).start()


class Forks(Drift):
    """Both processes go on."""

    def __init__(self) -> None:
        os.fork()


def register() -> None:
    for kind in (Aborts, BadMasks, ClashingKeys, Ends, Forks, Hangs, NoSpace, Prints, Threads):
        add(f"{kind.__name__}-v0", kind)
    add("Exits-v0", raises(SystemExit("no licence")))
    add("Interrupts-v0", raises(KeyboardInterrupt()))
    add("Surrogate-v0", raises(RuntimeError("\udc80")))
    add("Unprintable-v0", raises(Unprintable()))
    add("Missing-v0", "nowhere.at_all:Environment")
    add("Zuletzt-v0", Drift)
