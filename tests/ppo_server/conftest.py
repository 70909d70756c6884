import os
from collections.abc import Iterator

import pytest

from ppo_jobs import kernel


@pytest.fixture(autouse=True)
def _as_open_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that runs in the process of the tests makes that private, too."""
    before = os.umask(0o022)
    os.umask(before)
    monkeypatch.setattr(kernel, "hide_secrets", lambda: None)
    yield
    os.umask(before)
