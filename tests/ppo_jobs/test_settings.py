"""Settings say in one sentence what is wrong, and never show a password."""

from pathlib import Path

import pytest
from kombu import Connection
from sqlalchemy import make_url

from ppo_jobs import fsatomic
from ppo_jobs.artifacts import LocalArtifacts, open_artifacts
from ppo_jobs.database import migrate
from ppo_jobs.errors import SettingsInvalid
from ppo_jobs.settings import Settings, load_settings, sqlite_url


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
    assert make_url(settings.database_url).database == f"{tmp_path}/with space/ppo.sqlite3"
    assert settings.broker_url == f"fsatomic://{tmp_path}/with%20space/broker"
    assert settings.artifacts_url == f"file://{tmp_path}/with%20space/artifacts"


@pytest.mark.parametrize("name", ["da ta%20#é", "d?x=1", "p%41b", "a;b&c=d:e@f", "%", "feature%2Fname"])
def test_everything_is_kept_below_a_data_directory_of_any_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / name
    monkeypatch.setenv("PPO_DATA_DIR", str(directory))
    settings = load_settings()
    migrate(settings.database_url)
    with Connection(settings.broker_url) as broker:
        channel = broker.channel()
        assert isinstance(channel, fsatomic.Channel)
        assert channel.root == directory / "broker"
    artifacts = open_artifacts(settings.artifacts_url)
    assert isinstance(artifacts, LocalArtifacts)
    assert artifacts.root == directory / "artifacts"
    assert (directory / "ppo.sqlite3").is_file()
    assert list(tmp_path.iterdir()) == [directory]


def test_directories_whose_names_differ_behind_a_question_mark_share_nothing(tmp_path: Path) -> None:
    urls = [Settings(data_dir=tmp_path / name).database_url for name in ("x?1", "x?2", "x")]
    assert len({make_url(url).database for url in urls}) == 3


@pytest.mark.parametrize("name", ["x?1", "p%41b"])
def test_a_database_that_an_earlier_version_put_elsewhere_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    monkeypatch.setenv("PPO_DATA_DIR", str(directory))
    assert load_settings()
    (directory / "api_key").touch()
    earlier = Path(make_url(f"sqlite:///{directory}/ppo.sqlite3").database or "")
    earlier.parent.mkdir(exist_ok=True)
    migrate(sqlite_url(earlier))
    with pytest.raises(SettingsInvalid) as refused:
        load_settings()
    assert str(earlier) in str(refused.value)
    assert str(directory / "ppo.sqlite3") in str(refused.value)
    earlier.rename(directory / "ppo.sqlite3")
    assert load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PPO_DATABASE_URL", "sqlite:////srv/x?1/ppo.sqlite3"),
        ("PPO_DATABASE_URL", "sqlite:///ppo.sqlite3"),
        ("PPO_DATABASE_URL", "sqlite://"),
        ("PPO_DATABASE_URL", "sqlite:///:memory:"),
        ("PPO_BROKER_URL", "fsatomic:///srv/x#1"),
        ("PPO_BROKER_URL", "fsatomic://srv/x"),
        ("PPO_ARTIFACTS_URL", "file:///srv/x?1"),
        ("PPO_ARTIFACTS_URL", "file://srv/x"),
        ("PPO_DATABASE_URL", "postgresql+psycopg://u:p@host:s3cret/ppo"),
        ("PPO_BROKER_URL", "redis://u:p@[s3cret/0"),
    ],
)
def test_a_url_of_which_a_part_would_be_lost_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid, match=f"^{name}: ") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["PPO_LEASE_SECOND", "PPO_DATABASEURL", "PPO_BROKER_URL_FILES", "PPO_LEASE_SECS"])
def test_a_mistyped_variable_is_told_with_the_name_that_was_meant(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "60")
    with pytest.raises(SettingsInvalid, match=f"^{name} is no setting; PPO_[A-Z_]+ is"):
        load_settings()


@pytest.mark.parametrize(
    "name", ["PPO_API_KEY", "PPO_API_KEY_FILE", "PPO_TEST_BROKER_URL", "PPO_UP_PID", "PPO_CHECKPOINT", "PPO_"]
)
def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "60")
    assert load_settings()


def test_a_setting_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql+psycopg://u:p@db/ppo\n")
    monkeypatch.setenv("PPO_DATABASE_URL_FILE", str(secret))
    (tmp_path / "port").write_text("9")
    monkeypatch.setenv("PPO_PORT_FILE", str(tmp_path / "port"))
    assert load_settings().database_url == "postgresql+psycopg://u:p@db/ppo"
    assert (load_settings().port, load_settings(port=8).port) == (9, 8)


def test_a_file_that_cannot_be_read_or_that_competes_with_a_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PPO_BROKER_URL_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsInvalid, match=r"^PPO_BROKER_URL_FILE: .*No such file"):
        load_settings()
    (tmp_path / "none").write_bytes(b"\xff")
    with pytest.raises(SettingsInvalid, match=r"^PPO_BROKER_URL_FILE: .*no text"):
        load_settings()
    (tmp_path / "none").write_text("redis://broker/0")
    monkeypatch.setenv("PPO_BROKER_URL", "redis://other/0")
    with pytest.raises(SettingsInvalid, match=r"^PPO_BROKER_URL and PPO_BROKER_URL_FILE are both set"):
        load_settings()


def test_without_a_home_the_data_directory_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(SettingsInvalid, match=r"^PPO_DATA_DIR: .*home"):
        load_settings()


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
