import pytest

from ppo_engine.envs.registry import registered_environments
from tests.environments import add_plugin


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)
    registered_environments()
