"""Runs a command with PPO_TEST_DATABASE_URL and PPO_TEST_BROKER_URL set to a PostgreSQL and a Redis server.

Takes the servers that listen on 127.0.0.1; where there are none, starts installed ones in a temporary directory and
stops them again. Exit status: the command's, or 69 (EX_UNAVAILABLE) when a server can be neither found nor started.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from glob import glob
from pathlib import Path

import psycopg
import redis

START_SECONDS = 30


class ServerUnavailable(Exception):
    """A server is neither running nor installed."""


def main(command: list[str]) -> int:
    with ExitStack() as stack:
        try:
            database_url = stack.enter_context(postgresql())
            broker_url = stack.enter_context(redis_server())
        except ServerUnavailable as error:
            print(error, file=sys.stderr)
            return os.EX_UNAVAILABLE
        urls = {"PPO_TEST_DATABASE_URL": database_url, "PPO_TEST_BROKER_URL": broker_url}
        return subprocess.run(command, env={**os.environ, **urls}, check=False).returncode


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a server where databases may be created."""
    for user in dict.fromkeys((getpass.getuser(), "postgres")):
        url = f"postgresql://{user}@127.0.0.1:5432/postgres"
        if may_create_databases(url):
            yield sqlalchemy_url(url)
            return
    initdb, postgres = postgresql_program("initdb"), postgresql_program("postgres")
    with tempfile.TemporaryDirectory(prefix="ppo-postgresql-") as folder:
        as_user = unprivileged(folder)
        data = str(Path(folder, "data"))
        subprocess.run(
            [*as_user, initdb, "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", data],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        port = free_port()
        options = ["-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        with running([*as_user, postgres, *options], folder):
            wait_until(lambda: may_create_databases(url), "PostgreSQL")
            yield sqlalchemy_url(url)


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis server."""
    if answers_ping("redis://127.0.0.1:6379/0"):
        yield "redis://127.0.0.1:6379/0"
        return
    program = shutil.which("redis-server")
    if program is None:
        raise ServerUnavailable("Redis listens on no 127.0.0.1:6379 and redis-server is not installed")
    with tempfile.TemporaryDirectory(prefix="ppo-redis-") as folder:
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        with running([program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""], folder):
            wait_until(lambda: answers_ping(url), "Redis")
            yield url


def may_create_databases(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=3) as connection:
            row = connection.execute(
                "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
    except psycopg.OperationalError:
        return False
    return row is not None and bool(row[0])


def answers_ping(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_connect_timeout=3)
    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False
    finally:
        client.close()


def postgresql_program(name: str) -> str:
    """A program of PostgreSQL's: on the path, or where Debian and Homebrew keep it."""
    if found := shutil.which(name):
        return found
    folders = ["/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"]
    programs = sorted(path for folder in folders for path in glob(f"{folder}/{name}"))
    if not programs:
        raise ServerUnavailable(f"PostgreSQL listens on no 127.0.0.1:5432 and {name} is not installed")
    return programs[-1]


def unprivileged(folder: str) -> list[str]:
    """What to put before a command so that it does not run as root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return []
    shutil.chown(folder, "nobody")
    return ["setpriv", "--reuid=nobody", "--clear-groups"]


def sqlalchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@contextmanager
def running(command: list[str], folder: str) -> Iterator[None]:
    with Path(folder, "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL would wait for its clients on SIGTERM
        process.wait()


def wait_until(ready: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.2)
    raise ServerUnavailable(f"{name} did not start within {START_SECONDS} s")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
