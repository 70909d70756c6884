"""The embedded broker: kombu's filesystem transport, made atomic. `fsatomic:///absolute/directory`.

As shipped, a reader may see a message that is still being written, and the worker that reads it dies. Here a message
appears whole, by a rename, and belongs to the one reader whose rename took it. The directory must be on a file system
of this machine.
"""

import fcntl
import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.transport.virtual import BrokerState
from kombu.utils.encoding import bytes_to_str, str_to_bytes
from kombu.utils.json import dumps, loads

logger = logging.getLogger(__name__)

SCHEME = "fsatomic"
STALE_SECONDS = 3600.0
"""Age of what a crash left behind, and of orders to workers that never came back for them."""


class Channel(filesystem.Channel):
    """Messages in `queue/`, bindings of exchanges in `control/`, one file each."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)  # type: ignore[no-untyped-call]  # kombu has no annotations.
        self.root = Path("/") / (self.connection.client.virtual_host or "")
        self._queue_directory = self.root / "queue"
        self._taken_directory = self.root / "taken"
        self._garbage_directory = self.root / "garbage"
        # Names sort by time, so that what comes in later belongs behind what was listed before.
        self._listed: dict[str, deque[str]] = {}
        self._make_directories()
        _remove_stale(self._queue_directory, pattern="*.tmp")
        _remove_stale(self._queue_directory, pattern="*.pidbox.msg")
        _remove_stale(self._taken_directory, pattern="*")

    @property
    def control_folder(self) -> Path:
        return self.root / "control"

    def _make_directories(self) -> None:
        """Also when somebody emptied the broker under a living worker."""
        for directory in (self._queue_directory, self._taken_directory, self._garbage_directory, self.control_folder):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # kombu's two base classes disagree on the names of the parameters.
    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        # Nanoseconds keep the order of messages that one process sends; the random part keeps two processes apart.
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}"
        path, content = self._queue_directory / f"{name}.msg", str_to_bytes(dumps(payload))
        try:
            _write_whole(path, content)
        except FileNotFoundError:
            self._make_directories()
            _write_whole(path, content)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        listed = self._listed.setdefault(queue, deque())
        if not listed:
            listed.extend(self._waiting(queue))
        while listed:
            name = listed.popleft()
            taken = self._taken_directory / name
            try:
                os.rename(self._queue_directory / name, taken)
            except FileNotFoundError:
                continue  # Another reader was faster.
            try:
                payload = _message(taken.read_bytes())
            except ValueError as error:
                logger.warning("message %s is garbage and was moved aside: %s", name, error)
                os.rename(taken, self._garbage_directory / name)
                continue
            taken.unlink()
            return payload
        raise Empty

    def _size(self, queue: str) -> int:
        return len(self._waiting(queue))

    def _purge(self, queue: str) -> int:
        purged = 0
        for name in self._waiting(queue):
            try:
                (self._queue_directory / name).unlink()
            except FileNotFoundError:
                continue
            purged += 1
        return purged

    def _waiting(self, queue: str) -> list[str]:
        suffix = f"{queue}.msg"
        try:
            names = os.listdir(self._queue_directory)
        except FileNotFoundError:
            self._make_directories()
            return []
        return sorted(name for name in names if name.partition(".")[2] == suffix)

    def get_table(self, exchange: str) -> list[Any]:
        file = self._exchange_file(exchange)  # type: ignore[no-untyped-call]  # As above.
        try:
            return [filesystem.exchange_queue_t(*binding) for binding in json.loads(file.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            logger.warning("the bindings of exchange %s are garbage and were dropped: %s", exchange, error)
            return []

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        binding = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._changing(exchange) as bindings:
            if binding not in bindings:
                bindings.insert(0, binding)

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        binding = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._purge(queue)
        with self._changing(exchange) as bindings:
            if binding in bindings:
                bindings.remove(binding)

    @contextmanager
    def _changing(self, exchange: str) -> Iterator[list[Any]]:
        file = self._exchange_file(exchange)  # type: ignore[no-untyped-call]  # As above.
        self._make_directories()
        with (self.control_folder / f"{exchange}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            bindings = self.get_table(exchange)
            before = list(bindings)
            yield bindings
            if bindings != before:
                _write_whole(file, json.dumps(bindings).encode())


class Transport(filesystem.Transport):
    Channel = Channel
    polling_interval = 0.05
    """Seconds; the delay of an idle worker's answer."""
    driver_type = SCHEME
    driver_name = SCHEME

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)  # type: ignore[no-untyped-call]  # As above.
        # What is declared stands in the files; the base class would mix up the brokers that one process talks to.
        self.state = BrokerState()


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(content)
    os.rename(temporary, path)


def _message(content: bytes) -> dict[str, Any]:
    payload = loads(bytes_to_str(content))
    if not isinstance(payload, dict) or not {"body", "properties"} <= payload.keys():
        raise ValueError("it is no message")
    return payload


def _remove_stale(directory: Path, *, pattern: str) -> None:
    oldest = time.time() - STALE_SECONDS
    for path in directory.glob(pattern):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:
            continue


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"
