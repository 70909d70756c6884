"""Looks at everything that the service needs, and says in words what it finds."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

from ppo_jobs.database import is_migrated, open_database
from ppo_jobs.entrance import prepare
from ppo_jobs.errors import DataDirectoryUnusable, JobsError
from ppo_jobs.queue import broker_answers, celery_app
from ppo_jobs.repository import workers
from ppo_jobs.settings import Settings
from ppo_server.readiness import visible_gpus

KERNELS = """
import json, os
from ppo_engine.machine import misleading
from ppo_engine.threads import blas_kernels
print(json.dumps([blas_kernels(), misleading(os.environ)]))
"""
TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "gpus": gpus}))
"""
LOW_DISK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    is_fine: bool
    words: str


def examine(settings: Settings) -> list[Finding]:
    """One finding for each thing that must work."""
    return [
        Finding("settings", True, f"data in {settings.data_dir}, lease {settings.lease_seconds:g} s"),
        data_directory(settings),
        disk(settings),
        *database(settings),
        broker(settings),
        *torch_and_gpus(),
        *kernels(),
    ]


def data_directory(settings: Settings) -> Finding:
    try:
        prepare(settings.data_dir)
    except DataDirectoryUnusable as error:
        return Finding("data directory", False, str(error))
    return Finding("data directory", True, "private, and can be written")


def disk(settings: Settings) -> Finding:
    existing = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Finding("disk", free >= LOW_DISK_BYTES, f"{free / (1 << 30):.1f} GiB free")


def database(settings: Settings) -> list[Finding]:
    try:
        opened = open_database(settings.database_url, durable=False)
    except JobsError as error:
        return [Finding("database", False, str(error))]
    name = opened.engine.dialect.name
    try:
        with opened.read() as session:
            if not is_migrated(session):
                return [Finding("database", False, f"{name} answers, but its schema is old; run `ppo_server migrate`")]
            alive = [worker for worker in workers.list_workers(session) if worker.alive]
    except JobsError as error:
        return [Finding("database", False, str(error))]
    finally:
        opened.dispose()
    slots = ", ".join(f"{worker.slots} of queue {worker.queue}" for worker in alive)
    return [
        Finding("database", True, f"{name} answers, its schema is up to date"),
        Finding("workers", True, f"slots: {slots}" if alive else "none is running"),
    ]


def broker(settings: Settings) -> Finding:
    kind = settings.broker_url.partition(":")[0]
    if broker_answers(celery_app(settings)):
        return Finding("broker", True, f"{kind} answers")
    return Finding("broker", False, f"{kind} does not answer; jobs still start, some seconds later")


def kernels() -> list[Finding]:
    """For which CPU the matrix products of trainings were made; in a process of its own, as with torch."""
    asked = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, check=False)
    if asked.returncode:
        return []  # Without torch, which is told already.
    words, astray = json.loads(asked.stdout)
    if astray:
        words += f"; {' and '.join(astray)} may choose kernels of another CPU, which halves the speed of trainings"
    return [Finding("BLAS", not astray, words)]


def torch_and_gpus() -> list[Finding]:
    """torch is asked in a process of its own, as training will."""
    asked = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, check=False)
    if asked.returncode:
        return [Finding("torch", False, "not installed; a worker needs it: pip install 'ppo-service[worker]'")]
    told = json.loads(asked.stdout)
    torch_gpus, gpus = told["gpus"], visible_gpus()
    seen = ", ".join(torch_gpus) or "none, jobs train on the CPU"
    if gpus and not torch_gpus:
        return [Finding("torch", True, told["version"]), Finding("GPU", False, f"torch sees none of {gpus}")]
    return [Finding("torch", True, told["version"]), Finding("GPU", True, seen)]
