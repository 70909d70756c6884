"""A real server on a real socket, in a thread of the test; and one in a process of its own, where signals matter."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.protocol import Limits
from api.server import Server, configuration
from ppo_jobs.artifacts import LocalArtifacts
from ppo_jobs.database import Database
from ppo_jobs.repository.tenants import create_api_key, create_tenant
from ppo_jobs.settings import Settings
from tests.api import deployment

LIMITS = Limits()


@contextmanager
def serving(settings: Settings, app: FastAPI | None = None, limits: Limits = LIMITS) -> Iterator[str]:
    """The URL of an API that answers until the block ends."""
    # asyncio turns Nagle's delay off only for sockets that name their protocol.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        served = app or create_app(settings)
        server = Server(configuration(served, limits))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            served.state.services.tailer.stop()
            server.should_exit = True
            thread.join()


@contextmanager
def serving_process(settings: Settings, *, graceful_seconds: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and the process of `python -m api`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = ("database_url", "broker_url", "artifacts_url", "data_dir")
    environment = os.environ | {f"PPO_{name.upper()}": str(getattr(settings, name)) for name in names}
    command = [sys.executable, "-m", "api", "--port", str(port), "--timeout-graceful-shutdown", str(graceful_seconds)]
    with subprocess.Popen(command, env=environment) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _answers(url))
            yield url, process
        finally:
            process.kill()


PATIENCE_SECONDS = 60.0
"""httpx2 gives up after 5, which a machine with other work to do may need for a request."""


@pytest.fixture
def server_url(settings: Settings, database: Database) -> Iterator[str]:
    deployment.register(database)
    with serving(settings) as url:
        yield url


@pytest.fixture
def client(server_url: str, api_key: str) -> Iterator[httpx2.Client]:
    """Whom the tenant of the test trusts."""
    headers = {"Authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=server_url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def stranger(server_url: str, database: Database) -> Iterator[httpx2.Client]:
    """A valid client of another tenant."""
    with database.write() as session:
        key = create_api_key(session, create_tenant(session, "stranger"), name="other")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=server_url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def artifacts(settings: Settings) -> LocalArtifacts:
    return LocalArtifacts(settings.data_dir / "artifacts")


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", trust_env=False).is_success
    except httpx2.TransportError:
        return False
