"""Where the service is, and which key opens it: from the environment, else from what `ppo up` left on disk."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ppo_client.errors import ConfigurationInvalid

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Connection:
    """Address and key of one service."""

    url: str
    """Without a slash at its end."""
    api_key: str | None = field(repr=False)
    source: str
    """Where the URL was found, in words."""

    @property
    def is_local(self) -> bool:
        """Whether the service runs on this machine, so that no proxy may stand between."""
        return (urlsplit(self.url).hostname or "") in {"127.0.0.1", "localhost", "::1"}


def discover(
    url: str | None = None, api_key: str | None = None, *, environment: Mapping[str, str] = os.environ
) -> Connection:
    """The connection to use: what is given, else `PPO_API_URL` and `PPO_API_KEY`, else the files of `ppo up`.

    `PPO_API_KEY_FILE` may name a file with the key instead.

    Raises:
        ConfigurationInvalid: the URL is no HTTP address, or the key holds characters that no key has.
    """
    directory = data_directory(environment)
    found_url, source = _first(
        (url, "as given"),
        (environment.get("PPO_API_URL"), "from PPO_API_URL"),
        (_first_line(directory / "api_url"), f"from {directory / 'api_url'}"),
        (DEFAULT_URL, "the default"),
    )
    found_key, _ = _first(
        (api_key, ""),
        (environment.get("PPO_API_KEY"), ""),
        (_key_of_file(environment.get("PPO_API_KEY_FILE")), ""),
        (_first_line(directory / "api_key"), ""),
        (None, ""),
    )
    return Connection(_checked_url(found_url or DEFAULT_URL), _checked_key(found_key), source)


def data_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a service of this user keeps its data unless told otherwise."""
    directory = Path(environment.get("PPO_DATA_DIR") or "~/.ppo-service")
    with suppress(RuntimeError):  # A user without a home directory: then nothing will be found there.
        directory = directory.expanduser()
    return directory


def _key_of_file(path: str | None) -> str | None:
    """The operator's word: a file that is named must be there."""
    if not path:
        return None
    if (key := _first_line(Path(path))) is None:
        raise ConfigurationInvalid(f"PPO_API_KEY_FILE: there is no key in {path}.")
    return key


def _first(*candidates: tuple[str | None, str]) -> tuple[str | None, str]:
    return next((candidate for candidate in candidates if candidate[0]), candidates[-1])


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip().partition("\n")[0] or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(f"{path} cannot be read: {error}.") from None


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise ConfigurationInvalid(f"{url!r} is no address of a service, such as {DEFAULT_URL}.")
    return url.rstrip("/")


def _checked_key(key: str | None) -> str | None:
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationInvalid("The API key holds characters that no key has: it was not copied whole")
    return key or None
