"""What is printed: JSON for programs; words, numbers and tables for people."""

import codecs
import io
import json
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

DIRECTIONS = frozenset({"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"})
"""Unicode's characters U+202A to U+202E and U+2066 to U+2069, which turn the direction of what follows."""
MARKS = frozenset("\u061c\u200e\u200f\u2028\u2029")
"""Marks of direction, and the separators of lines and paragraphs."""
NEAREST = "ppo.nearest"
PLAIN = {"–": "-", "…": "...", "�": "?"}
"""How the characters of our own texts are written in an encoding without them."""
STATUS_COLOURS = {
    "queued": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    align: Literal["left", "right"] = "left"
    rank: int = 0
    """Columns of the highest rank are left out first where the terminal is narrow; those of rank 0 never are."""
    shortest: int | None = None
    """The width that the column may be cut to; None: never cut."""


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))


def print_model(model: "BaseModel") -> None:
    """A wire model as one JSON document on stdout."""
    print_json(model.model_dump(mode="json"))


def print_models(models: "Sequence[BaseModel]") -> None:
    """Wire models as one JSON list of the API's form on stdout."""
    print_json({"object": "list", "data": [model.model_dump(mode="json") for model in models]})


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their titles; as wide as the terminal at most, and whole where the output is no terminal."""
    width = terminal_width() if sys.stdout.isatty() else None
    for number, line in enumerate(table_lines(columns, rows, width=width)):
        click.echo(click.style(line, bold=True) if number == 0 else line)


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None) -> list[str]:
    """The title line and one line per row."""
    from rich.cells import cell_len, set_cell_size

    cells = [[column.title for column in columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(click.unstyle(row[index])) for row in cells) for index in range(len(columns))]
    shown = list(range(len(columns)))

    def excess() -> int:
        return 0 if width is None else sum(widths[index] + 2 for index in shown) - 2 - width

    for index in [index for index in shown if columns[index].shortest is not None]:
        widths[index] -= min(max(0, excess()), max(0, widths[index] - (columns[index].shortest or 0)))
    while excess() > 0 and any(columns[index].rank for index in shown):
        shown.remove(max(shown, key=lambda index: (columns[index].rank, index)))

    def padded(text: str, index: int) -> str:
        length = cell_len(text)
        if length > widths[index]:
            return set_cell_size(text, widths[index] - 1) + "…"
        space = " " * (widths[index] - length)
        return space + text if columns[index].align == "right" else text + space

    def line(row: list[str], *, is_title: bool) -> str:
        texts = [padded(row[index], index) for index in shown]
        if not is_title:
            texts = [coloured(text) for text in texts]
        return "  ".join(texts).rstrip()

    return [line(row, is_title=number == 0) for number, row in enumerate(cells)]


def print_sheet(facts: Mapping[str, str | None]) -> None:
    """Named facts, one per line; those without a value are left out."""
    known = {name: value for name, value in facts.items() if value}
    longest = max(map(len, known), default=0)
    for name, value in known.items():
        first, *more = value.split("\n")
        click.echo(f"{click.style(name.ljust(longest), dim=True)}  {coloured(printable(first))}")
        for line in more:
            click.echo(f"{' ' * longest}  {printable(line)}")


def coloured(text: str) -> str:
    """The text in the colour of the status that it names, or as it is."""
    colour = STATUS_COLOURS.get(text.strip())
    return click.style(text, fg=colour) if colour else text


def terminal_width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def printable(text: str) -> str:
    """The text without control characters: names and logs are others' words and must not command the terminal.

    Those that end a line or turn the direction of writing are escaped: a name with them would show as another.
    """
    return "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    if unicodedata.category(character) == "Cc":
        return "�"
    is_unseen = unicodedata.bidirectional(character) in DIRECTIONS or character in MARKS
    return f"\\u{ord(character):04x}" if is_unseen else character


def write_in_any_encoding() -> None:
    """Have stdout and stderr write what they can of a text that their encoding has not, instead of failing."""
    codecs.register_error(NEAREST, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NEAREST)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def sentence(text: str) -> str:
    """The text with a capital letter at its start, without a stop at its end, so that more may follow."""
    is_name = "_" in text.partition(" ")[0]
    return printable(text if is_name else text[:1].upper() + text[1:]).rstrip(".")


def headline(text: str) -> str:
    """The first line: a reason says in it what happened, and below it may quote a traceback, which the log has too."""
    return text.partition("\n")[0]


def count(number: int) -> str:
    return f"{number:,}"


def decimal(number: float | None) -> str:
    """Four significant digits, and every digit before the point: 0.0003, 21.12, 187.3, 12,345."""
    if number is None:
        return "–"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.4g}"


def percent(fraction: float) -> str:
    """Whole percents, rounded down: 100 % means done."""
    return f"{int(fraction * 100 + 1e-9)} %"


def duration(seconds: float | None) -> str:
    """0:07, 12:30, 1:02:03, 2 d 03:04."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(number_bytes: int) -> str:
    """512 B, 1.2 KiB, 30 MiB."""
    amount = float(number_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def ago(moment: datetime | None) -> str:
    """now, 12 s ago, 3 min ago, 5 h ago; from two days on the date."""
    if moment is None:
        return "–"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 2:
        return "now"
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{moment.astimezone():%Y-%m-%d}"


def local_time(moment: datetime | None) -> str | None:
    """The moment on the clock of whoever reads it, to the second."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else None
