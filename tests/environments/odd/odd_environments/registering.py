"""Plugins whose `register` itself goes wrong."""

import os
import sys
import time

from odd_environments.base import Drift, register


def abort() -> None:
    os.abort()


def exit() -> None:
    sys.exit("no licence")


def hang() -> None:
    time.sleep(10_000)


def fail_half_way() -> None:
    register("Half-v0", Drift)
    raise OSError("no simulator")
