"""Python SDK and command line of the service. Needs neither torch, FastAPI nor SQLAlchemy.

from ppo_client import Client

with Client() as client:
    job = client.submit("CartPole-v1", seed=1)
    for event in job.stream():
        print(event.seq, event.type, event.data)
    job.checkpoint("final").download("policy")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppo_client.checkpoints import CheckpointHandle
    from ppo_client.client import Client
    from ppo_client.errors import (
        ClientError,
        ConfigurationInvalid,
        Conflict,
        DownloadFailed,
        ExtraMissing,
        InvalidRequest,
        NotAuthorised,
        NotFound,
        ProblemError,
        ServerFailed,
        ServiceUnavailable,
        ServiceUnreachable,
        TooManyRequests,
        UnexpectedAnswer,
        WaitTimedOut,
    )
    from ppo_client.evaluations import EvaluationHandle
    from ppo_client.jobs import JobHandle
    from ppo_client.transport import RetryPolicy

__all__ = [
    "CheckpointHandle",
    "Client",
    "ClientError",
    "ConfigurationInvalid",
    "Conflict",
    "DownloadFailed",
    "EvaluationHandle",
    "ExtraMissing",
    "InvalidRequest",
    "JobHandle",
    "NotAuthorised",
    "NotFound",
    "ProblemError",
    "RetryPolicy",
    "ServerFailed",
    "ServiceUnavailable",
    "ServiceUnreachable",
    "TooManyRequests",
    "UnexpectedAnswer",
    "WaitTimedOut",
]

_HOMES = {
    "CheckpointHandle": "ppo_client.checkpoints",
    "Client": "ppo_client.client",
    "EvaluationHandle": "ppo_client.evaluations",
    "JobHandle": "ppo_client.jobs",
    "RetryPolicy": "ppo_client.transport",
}


def __getattr__(name: str) -> object:
    """Import on first use: httpx2 and pydantic take most of a second's third, which `ppo --help` does not need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "ppo_client.errors")), name)
