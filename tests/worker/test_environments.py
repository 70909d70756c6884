"""What a worker knows of environments, and when: whatever an author got wrong costs that environment only."""

import contextlib
import threading
import time
from pathlib import Path

import pytest

from ppo_engine.envs.shipped import installed, path_of, shipped
from ppo_engine.envs.shipped.__main__ import described
from ppo_jobs.database import Database
from ppo_jobs.repository import workers
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from tests.environments import ODD_PATH, PLUGIN_PATH, add_plugin
from tests.worker.workplace import eventually
from worker.environments import Environments
from worker.presence import Presence

REASONS = {
    "Aborts": "it ended its process, by SIGABRT", "BadMasks": "ZeroDivisionError", "ClashingKeys": "keys",
    "Ends": "exit status 0", "Exits": "SystemExit: no licence", "Hangs": "it did not come back",
    "Interrupts": "KeyboardInterrupt", "Missing": "nowhere", "NoSpace": "NoneType is not supported",
    "Surrogate": "?", "Unprintable": "Unprintable",
}  # fmt: skip
LITTER = (
    "Forks",
    "Prints",
    "Threads",
    "Zuletzt",
    "Half",
    "Partial",
    "Scalar",
    "NumberedKeys",
    "BadAnnotations",
    "Needs",
)
FAILURES = {
    "abort": "SIGABRT", "exit": "SystemExit: no licence", "hang": "did not come back", "fail_half_way": "no simulator"
}  # fmt: skip


def described_by(environments: Environments) -> Environments:
    """Once all is described that can be."""
    deadline = time.monotonic() + 90
    environments.describe(contextlib.nullcontext())
    while environments.pending:
        assert time.monotonic() < deadline, environments.pending
        environments.listen(0.2)
        environments.describe(contextlib.nullcontext())
    environments.stop()
    return environments


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch, PLUGIN_PATH)
    add_plugin(monkeypatch, ODD_PATH)
    monkeypatch.setenv("PPO_DESCRIBE_SECONDS", "5")


def test_a_worker_offers_at_once_what_is_known_and_then_what_it_finds_of_odd_plugins(
    odd: None, settings: Settings, database: Database, tmp_path: Path
) -> None:
    worker = Presence(
        settings, database, worker_id="cpu@here:1", queue=QueueName.CPU, slots=1, drain_mark=tmp_path / "draining" / "1"
    )

    def entry(env_id: str):
        with database.read() as session:
            return workers.environment(session, env_id)

    def origins(env_id: str) -> list[str]:
        with database.read() as session:
            return workers.pending_origins(session, env_id)

    worker.start()
    try:
        eventually(lambda: entry("CartPole-v1"))
        assert origins("odd/Partial-v0") and origins("nothing/At-all-v0")
        eventually(lambda: not origins("nothing/At-all-v0"), seconds=90)
        for name, reason in REASONS.items():
            found = eventually(lambda name=name: entry(f"odd/{name}-v0"))
            assert not found.supported and reason in found.unsupported_reason, (name, found.unsupported_reason)
        for name in LITTER:
            found = eventually(lambda name=name: entry(f"odd/{name}-v0"))
            assert found.supported and found.plugin.startswith("odd_environments."), name
        assert entry("odd/Made-up-v0") is None
        assert eventually(lambda: entry("test/Walk-v0")).supported
    finally:
        worker.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "presence"]


def test_failures_name_the_plugin_and_what_is_well_is_kept_until_it_changes(
    odd: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = described_by(Environments(tmp_path))
    for function, reason in FAILURES.items():
        assert reason in first.failures[f"odd-environments 1.0 (odd_environments.registering:{function})"]
    assert "environment odd/Aborts-v0 of odd-environments 1.0 is not offered" in caplog.text
    again = Environments(tmp_path)
    # All of `unusual` but one is well, so that it is described again, as is the other plugin with its faulty ones.
    assert "CartPole-v1" in again.known and again.pending.keys() >= {"odd_environments.harmful:register"}


def test_a_plugin_is_kept_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, package, data = tmp_path / "fine-1.0.dist-info", tmp_path / "fine", tmp_path / "data"
    info.mkdir(), package.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ppo_service.environments]\nfine = fine:register\n")
    source = 'import gymnasium\ndef register(): gymnasium.register("fine/{}-v0", "gymnasium.envs.toy_text:TaxiEnv")\n'
    (package / "__init__.py").write_text(source.format("One"))
    add_plugin(monkeypatch, tmp_path)
    assert "fine/One-v0" not in Environments(data).known
    assert described_by(Environments(data)).known["fine/One-v0"].supported
    kept = Environments(data)
    assert kept.known["fine/One-v0"].origin == "fine 1.0" and not kept.pending
    (package / "__init__.py").write_text(source.format("Another"))
    assert "fine/One-v0" not in Environments(data).known and Environments(data).pending
    (data / "environments.json").write_text("{")
    assert Environments(data).pending


def test_what_is_shipped_is_what_the_supported_versions_have() -> None:
    """Where this fails after an upgrade: `python -m ppo_engine.envs.shipped`."""
    assert installed() == ["gymnasium", "ale-py", "minigrid"]
    for distribution in installed():
        assert path_of(distribution).read_text() == described(distribution), distribution
        assert shipped(distribution)
