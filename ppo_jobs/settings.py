"""The settings of a deployment: `PPO_…` variables of the environment, read once at each entry point."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ppo_jobs.errors import SettingsInvalid

DATABASE_SCHEMES = ("sqlite", "postgresql+psycopg")
BROKER_SCHEMES = ("fsatomic", "redis", "rediss", "unix", "redis+socket")
ARTIFACT_SCHEMES = ("file",)

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What every process of one deployment shares. URLs may hold passwords and are never part of the `repr`."""

    model_config = SettingsConfigDict(
        env_prefix="PPO_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    data_dir: Path = Path("~/.ppo-service")
    """Where everything is kept that has no URL of its own."""
    database_url: str = Field(default="", repr=False)
    """`sqlite:////absolute/path` or `postgresql+psycopg://…`; by default SQLite below `data_dir`."""
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
        directory = Path(given.get("data_dir", "~/.ppo-service")).expanduser().absolute()
        path = quote(str(directory))
        derived: dict[str, Any] = {
            "data_dir": directory,
            "database_url": f"sqlite:///{directory}/ppo.sqlite3",
            "broker_url": f"fsatomic://{path}/broker",
            "artifacts_url": f"file://{path}/artifacts",
        }
        with suppress(ValueError):  # The field itself says what is wrong with the lease.
            derived["sweep_seconds"] = min(2.0, float(given.get("lease_seconds", 30.0)) / 5)
        return derived | given | {"data_dir": directory}

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        return _with_scheme(url, DATABASE_SCHEMES)

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        return _with_scheme(url, BROKER_SCHEMES)

    @field_validator("artifacts_url")
    @classmethod
    def _known_artifacts(cls, url: str) -> str:
        return _with_scheme(url, ARTIFACT_SCHEMES)


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, under those that a command line gave.

    Raises:
        SettingsInvalid: one makes no sense; the message names its variable, never its value.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        name = f"PPO_{'_'.join(str(part) for part in fault['loc'])}".upper()
        raise SettingsInvalid(f"{name}: {fault['msg'].removeprefix('Value error, ')}.") from None


def _with_scheme(url: str, schemes: tuple[str, ...]) -> str:
    if urlsplit(url).scheme not in schemes:
        raise ValueError(f"the URL must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return url
