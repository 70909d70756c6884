import pytest

from ppo_jobs.database import Database
from ppo_jobs.settings import Settings
from tests.environments import add_plugin
from tests.worker.workplace import Workplace


@pytest.fixture
def place(settings: Settings, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A slot whose children know the test environments."""
    add_plugin(monkeypatch)
    return Workplace(settings, database, tenant)
