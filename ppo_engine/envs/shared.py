"""What a training process and the processes that step its environments share: memory, and messages over a socket."""

import base64
import json
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.envs.vector import EnvironmentState, Step
from ppo_engine.envs.watchdog import IDLE
from ppo_engine.errors import EngineError, EnvironmentFault, EnvironmentPlace, EnvironmentTimedOut

ALIGNMENT_BYTES = 64
LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Layout:
    """The shapes of what lies in shared memory."""

    n_envs: int
    observation_size: int
    action_columns: int
    action_dtype: str
    workers: int
    observation_dtype: str = "float32"
    masks: int | None = None
    """Columns of action masks; None where the spec asks for none."""

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each array, by name, in the order they lie in."""
        n, observations = self.n_envs, (self.n_envs, self.observation_size)
        masks = {} if self.masks is None else {"action_masks": ("bool", (n, self.masks))}
        return masks | {
            "observations": (self.observation_dtype, observations),
            "rewards": ("float64", (n,)),
            "terminated": ("bool", (n,)),
            "truncated": ("bool", (n,)),
            "final_observations": (self.observation_dtype, observations),
            "valid": ("bool", (n,)),
            "lives_lost": ("bool", (n,)),
            "actions": (self.action_dtype, (n, self.action_columns)),
            "progress": ("int64", (self.workers, 2)),
        }


class SharedProgress:
    """A `Watch` whose two numbers another process reads."""

    def __init__(self, cells: NDArray[np.int64]) -> None:
        """`cells` [2] int64 in shared memory: calls, and the index of the environment being called."""
        self._cells = cells.data
        self.expired: EnvironmentTimedOut | None = None

    @property
    def calls(self) -> int:
        return int(self._cells[0])

    @calls.setter
    def calls(self, value: int) -> None:
        self._cells[0] = value

    @property
    def env_index(self) -> int:
        return int(self._cells[1])

    @env_index.setter
    def env_index(self, value: int) -> None:
        self._cells[1] = value

    def close(self) -> None:
        self.env_index = IDLE


def anonymous_file(size_bytes: int) -> int:
    """The descriptor of a file without a name: gone with the last process that has it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ppo-environments")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def size_of(layout: Layout) -> int:
    """Bytes of memory that the layout takes."""
    return sum(_padded(dtype, shape) for dtype, shape in layout.arrays().values())


def map_arrays(descriptor: int, layout: Layout) -> dict[str, NDArray[Any]]:
    """The arrays of a layout, in memory shared by everyone who maps the same file."""
    memory = mmap.mmap(descriptor, size_of(layout))
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, (dtype, shape) in layout.arrays().items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(memory, dtype, count, offset).reshape(shape)
        offset += _padded(dtype, shape)
    return arrays


def step_of(arrays: Mapping[str, NDArray[Any]], rows: slice) -> Step:
    """The `Step` that lies in shared memory, or the given rows of it."""
    return Step(**{name: arrays[name][rows] for name in Step.__slots__ if name in arrays})


def send(connection: socket.socket, kind: bytes, content: JsonValue) -> None:
    """Sends a message: one byte for its kind, the length of its content, and the content as JSON."""
    payload = json.dumps(content).encode()
    connection.sendall(kind + LENGTH.pack(len(payload)) + payload)


def receive_content(connection: socket.socket) -> Any:
    """What follows a message's kind. Raises EOFError where the other side is gone."""
    (length,) = LENGTH.unpack(_receive(connection, LENGTH.size))
    return json.loads(_receive(connection, length))


def state_to_json(state: EnvironmentState) -> JsonValue:
    """A state with its arrays in base64."""
    return {
        name: {
            "dtype": value.dtype.name,
            "shape": list(value.shape),
            "base64": base64.b64encode(value.tobytes()).decode(),
        }
        if isinstance(value, np.ndarray)
        else value
        for name, value in state.items()
    }


def state_from_json(content: Mapping[str, Any]) -> dict[str, NDArray[Any] | JsonValue]:
    """What `state_to_json` was given."""
    return {
        name: np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).reshape(value["shape"])
        if isinstance(value, dict) and "base64" in value
        else value
        for name, value in content.items()
    }


def error_to_json(error: EngineError) -> JsonValue:
    """An error, so that `error_from_json` raises its like elsewhere."""
    if isinstance(error, EnvironmentFault):
        place = error.place
        return {
            "kind": type(error).__name__,
            "fault": error.fault,
            "place": [place.env_id, place.env_index, place.episode, place.step],
            "traceback_text": error.traceback_text,
        }
    return {"kind": type(error).__name__, "message": str(error)}


def error_from_json(content: Mapping[str, Any]) -> EngineError:
    """What `error_to_json` was given."""
    kinds = {kind.__name__: kind for kind in _subclasses(EngineError)}
    if "place" in content:
        fault: Any = kinds[content["kind"]]
        error: EngineError = fault(content["fault"], EnvironmentPlace(*content["place"]), content["traceback_text"])
        return error
    return kinds[content["kind"]](content["message"])


def _subclasses(kind: type[EngineError]) -> list[type[EngineError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _subclasses(child))]


def _padded(dtype: str, shape: tuple[int, ...]) -> int:
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    return -(-max(size, 1) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _receive(connection: socket.socket, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
