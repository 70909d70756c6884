"""PostgreSQL servers of a test's own, which it may disturb."""

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psycopg
import pytest


def _servers() -> ModuleType:
    path = Path(__file__).parents[1] / ".ci" / "servers.py"
    spec = importlib.util.spec_from_file_location("servers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


servers = _servers()


class Server:
    """A cluster of its own in a temporary directory."""

    def __init__(self, folder: Path, as_user: list[str]) -> None:
        self.folder = folder
        self.port = servers.free_port()
        self._as_user = as_user

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def administer(self, *statements: str) -> None:
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, servers.postgresql_program(program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    @contextmanager
    def running(self) -> Iterator["Server"]:
        options = ["-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder)]
        quick = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        command = [*self._as_user, servers.postgresql_program("postgres"), *options, *quick]
        with servers.running(command, str(self.folder)):
            servers.wait_until(lambda: servers.may_create_databases(self.url.replace("+psycopg", "")), "PostgreSQL")
            yield self


@contextmanager
def own_postgresql() -> Iterator[Server]:
    """A server of nobody else's; skips the test where PostgreSQL is not installed, but never where CI=true."""
    try:
        servers.postgresql_program("initdb")
    except servers.ServerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="ppo-postgresql-") as name:
        server = Server(Path(name), servers.unprivileged(name))
        server.run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", f"{name}/data")
        with server.running():
            yield server


@contextmanager
def standby_of(server: Server) -> Iterator[Server]:
    """A hot standby, which follows the server and can only be read."""
    with tempfile.TemporaryDirectory(prefix="ppo-standby-") as name:
        standby = Server(Path(name), servers.unprivileged(name))
        source = ["--host=127.0.0.1", f"--port={server.port}", "--username=postgres"]
        standby.run("pg_basebackup", *source, f"--pgdata={name}/data", "--write-recovery-conf", "--checkpoint=fast")
        with standby.running():
            yield standby
