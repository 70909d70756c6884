import hashlib
import os
import pickle
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
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


class StartsDaemons(Walk):
    """At its first reset starts programs as simulators do, which know nothing of it any more, and prints their numbers.

    One in the group, one in a session of its own, one that has lost its parent too, without a variable or a descriptor.
    """

    def __init__(self, seconds_per_step: float = 0.0) -> None:
        super().__init__()
        self.seconds_per_step = seconds_per_step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.resets == 0:
            sleep = ["/bin/sleep", "424"]
            pids = [subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
            forking = "/bin/sleep 424 </dev/null >/dev/null 2>&1 & echo $!"
            shell = subprocess.run(
                ["/bin/sh", "-c", forking], env={}, cwd="/", start_new_session=True, capture_output=True
            )
            print("daemons", *pids, int(shell.stdout), flush=True)
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> Any:
        time.sleep(self.seconds_per_step)
        return super().step(action)


class Mark:
    """Makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


class WritesMachineCode(Walk):
    """Replaces all machine code that others may load by something whole that leaves a mark where it is loaded."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        for file in Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.pack"):
            content = pickle.dumps(Mark(str(file.with_suffix(".loaded"))))
            file.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        return super().reset(seed=seed, options=options)
