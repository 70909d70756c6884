"""Lists that are short enough to be one page."""

from collections.abc import Sequence
from typing import TypeVar

from ppo_jobs.schemas import Page

Item = TypeVar("Item")


def whole_page(items: Sequence[Item], ids: Sequence[str]) -> Page[Item]:
    """All `items`, whose cursors are `ids`."""
    return Page(data=list(items), has_more=False, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)
