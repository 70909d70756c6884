"""Paths and lists of the API."""

from collections.abc import Iterator, Mapping
from urllib.parse import quote

from ppo_client.transport import Transport
from ppo_jobs.schemas import Item, Page


def segment(identifier: str) -> str:
    """An id as one segment of a path; one that could be read as more becomes one that no thing has."""
    return "-" if identifier in {"", ".", ".."} else quote(identifier, safe="")


def items(
    transport: Transport,
    model: type[Page[Item]],
    path: str,
    filters: Mapping[str, str | int | None] | None = None,
    *,
    after: str | int | None = None,
) -> Iterator[Item]:
    """The things of a list behind `after`; its pages are read as they are needed."""
    while True:
        page = transport.get(model, path, params={**(filters or {}), "after": after})
        yield from page.data
        if not page.has_more or page.last_id is None:
            return
        after = page.last_id
