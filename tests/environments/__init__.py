"""A plugin of small environments, well- and ill-behaved, for the tests of every part.

`plugin/` is what an operator would have installed: the package `ppo_test_environments` beside its `.dist-info`, with an
entry point in the group `ppo_service.environments`. Put on the import path, it is found like any other plugin:

    from tests.environments import PLUGIN_PATH, add_plugin

    def test_...(monkeypatch): add_plugin(monkeypatch)      # this process, and every child started from it
    subprocess.Popen(..., env={**os.environ, "PYTHONPATH": str(PLUGIN_PATH)})      # a child alone

`odd/` is another, of several entry points, most of them with faults: see the docstrings of its modules. A test that has
it on its path says by `prefer_plugin` which of them may run in its own process.

The ids, their arguments and what they do stand in the docstring of `plugin/ppo_test_environments/__init__.py`.
"""

import os
import sys
from pathlib import Path

import pytest

PLUGIN_PATH = Path(__file__).parent / "plugin"
ODD_PATH = Path(__file__).parent / "odd"


def add_plugin(monkeypatch: pytest.MonkeyPatch, path: Path = PLUGIN_PATH) -> None:
    """Makes a plugin's environments known to this process and to the children it starts, for one test."""
    if str(path) not in sys.path:
        # Not syspath_prepend: that imports pkg_resources where it finds it, and warns.
        monkeypatch.setattr(sys, "path", [str(path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(path), prepend=os.pathsep)
