"""A Celery app for the tests' own worker process: its task writes the time into a file."""

import os
import time
from pathlib import Path

from ppo_jobs.queue import TASK, celery_app
from ppo_jobs.settings import load_settings

app = celery_app(load_settings())


@app.task(name=TASK)
def work() -> None:
    path = Path(os.environ["PROBE_DIRECTORY"]) / f"{time.time_ns()}"
    path.write_text(str(os.getpid()))
