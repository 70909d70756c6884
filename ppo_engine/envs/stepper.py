"""The process that steps some of a training's environments: `python -m ppo_engine.envs.stepper SOCKET MEMORY`.

It serves one command at a time, each a single byte: `r` reset, `s` step, `g` get the state, `p` put a state, `q` quit.
Actions and what steps lead to lie in shared memory. It answers `k` when that is done, `j` with JSON where there is more
to say, and `e` with an error, after which it ends. It imports no torch.
"""

import ctypes
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from ppo_engine.envs.plugins import prefer_plugin
from ppo_engine.envs.shared import (
    Layout,
    SharedProgress,
    error_to_json,
    map_arrays,
    receive_content,
    send,
    state_from_json,
    state_to_json,
    step_of,
)
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.errors import EngineError
from ppo_engine.spec import EnvSpec

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves until told to quit, or until the process that started it is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    # A terminal's Ctrl-C and a drain's SIGTERM are for the training process, which still needs its environments.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    task = receive_content(connection)
    _die_with(task["parent"], connection, signalled=task["started_by_main_thread"])
    try:
        _serve(connection, task)
    except EngineError as error:
        send(connection, b"e", error_to_json(error))
    except (EOFError, ConnectionError):
        # The training process is gone: nobody is left to tell.
        os._exit(1)


def _serve(connection: socket.socket, task: dict[str, Any]) -> None:
    layout = Layout(**task["layout"])
    arrays = map_arrays(int(sys.argv[2]), layout)
    first, last = task["first"], task["last"]
    actions = arrays["actions"][first:last]
    prefer_plugin(task["plugin"])
    environment = SyncVectorEnvironment(
        EnvSpec.model_validate(task["env"]),
        task["seeds"],
        first_index=first,
        buffers=step_of(arrays, slice(first, last)),
        watch=SharedProgress(arrays["progress"][task["worker"]]),
    )
    connection.sendall(b"k")
    while True:
        match connection.recv(1):
            case b"s":
                environment.step(actions)
                connection.sendall(b"k")
            case b"r":
                environment.reset()
                connection.sendall(b"k")
            case b"g":
                state = state_to_json(environment.state())
                send(connection, b"j", {"state": state, "foreseen": environment.foreseen.reason})
            case b"p":
                environment.restore(state_from_json(receive_content(connection)))
                send(connection, b"j", environment.resume.reason)
            case b"q":
                environment.close()
                return
            case _:
                raise EOFError


def _die_with(parent: int, connection: socket.socket, *, signalled: bool) -> None:
    """Makes this process end when its parent does, whatever its environments are doing then."""
    threading.Thread(target=_exit_on_hang_up, args=(connection.fileno(),), daemon=True).start()
    # The kernel sends the signal when the *thread* ends that started this process, so only the main one will do.
    if signalled and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _exit_on_hang_up(descriptor: int) -> NoReturn:
    poll = select.poll()
    poll.register(descriptor, 0)
    while not any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll()):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
