"""The settings of a deployment: `PPO_…` variables of the environment, read once at each entry point.

Each may stand in a file instead, which the variable with `_FILE` behind its name points to: other programs of this
user can read a process's variables.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ppo_jobs.errors import SettingsInvalid

PREFIX, IN_FILE = "PPO_", "_FILE"
OF_OTHERS = frozenset(
    {"PPO_API_URL", "PPO_API_KEY", "PPO_API_KEY_FILE", "PPO_PULSE", "PPO_UP_PID", "PPO_WORKER_ID", "PPO_WORKER_QUEUE"}
)
"""Variables of the client, and of processes that tell each other something."""

OF_TESTS = ("PPO_TEST_", "PPO_BENCH_")

SIMILAR = 0.75
"""A variable whose name is so like a setting's was meant for it."""

DATABASE_SCHEMES = ("sqlite", "postgresql+psycopg")
BROKER_SCHEMES = ("fsatomic", "redis", "rediss", "unix", "redis+socket")
ARTIFACT_SCHEMES = ("file",)

DATABASE = "ppo.sqlite3"
"""Below the data directory."""

PATH_WANTED = "the URL must be {}/absolute/path, in which ? stands as %3F, # as %23 and % as %25"

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What every process of one deployment shares. URLs may hold passwords and are never part of the `repr`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    data_dir: Path = Path("~/.ppo-service")
    """Where everything is kept that has no URL of its own."""
    database_url: str = Field(default="", repr=False)
    """`sqlite:////absolute/path`, quoted as in every URL, or `postgresql+psycopg://…`; by default SQLite below
    `data_dir`."""
    broker_url: str = Field(default="", repr=False)
    """`redis://…`, or `fsatomic:///absolute/path` for the embedded file broker, by default below `data_dir`."""
    artifacts_url: str = Field(default="", repr=False)
    """`file:///absolute/path` of the checkpoints' files; by default below `data_dir`."""
    lease_seconds: Seconds = 30.0
    """A worker that was not heard of for so long has lost its jobs."""
    sweep_seconds: Seconds = 2.0
    """How often the sweeper looks; by default 2 seconds, or a fifth of the lease if that is less."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1024)
    """Jobs that one worker trains at the same time on the CPU."""
    warm_children: bool = True
    """Whether each slot keeps a process with the engine imported, from which its children are forked; Linux only. It
    takes some 300 MB a slot and spares each job the two seconds of importing it."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in values.items() if value != ""}
        try:
            directory = Path(given.get("data_dir", "~/.ppo-service")).expanduser().absolute()
        except RuntimeError:
            raise SettingsInvalid("PPO_DATA_DIR: it must be set, since this user has no home directory.") from None
        path = quote(str(directory))
        derived: dict[str, Any] = {
            "data_dir": directory,
            "database_url": sqlite_url(directory / DATABASE),
            "broker_url": f"fsatomic://{path}/broker",
            "artifacts_url": f"file://{path}/artifacts",
        }
        with suppress(ValueError):  # The field itself says what is wrong with the lease.
            derived["sweep_seconds"] = min(2.0, float(given.get("lease_seconds", 30.0)) / 5)
        return derived | given | {"data_dir": directory}

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        _with_scheme(url, DATABASE_SCHEMES)
        if url.startswith("sqlite:"):
            if "?" in url or not url.startswith("sqlite:////"):
                raise ValueError(PATH_WANTED.format("sqlite:///"))
            return url
        # A password may hold what urllib would refuse.
        server = url.partition("://")[2].rpartition("@")[2].partition("/")[0]
        if not server.endswith("]") and not re.fullmatch(r"[^:]*|.*:\d*", server):
            raise ValueError("this is no URL of a database")
        return url

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        return _whole_path(_with_scheme(url, BROKER_SCHEMES), "fsatomic")

    @field_validator("artifacts_url")
    @classmethod
    def _known_artifacts(cls, url: str) -> str:
        return _whole_path(_with_scheme(url, ARTIFACT_SCHEMES), "file")


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, under those that a command line gave.

    Raises:
        SettingsInvalid: one makes no sense; the message names its variable, never its value.
    """
    _refuse_mistyped(os.environ)
    try:
        settings = Settings(**{**_from_files(os.environ), **given})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        name = f"{PREFIX}{'_'.join(str(part) for part in fault['loc'])}".upper()
        raise SettingsInvalid(f"{name}: {fault['msg'].removeprefix('Value error, ')}.") from None
    _refuse_misplaced_database(settings)
    return settings


def sqlite_url(path: Path) -> str:
    """The URL of a database's file, whatever characters are in its name."""
    # As SQLAlchemy does it, whose import would hold up every start.
    return f"sqlite:///{quote(str(path), safe=' +/')}"


def variables_of_settings() -> dict[str, str]:
    """The variable of each setting."""
    return {field: f"{PREFIX}{field}".upper() for field in Settings.model_fields}


def _from_files(variables: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for field, name in variables_of_settings().items():
        path = variables.get(f"{name}{IN_FILE}")
        if not path:
            continue
        if variables.get(name):
            raise SettingsInvalid(f"{name} and {name}{IN_FILE} are both set.")
        try:
            found[field] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsInvalid(f"{name}{IN_FILE}: {path} cannot be read: {error.strerror}.") from None
        except ValueError:
            raise SettingsInvalid(f"{name}{IN_FILE}: {path} holds no text.") from None
    return found


def _refuse_mistyped(variables: Mapping[str, str]) -> None:
    """A setting that is silently not set is found when it is too late; other programs' variables are left alone."""
    names = variables_of_settings().values()
    known = {*names, *(f"{name}{IN_FILE}" for name in names)}
    endings = {name.removeprefix(PREFIX): name for name in known}
    for name in sorted(variables.keys() - known - OF_OTHERS):
        if not name.startswith(PREFIX) or name.startswith(OF_TESTS):
            continue
        if meant := get_close_matches(name.removeprefix(PREFIX), endings, 1, SIMILAR):
            raise SettingsInvalid(f"{name} is no setting; {endings[meant[0]]} is.")


def _refuse_misplaced_database(settings: Settings) -> None:
    """Earlier versions did not quote the path, so that `%41`, `?` and what follows it led elsewhere."""
    directory, url = settings.data_dir, settings.database_url
    with suppress(OSError):
        earlier = Path(unquote(f"{directory}/{DATABASE}".partition("?")[0]))
        if url != sqlite_url(directory / DATABASE) or earlier == directory / DATABASE:
            return
        if earlier.is_file() and any(directory.iterdir()) and not (directory / DATABASE).exists():
            raise SettingsInvalid(
                f"An earlier version kept the database of {directory} in {earlier}: move it, with its -wal and -shm if"
                f" there are any, to {directory / DATABASE}."
            )


def _with_scheme(url: str, schemes: tuple[str, ...]) -> str:
    if not url.startswith(tuple(f"{scheme}:" for scheme in schemes)):
        raise ValueError(f"the URL must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return url


def _whole_path(url: str, scheme: str) -> str:
    """Of a URL that names a directory, nothing may be lost on the way there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("this is no URL") from None
    if parts.scheme == scheme and (parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/")):
        raise ValueError(PATH_WANTED.format(f"{scheme}://"))
    return url
