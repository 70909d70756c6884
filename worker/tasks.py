"""The Celery worker of one queue: `celery --app worker.tasks worker --queues cpu --concurrency SLOTS`.

The main process registers the worker and beats for it; each pool process is a slot. Neither imports torch: only
children do, and a GPU belongs to the child that was given it.
"""

import json
import logging
import os
import time
import uuid
from pathlib import Path
from typing import Any

from billiard.process import current_process
from celery import signals

from ppo_engine import packs
from ppo_jobs import kernel
from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.database import Database, is_migrated, open_database
from ppo_jobs.entrance import enter, in_plain_words
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.log_lines import configure_logging
from ppo_jobs.pulse import Pulse, own_pulse
from ppo_jobs.queue import TASK, celery_app
from ppo_jobs.settings import load_settings
from ppo_jobs.states import QueueName
from worker.presence import Presence
from worker.process import child_variables
from worker.slots import SlotWork
from worker.supervisor import Slot
from worker.warm import ForkServer, can_fork

logger = logging.getLogger(__name__)

settings = load_settings()
app = celery_app(settings)
app.set_default()

WORKER_VARIABLE = "PPO_WORKER_ID"
QUEUE_VARIABLE = "PPO_WORKER_QUEUE"
"""How a pool process, forked or started afresh, learns whose slot it is."""

SCHEMA_SECONDS = 60.0
"""For whoever migrates the database to have done so."""

_presence: Presence | None = None
_work: SlotWork | None = None


def work() -> None:
    """Take jobs from the queue until none is left."""
    assert _work is not None, "a task runs in a pool process, whose slot was opened first"
    try:
        _work.work()
    except DatabaseUnavailable as error:
        logger.warning("jobs are looked for again later: %s", error)


def set_up_logging(**_: Any) -> None:
    configure_logging(settings)


def name_worker(conf: Any, options: dict[str, Any], **_: Any) -> None:
    """Keep the worker private, fix its name, which one queue it serves and where machine code is kept, before its pool.

    Raises:
        SystemExit: it is to serve several queues, or one that there is not.
    """
    with in_plain_words():
        enter(settings)
    queues = options.get("queues") or [str(QueueName.CPU)]
    names = queues.split(",") if isinstance(queues, str) else list(queues)
    if len(names) != 1 or names[0] not in set(QueueName):
        raise SystemExit(f"a worker serves one queue, which is {' or '.join(QueueName)}")
    if packs.directory() is None:
        # A user without a home, as in many containers.
        os.environ["NUMBA_CACHE_DIR"] = str(settings.data_dir / "compiled")
        packs.directory.cache_clear()
    os.environ[QUEUE_VARIABLE] = names[0]
    # Whoever has a job sees this name; where the worker runs stands in its log and in the operator's database.
    os.environ[WORKER_VARIABLE] = f"{names[0]}-{uuid.uuid4().hex[:12]}"


def appear(sender: Any, **_: Any) -> None:
    global _presence
    if (pulse := own_pulse()) is not None:
        Pulse(pulse, lambda: True).start()
    database = open_database(settings.database_url, durable=False)
    wait_for_schema(database)
    _presence = Presence(
        settings,
        database,
        worker_id=os.environ[WORKER_VARIABLE],
        queue=QueueName(os.environ[QUEUE_VARIABLE]),
        slots=int(sender.concurrency or settings.slots),
        drain_mark=drain_mark(),
    )
    _presence.start()


def wait_for_schema(database: Database) -> None:
    """`ppo up` makes the database while its worker imports; where somebody else does, it is awaited as well."""
    deadline = time.monotonic() + SCHEMA_SECONDS
    while time.monotonic() < deadline:
        try:
            with database.read() as session:
                if is_migrated(session):
                    return
        except DatabaseUnavailable as error:
            logger.warning("the worker waits: %s", error)
        time.sleep(0.05)
    logger.warning("the database's schema is not that of this version")


def drain(**_: Any) -> None:
    """Called inside a signal handler: only a file is made."""
    if _presence is not None:
        _presence.drain()


def disappear(**_: Any) -> None:
    if _presence is not None:
        _presence.stop()


def open_slot(**_: Any) -> None:
    global _work
    kernel.adopt_orphans()
    os.environ[packs.DIGESTS] = json.dumps(packs.digests())
    queue = QueueName(os.environ[QUEUE_VARIABLE])
    gpu = current_process().index if queue is QueueName.CUDA else None
    slot = Slot(
        settings=settings,
        database=open_database(settings.database_url, durable=False),
        artifacts=open_artifacts(settings.artifacts_url),
        worker_id=os.environ[WORKER_VARIABLE],
        gpu=gpu,
        is_draining=drain_mark().exists,
        fork_server=fork_server(gpu) if settings.warm_children and can_fork() else None,
    )
    _work = SlotWork(slot, queue)
    _work.start()


def fork_server(gpu: int | None) -> ForkServer:
    return ForkServer(child_variables(os.environ, threads=1, gpu=gpu), directory=settings.data_dir)


def close_slot(**_: Any) -> None:
    if _work is not None:
        _work.close()


def drain_mark() -> Path:
    """The file whose existence tells every slot of this worker to let go of its job."""
    return settings.data_dir / "draining" / os.environ[WORKER_VARIABLE]


app.task(work, name=TASK)
signals.setup_logging.connect(set_up_logging)
signals.celeryd_init.connect(name_worker)
signals.worker_init.connect(appear)
signals.worker_shutting_down.connect(drain)
signals.worker_shutdown.connect(disappear)
signals.worker_process_init.connect(open_slot)
signals.worker_process_shutdown.connect(close_slot)
