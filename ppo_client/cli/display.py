"""How watched jobs look: a live bar on a terminal, a line now and then elsewhere, NDJSON for programs."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from ppo_client.cli.following import Watched
from ppo_client.cli.output import STATUS_COLOURS, count, decimal, duration, percent, printable
from ppo_client.cli.session import session
from ppo_jobs.states import JobStatus

if TYPE_CHECKING:
    from rich.table import Table

    from ppo_jobs.schemas import LedgerEvent

LINE_SECONDS = 5.0
"""At most so often does a job say in a line how far it is."""


BAR_WIDTH = 8
"""At least so much is left for a bar."""


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

    def __init__(self, jobs: Sequence[Watched]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._jobs = jobs
        self._console = Console()
        self.live = Live(console=self._console, get_renderable=self._table, refresh_per_second=6)

    def show(self, watched: Watched, event: "LedgerEvent | None", remark: str | None) -> None:
        if remark and event is not None and watched.status not in (JobStatus.QUEUED, JobStatus.SUCCEEDED):
            self.say(f"{watched.label}: {remark}" if len(self._jobs) > 1 else remark)

    def say(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> "Table":
        """A row per job, with as many columns as the terminal has room for at this moment."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = [_cells(watched) for watched in self._jobs]
        widths = fitting_widths(rows, self._console.width)
        label, *beside = widths
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(no_wrap=True, width=widths[label])
        table.add_column(ratio=1)
        for name in beside:
            table.add_column(no_wrap=True, width=widths[name], justify="left" if name == "state" else "right")
        for watched, row in zip(self._jobs, rows, strict=True):
            colour = STATUS_COLOURS[watched.status.value]
            bar = ProgressBar(total=1.0, completed=watched.fraction, complete_style=colour, finished_style=colour)
            texts = [Text(row[name], style=colour if name == "state" else "") for name in beside]
            table.add_row(Text(row[label]), bar, *texts)
        return table


@contextmanager
def opened_display(jobs: Sequence[Watched]) -> Iterator[Display]:
    """The display that suits who reads stdout: bars on a terminal, else lines."""
    if not sys.stdout.isatty():
        yield Lines(jobs)
        return
    here, bars = session(), Bars(jobs)
    before, here.say = here.say, bars.say
    try:
        with bars.live:
            yield bars
    finally:
        here.say = before


def progress_in_words(watched: Watched) -> str:
    """`running   42 %  42,240 / 100,000  return 187.3  8,412 steps/s  0:07 left`, or why the job waits."""
    if watched.status == JobStatus.QUEUED or watched.waiting_for:
        return _waiting(watched)
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


def _waiting(watched: Watched) -> str:
    return ": ".join(filter(None, (watched.status.value, watched.waiting_for)))


def _cells(watched: Watched) -> dict[str, str]:
    """The texts beside a bar."""
    is_running = watched.status == JobStatus.RUNNING
    state = "" if is_running and not watched.waiting_for else _waiting(watched)
    return {
        "label": printable(watched.label),
        "percent": percent(watched.fraction),
        "steps": f"{count(watched.timesteps)} / {count(watched.total)}",
        "return": f"return {decimal(watched.mean_return)}" if watched.metrics else "",
        "speed": f"{count(round(watched.fps))} steps/s" if is_running and watched.fps else "",
        "left": f"{duration(watched.eta_seconds)} left" if is_running and watched.eta_seconds is not None else "",
        "state": printable(state),
    }


def fitting_widths(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, int]:
    """The columns that a terminal of this width has room for beside the bars, in their order, and their widths.

    Label, percentage and state are always there, the long ones cut; the others in the order of what people ask first.
    """
    from rich.cells import cell_len

    widths = {name: max(cell_len(row[name]) for row in rows) for name in rows[0]}
    widths["label"] = min(widths["label"], max(8, width // 3))
    widths["state"] = min(widths["state"], max(9, width // 3))
    shown = {"label", "percent", "state"}
    room = width - BAR_WIDTH - 1 - sum(widths[name] + 1 for name in shown)
    for name in ("return", "left", "steps", "speed"):
        if widths[name] + 1 <= room:
            shown.add(name)
            room -= widths[name] + 1
    return {name: widths[name] for name in widths if name in shown and widths[name]}
