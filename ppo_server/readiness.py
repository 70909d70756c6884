"""What must hold before the service starts, and what must before it is called ready."""

import fcntl
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppo_jobs.errors import JobsError


class CannotStart(JobsError):
    """The service cannot run like this; the message is one plain sentence."""


@contextmanager
def sole_user(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process alone.

    Raises:
        CannotStart: Another `ppo up` holds it.
    """
    descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            raise CannotStart(f"another `ppo up` (process {holder}) already runs on {data_dir}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def free_port(host: str, port: int) -> int:
    """`port` if it can be listened on, or any free one for 0.

    Raises:
        CannotStart: It is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise CannotStart(f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}") from error
        return int(listener.getsockname()[1])


def local_url(host: str, port: int) -> str:
    """Where programs on this machine reach an API that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered with success within a second; no proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1) as response:
            return bool(200 <= response.status < 300)
    except (OSError, urllib.error.HTTPError):
        return False


def visible_gpus() -> int:
    """How many CUDA devices this process may use."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, check=False)
    present = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([device for device in visible.split(",") if device.strip()]))


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step; only its owner may read it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
