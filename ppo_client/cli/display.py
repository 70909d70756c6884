"""How watched jobs look: a live bar on a terminal, a line now and then elsewhere, NDJSON for programs."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from ppo_client.cli.following import Watched
from ppo_client.cli.output import STATUS_COLOURS, count, decimal, duration, percent, printable
from ppo_client.cli.session import session
from ppo_jobs.states import JobStatus

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ppo_jobs.schemas import LedgerEvent

LINE_SECONDS = 5.0
"""At most so often does a job say in a line how far it is."""


class Display(Protocol):
    """Shows what becomes known of watched jobs."""

    def show(self, watched: Watched, event: "LedgerEvent | None", remark: str | None) -> None:
        """An event came (None: time passed, or the job ended), with a remark where it deserves a line."""


class JSONLines:
    """Every event of every ledger as a line, then each job as it ended."""

    def show(self, watched: Watched, event: "LedgerEvent | None", remark: str | None) -> None:
        if event is not None:
            click.echo(json.dumps({"job_id": watched.handle.id, **event.model_dump(mode="json")}))
        elif watched.handle.is_finished:
            click.echo(json.dumps(watched.handle.data.model_dump(mode="json")))


class Silence:
    """Nothing, for commands whose result is one document at the end."""

    def show(self, watched: Watched, event: "LedgerEvent | None", remark: str | None) -> None:
        return None


class Lines:
    """A line per change of status, and one every few seconds on how far a job is."""

    def __init__(self, jobs: Sequence[Watched]) -> None:
        self._longest = max(len(watched.label) for watched in jobs) if len(jobs) > 1 else 0
        self._next_line = dict.fromkeys((watched.handle.id for watched in jobs), 0.0)
        self._last_line: dict[str, str] = {}

    def show(self, watched: Watched, event: "LedgerEvent | None", remark: str | None) -> None:
        is_due = time.monotonic() >= self._next_line[watched.handle.id]
        if remark:
            self._print(watched, remark)
        elif is_due and not watched.handle.is_finished:
            self._print(watched, progress_in_words(watched))

    def _print(self, watched: Watched, text: str) -> None:
        job_id = watched.handle.id
        self._next_line[job_id] = time.monotonic() + LINE_SECONDS
        if self._last_line.get(job_id) != text:
            self._last_line[job_id] = text
            label = f"{watched.label.ljust(self._longest)}  " if self._longest else ""
            click.echo(printable(f"{time.strftime('%H:%M:%S')}  {label}{text}"))


class Bars:
    """A bar per job, redrawn in place, with remarks scrolling by above."""

    def __init__(self, jobs: Sequence[Watched], progress: "Progress") -> None:
        self._progress = progress
        self._is_many = len(jobs) > 1
        self._tasks: dict[str, TaskID] = {
            watched.handle.id: progress.add_task("", total=1.0, **_cells(watched)) for watched in jobs
        }

    def show(self, watched: Watched, event: "LedgerEvent | None", remark: str | None) -> None:
        task = self._tasks[watched.handle.id]
        self._progress.update(task, completed=watched.fraction, **_cells(watched))
        if remark and event is not None and watched.status not in (JobStatus.QUEUED, JobStatus.SUCCEEDED):
            label = f"{watched.label}: " if self._is_many else ""
            self._progress.console.print(printable(f"{label}{remark}"), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def opened_display(jobs: Sequence[Watched], *, as_json: bool) -> Iterator[Display]:
    """The display that suits who reads stdout."""
    if as_json:
        yield JSONLines()
    elif not sys.stdout.isatty():
        yield Lines(jobs)
    else:
        here = session()
        with _progress(jobs) as progress:
            before, here.say = here.say, lambda text: progress.console.print(printable(text), style="yellow")
            try:
                yield Bars(jobs, progress)
            finally:
                here.say = before


def progress_in_words(watched: Watched) -> str:
    """`running   42 %  42,240 / 100,000  return 187.3  8,412 steps/s  0:07 left`, or why the job waits."""
    if watched.status == JobStatus.QUEUED:
        return f"queued: {watched.waiting_for}" if watched.waiting_for else "queued"
    parts = [
        watched.status.value,
        f"{percent(watched.fraction):>5}",
        f"{count(watched.timesteps)} / {count(watched.total)}",
        f"return {decimal(watched.mean_return)}",
    ]
    if watched.fps:
        parts.append(f"{count(round(watched.fps))} steps/s")
    if watched.eta_seconds is not None:
        parts.append(f"{duration(watched.eta_seconds)} left")
    return "  ".join(parts)


def _cells(watched: Watched) -> dict[str, Any]:
    """The texts of a bar's columns."""
    is_running = watched.status == JobStatus.RUNNING
    state = "" if is_running else watched.status.value
    if watched.status == JobStatus.QUEUED and watched.waiting_for:
        state = f"queued: {watched.waiting_for}"
    return {
        "label": printable(watched.label),
        "percent": percent(watched.fraction),
        "steps": f"{count(watched.timesteps)} / {count(watched.total)}",
        "mean_return": f"return {decimal(watched.mean_return)}" if watched.metrics else "",
        "speed": f"{count(round(watched.fps))} steps/s" if is_running and watched.fps else "",
        "left": f"{duration(watched.eta_seconds)} left" if is_running and watched.eta_seconds is not None else "",
        "state": printable(state),
        "colour": STATUS_COLOURS[watched.status.value],
    }


def _progress(jobs: Sequence[Watched]) -> "Progress":
    """The bars, with as many columns as the terminal has room for."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console()
    room = console.width - max((len(watched.label) for watched in jobs), default=0)

    def text(name: str, *, align: str = "right") -> TextColumn:
        column = Column(no_wrap=True, justify="right" if align == "right" else "left")
        return TextColumn(f"{{task.fields[{name}]}}", markup=False, table_column=column)

    columns = [text("label", align="left"), BarColumn(bar_width=None, table_column=Column(ratio=1)), text("percent")]
    for name, needed in (("mean_return", 34), ("left", 48), ("steps", 70), ("speed", 86)):
        if room >= needed:
            columns.append(text(name))
    state = Column(no_wrap=True, overflow="ellipsis")
    columns.append(TextColumn("[{task.fields[colour]}]{task.fields[state]}", table_column=state))
    return Progress(*columns, console=console, expand=True, refresh_per_second=8)
