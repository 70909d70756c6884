"""`ppo up`: the whole service on one machine, under one process that starts it, watches it and stops it."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ppo_jobs.database import Database, migrate, open_database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.log_lines import configure_logging
from ppo_jobs.repository import tenants, workers
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from ppo_server.logs import LogFollower, start_afresh
from ppo_server.readiness import CannotStart, answers, free_port, local_url, sole_user, visible_gpus, write_private
from ppo_server.services import RunningService, Service, stop_all

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
READY_SECONDS = 120.0
TICK_SECONDS = 0.2
TRIES_BEFORE_READY = 3
"""A service that ends so often before all are ready will not come up."""


class Signals:
    """SIGINT, SIGTERM and SIGHUP: the first asks to stop, the second not to wait."""

    def __init__(self) -> None:
        self._count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` has it ignored: the service is to outlive its terminal.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._count += 1

    def stop_wanted(self) -> bool:
        return self._count > 0

    def is_urgent(self) -> bool:
        return self._count > 1


def run(settings: Settings) -> int:
    """Run the service until a signal comes; returns the exit status.

    Raises:
        CannotStart: the data directory or the port is in use, or a service does not come up.
    """
    configure_logging(settings)
    with sole_user(settings.data_dir):
        port = free_port(settings.host, settings.port)
        migrate(settings.database_url)
        database = open_database(settings.database_url, durable=True)
        ensure_api_key(database, settings.data_dir / "api_key")
        url = local_url(settings.host, port)
        signals = Signals()
        share(settings)
        with running(services(settings, port), settings.data_dir / "logs", signals) as (started, follower):
            if not wait_until_ready(started, follower, database, url, signals):
                return 0
            write_private(settings.data_dir / "api_url", f"{url}\n")
            say(f"ready: {url}  (docs: {url}/docs, key: {settings.data_dir / 'api_key'}, stop: Ctrl-C)")
            while not signals.stop_wanted():
                tend(started, follower)
        database.dispose()
        say("stopped")
    return 0


def services(settings: Settings, port: int) -> list[Service]:
    """What to start, in the order in which it is stopped: first no new jobs, then the running ones are saved."""
    ppo_server = (sys.executable, "-m", "ppo_server")
    listed = [
        Service("api", (*ppo_server, "api", "--host", settings.host, "--port", str(port)), stop_seconds=8),
        Service(
            "worker-cpu",
            (*ppo_server, "worker", "--queue", str(QueueName.CPU), "--slots", str(settings.slots)),
            stop_seconds=40,
        ),
    ]
    if visible_gpus():
        listed.append(Service("worker-cuda", (*ppo_server, "worker", "--queue", str(QueueName.CUDA)), stop_seconds=40))
    return [*listed, Service("sweeper", (*ppo_server, "sweeper"), stop_seconds=8)]


def share(settings: Settings) -> None:
    """Settings that came from the command line reach the services as variables, like all others."""
    os.environ |= {"PPO_DATA_DIR": str(settings.data_dir), "PPO_SLOTS": str(settings.slots)}


@contextmanager
def running(listed: list[Service], logs: Path, signals: Signals) -> Iterator[tuple[list[RunningService], LogFollower]]:
    """The services, started; at the end none of their processes is left."""
    logs.mkdir(parents=True, exist_ok=True)
    follower = LogFollower()
    started: list[RunningService] = []
    try:
        for service in listed:
            log = start_afresh(logs / f"{service.name}.log")
            follower.follow(service.name, log)
            started.append(RunningService(service, log))
        yield started, follower
    finally:
        say("stopping: running jobs are saved")
        stop_all(started, signals.is_urgent)
        follower.show_new()


def tend(started: list[RunningService], follower: LogFollower) -> None:
    for service in started:
        service.keep_running()
    follower.show_new()
    time.sleep(TICK_SECONDS)


def wait_until_ready(
    started: list[RunningService], follower: LogFollower, database: Database, url: str, signals: Signals
) -> bool:
    """Whether everything came up; False if it is to stop before that.

    Raises:
        CannotStart: it did not come up.
    """
    deadline = time.monotonic() + READY_SECONDS
    queues = 1 + any(service.service.name == "worker-cuda" for service in started)
    while not signals.stop_wanted():
        if answers(f"{url}/readyz") and live_queues(database) >= queues:
            return True
        tend(started, follower)
        for service in started:
            if service.crashes >= TRIES_BEFORE_READY:
                raise CannotStart(f"{service.service.name} does not come up; see {service.log}")
        if time.monotonic() > deadline:
            raise CannotStart(f"the service is not ready after {READY_SECONDS:g} s; see {started[0].log.parent}")
    return False


def live_queues(database: Database) -> int:
    """How many queues have a worker."""
    try:
        with database.read() as session:
            return len({worker.queue for worker in workers.list_workers(session) if worker.alive})
    except DatabaseUnavailable:
        return 0


def ensure_api_key(database: Database, path: Path) -> None:
    """Keep the key in the file if it opens this database, else make one and put it there."""
    with database.write() as session:
        if path.exists() and tenants.authenticate(session, path.read_text().strip()) is not None:
            return
        tenant_id = tenants.tenant_named(session, DEFAULT_TENANT) or tenants.create_tenant(session, DEFAULT_TENANT)
        key = tenants.create_api_key(session, tenant_id, name="ppo up")
        write_private(path, f"{key}\n")


def say(words: str) -> None:
    print(f"ppo: {words}", flush=True)
