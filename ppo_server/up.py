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

from ppo_jobs import kernel
from ppo_jobs.log_lines import configure_logging
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from ppo_server.logs import LogFollower, start_afresh, tell
from ppo_server.readiness import CannotStart, answers, free_port, local_url, sole_user, visible_gpus, write_private
from ppo_server.secrets import put_away
from ppo_server.services import RunningService, Service, stop_all

logger = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
READY_SECONDS = 120.0
TICK_SECONDS = 0.2
WAITING_TICK_SECONDS = 0.1
LAUNCH = (sys.executable, "-m", "ppo_server.launch")
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
        signals = Signals()
        kernel.adopt_orphans()
        share(settings)
        say(f"starting in {settings.data_dir}")
        with running(settings.data_dir / "logs", signals) as services:
            serve(settings, services, port, signals)
        say("stopped")
    return 0


def serve(settings: Settings, services: "Services", port: int, signals: Signals) -> None:
    """Start the services and keep them running, until a signal comes."""
    url = local_url(settings.host, port)
    # They import for as long as the database takes to be made, and ask nothing of it before it is there.
    services.start(api_service(settings, port))
    for service in worker_services(settings):
        services.start(service)
    prepare_database(settings)
    if not services.wait_for(f"{url}/healthz"):
        return
    write_private(settings.data_dir / "api_url", f"{url}\n")
    say(f"listening: {url}")
    services.start(Service("sweeper", (*LAUNCH, "worker.sweeper"), stop_seconds=8, still_seconds=120))
    if not services.wait_for(f"{url}/readyz"):
        return
    say(f"ready: {url}  (docs: {url}/docs, key: {settings.data_dir / 'api_key'}, stop: Ctrl-C)")
    while not signals.stop_wanted():
        services.tend()


def prepare_database(settings: Settings) -> None:
    """Bring the database up to date, and see that the key opens it."""
    # Imported here: SQLAlchemy takes half a second, in which the API starts.
    from ppo_jobs.database import migrate, open_database
    from ppo_server.first_start import ensure_api_key

    migrate(settings.database_url)
    database = open_database(settings.database_url, durable=True)
    try:
        ensure_api_key(database, settings.data_dir / "api_key")
    finally:
        database.dispose()


def api_service(settings: Settings, port: int) -> Service:
    command = (*LAUNCH, "api", "--host", settings.host, "--port", str(port))
    return Service("api", command, stop_seconds=8, still_seconds=30)


def worker_services(settings: Settings) -> list[Service]:
    listed = [Service("worker-cpu", (*LAUNCH, *worker_command(settings, QueueName.CPU, settings.slots)), 40, 60)]
    if gpus := visible_gpus():
        listed.append(Service("worker-cuda", (*LAUNCH, *worker_command(settings, QueueName.CUDA, gpus)), 40, 60))
    return listed


def worker_command(settings: Settings, queue: QueueName, slots: int) -> tuple[str, ...]:
    """The module that is a worker, and its arguments."""
    celery = ("celery", "--quiet", "--app", "worker.tasks", "worker", "--queues", str(queue), "--hostname")
    pool = (f"{queue}@%h", "--concurrency", str(slots), "--loglevel", settings.log_level)
    return (*celery, *pool, "--without-gossip", "--without-mingle", "--without-heartbeat")


def share(settings: Settings) -> None:
    """Settings that came from the command line reach the services as variables, like all others."""
    os.environ |= {"PPO_DATA_DIR": str(settings.data_dir), "PPO_SLOTS": str(settings.slots)}
    put_away(os.environ)


class Services:
    """What was started, in its order."""

    def __init__(self, logs: Path, signals: Signals) -> None:
        self._logs = logs
        self._signals = signals
        self._follower = LogFollower()
        self._started: list[RunningService] = []

    def start(self, service: Service) -> None:
        log = start_afresh(self._logs / f"{service.name}.log")
        self._follower.follow(service.name, log)
        self._started.append(RunningService(service, log))

    def tend(self, seconds: float = TICK_SECONDS) -> None:
        """Start again what has ended, and show what was logged; takes so long."""
        for service in self._started:
            service.keep_running()
        # Daemons of environments whose worker was killed have come to this process.
        kernel.end_orphans({service.pid for service in self._started})
        self._follower.show_new()
        time.sleep(seconds)

    def wait_for(self, url: str) -> bool:
        """Whether `url` is answered with success; False if it is to stop before that.

        Raises:
            CannotStart: it does not come to that.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not self._signals.stop_wanted():
            if answers(url):
                return True
            self.tend(WAITING_TICK_SECONDS)
            for service in self._started:
                if service.crashes >= TRIES_BEFORE_READY:
                    raise CannotStart(f"{service.service.name} does not come up; see {service.log}")
            if time.monotonic() > deadline:
                raise CannotStart(f"the service is not ready after {READY_SECONDS:g} s; see {self._logs}")
        return False

    def stop(self) -> None:
        stop_all(self._started, self._signals.is_urgent)
        kernel.end_orphans(())
        self._follower.show_new()


@contextmanager
def running(logs: Path, signals: Signals) -> Iterator[Services]:
    """Services that can be started; at the end none of their processes is left."""
    logs.mkdir(parents=True, exist_ok=True)
    services = Services(logs, signals)
    try:
        yield services
    finally:
        say("stopping: running jobs are saved")
        services.stop()


def say(words: str) -> None:
    tell(f"ppo: {words}", sys.stdout)
