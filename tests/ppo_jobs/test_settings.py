"""Settings say in one sentence what is wrong, and never show a password."""

from pathlib import Path

import pytest

from ppo_jobs.errors import SettingsInvalid
from ppo_jobs.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PPO_")]:
        monkeypatch.delenv(name)


def test_everything_without_a_url_of_its_own_is_kept_below_the_data_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PPO_DATA_DIR", str(tmp_path / "with space"))
    settings = load_settings()
    assert settings.data_dir == tmp_path / "with space"
    assert settings.database_url == f"sqlite:///{tmp_path}/with space/ppo.sqlite3"
    assert settings.broker_url == f"fsatomic://{tmp_path}/with%20space/broker"
    assert settings.artifacts_url == f"file://{tmp_path}/with%20space/artifacts"


def test_the_home_directory_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().data_dir == tmp_path / ".ppo-service"


def test_urls_of_the_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPO_DATABASE_URL", "postgresql+psycopg://u:p@db/ppo")
    monkeypatch.setenv("PPO_BROKER_URL", "redis://:p@broker:6379/0")
    settings = load_settings(port=9)
    assert (settings.database_url, settings.broker_url) == (
        "postgresql+psycopg://u:p@db/ppo",
        "redis://:p@broker:6379/0",
    )
    assert settings.port == 9


@pytest.mark.parametrize(("lease", "sweep"), [("30", 2.0), ("60", 2.0), ("5", 1.0), ("1", 0.2)])
def test_sweeps_follow_the_lease(monkeypatch: pytest.MonkeyPatch, lease: str, sweep: float) -> None:
    monkeypatch.setenv("PPO_LEASE_SECONDS", lease)
    assert load_settings().sweep_seconds == sweep
    assert load_settings(sweep_seconds=9).sweep_seconds == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PPO_LEASE_SECONDS", "soon"),
        ("PPO_LEASE_SECONDS", "0"),
        ("PPO_LEASE_SECONDS", "nan"),
        ("PPO_PORT", "99999"),
        ("PPO_SLOTS", "0"),
        ("PPO_DATABASE_URL", "mysql://u:s3cret@db/ppo"),
        ("PPO_DATABASE_URL", "postgresql://u:s3cret@db/ppo"),
        ("PPO_BROKER_URL", "amqp://u:s3cret@broker"),
        ("PPO_ARTIFACTS_URL", "s3://s3cret"),
        ("PPO_LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as refused:
        load_settings()
    message = str(refused.value)
    assert message.startswith(f"{name}: ")
    assert message.endswith(".")
    assert "\n" not in message
    assert "s3cret" not in message


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPO_DATABASE_URL", "")
    monkeypatch.setenv("PPO_LEASE_SECONDS", "")
    assert load_settings().database_url.startswith("sqlite:///")
    assert load_settings().lease_seconds == 30.0


def test_urls_are_not_in_the_repr() -> None:
    settings = Settings(database_url="postgresql+psycopg://u:s3cret@db/ppo", broker_url="redis://:s3cret@b/0")
    assert "s3cret" not in f"{settings!r} {settings}"
