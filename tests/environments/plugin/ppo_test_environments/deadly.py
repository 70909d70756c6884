import os
import re
import signal
import threading
import time
from typing import Any, NoReturn

from ppo_test_environments.faulty import FaultyStep
from ppo_test_environments.walks import Walk


def sleep_forever() -> NoReturn:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)


class HangsInStep(FaultyStep):
    def spoil(self, *transition: Any) -> Any:
        sleep_forever()


class HangsInReset(Walk):
    def __init__(self, at_reset: int = 0) -> None:
        super().__init__()
        self.at_reset = at_reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.resets >= self.at_reset:
            sleep_forever()
        return super().reset(seed=seed, options=options)


class HangsWithLock(FaultyStep):
    def spoil(self, *transition: Any) -> Any:
        # Takes exponential time, within one call that runs no bytecode.
        re.match(r"(a+)+$", "a" * 64 + "b")


class KillsItself(FaultyStep):
    def spoil(self, *transition: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class ExitsProcess(FaultyStep):
    def __init__(self, at_step: int = 5, status: int = 3) -> None:
        super().__init__(at_step)
        self.status = status

    def spoil(self, *transition: Any) -> Any:
        os._exit(self.status)


class AllocatesInStep(FaultyStep):
    def __init__(self, at_step: int = 5, mebibytes: int = 100) -> None:
        super().__init__(at_step)
        self.mebibytes = mebibytes
        self.held: list[bytearray] = []

    def spoil(self, *transition: Any) -> Any:
        self.held.append(bytearray(self.mebibytes * 2**20))
        return transition


class HangsInClose(Walk):
    def close(self) -> None:
        sleep_forever()
