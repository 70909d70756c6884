from pathlib import Path

import pytest

from ppo_client.config import discover
from ppo_client.errors import ConfigurationInvalid


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "api_url").write_text("http://127.0.0.1:8123\n")
    (tmp_path / "api_key").write_text("ppo_file\n")
    return tmp_path


def test_what_is_given_wins_over_the_environment_which_wins_over_files(directory: Path) -> None:
    files = {"PPO_DATA_DIR": str(directory)}
    variables = {**files, "PPO_API_URL": "http://env:1", "PPO_API_KEY": "ppo_env"}

    given = discover("http://given:2/", "ppo_given", environment=variables)
    assert (given.url, given.api_key) == ("http://given:2", "ppo_given")
    from_environment = discover(environment=variables)
    assert (from_environment.url, from_environment.api_key) == ("http://env:1", "ppo_env")
    from_files = discover(environment=files)
    assert (from_files.url, from_files.api_key) == ("http://127.0.0.1:8123", "ppo_file")


def test_without_any_trace_of_a_service_the_default_address_is_tried(tmp_path: Path) -> None:
    connection = discover(environment={"PPO_DATA_DIR": str(tmp_path / "nowhere")})
    assert (connection.url, connection.api_key) == ("http://127.0.0.1:8000", None)


def test_the_key_is_in_no_representation() -> None:
    assert "ppo_secret" not in repr(discover("http://a", "ppo_secret", environment={}))


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://a b", "http://[::1"]
)
def test_an_address_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        discover(url, environment={})
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("key", ["ppo_a b", "ppo_é", "ppo_a\nX-Evil: 1"])
def test_a_key_that_no_header_may_hold_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        discover("http://a", key, environment={})
    assert key not in str(caught.value)


def test_an_unreadable_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "api_key").mkdir()
    with pytest.raises(ConfigurationInvalid, match="api_key"):
        discover(environment={"PPO_DATA_DIR": str(tmp_path)})


def test_the_key_may_stand_in_a_file_that_is_named_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ppo_of_a_file\n")
    named = {"PPO_API_KEY_FILE": str(tmp_path / "key"), "PPO_DATA_DIR": str(tmp_path / "nowhere")}
    assert discover("http://a", environment=named).api_key == "ppo_of_a_file"
    assert discover("http://a", environment={**named, "PPO_API_KEY": "ppo_set"}).api_key == "ppo_set"
    with pytest.raises(ConfigurationInvalid, match="PPO_API_KEY_FILE"):
        discover("http://a", environment={**named, "PPO_API_KEY_FILE": str(tmp_path / "none")})


def test_a_user_without_a_home_can_name_service_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(Path, "home", homeless)
    assert discover("http://a", "ppo_key", environment={}).api_key == "ppo_key"
    assert discover(environment={}).url == "http://127.0.0.1:8000"
