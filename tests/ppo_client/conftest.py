"""The real API on the database of the test, with a worker's catalogue in it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest

from ppo_client import Client
from ppo_jobs.artifacts import LocalArtifacts
from ppo_jobs.database import Database
from ppo_jobs.settings import Settings
from tests.api import deployment
from tests.api.conftest import serving, until


class Service:
    """`python -m api` on one port, which can be killed and started again."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        names = ("database_url", "broker_url", "artifacts_url", "data_dir")
        self._environment = os.environ | {f"PPO_{name.upper()}": str(getattr(settings, name)) for name in names}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "api", "--port", str(self.port)]
        self._process = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", trust_env=False).is_success
        except httpx2.TransportError:
            return False


@pytest.fixture
def api(settings: Settings, database: Database) -> Iterator[Service]:
    """A service that runs, and knows a worker."""
    deployment.register(database)
    service = Service(settings)
    service.start()
    yield service
    service.kill()


@pytest.fixture
def server_url(settings: Settings, database: Database) -> Iterator[str]:
    """The same service within the process of the test, which starts at once."""
    deployment.register(database)
    with serving(settings) as url:
        yield url


@pytest.fixture
def client(server_url: str, api_key: str) -> Iterator[Client]:
    with Client(server_url, api_key) as client:
        yield client


@pytest.fixture
def artifacts(settings: Settings) -> LocalArtifacts:
    return LocalArtifacts(settings.data_dir / "artifacts")
