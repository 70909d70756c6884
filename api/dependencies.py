"""What endpoints are given: the process's own things, who asks, and where in a list."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from celery import Celery
from fastapi import Depends, Header, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from api.errors import Unauthorized
from api.keys import KeyWatch
from api.streams import Streams
from api.tailer import Tailer
from ppo_jobs.artifacts import ArtifactStore
from ppo_jobs.database import Database
from ppo_jobs.errors import CheckpointNotFound, EvaluationNotFound, JobNotFound
from ppo_jobs.repository import tenants
from ppo_jobs.repository.tenants import Principal

MAX_SEQ = 2**53 - 1
"""The largest integer that every JSON reader keeps exact; a ledger ends long before."""

MAX_WAIT_SECONDS = 60.0

_ID_PATTERN = r"[0-9a-z]{26}"
_bearer = HTTPBearer(auto_error=False, description="An API key, `ppo_…`, as `ppo up` and `ppo keys` make them.")


@dataclass(frozen=True, slots=True)
class Services:
    """What one API process holds, from its start to its end."""

    database: Database
    artifacts: ArtifactStore
    queue: Celery
    tailer: Tailer
    streams: Streams
    keys: KeyWatch


async def services_of(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesOf = Annotated[Services, Depends(services_of)]


async def principal_of(
    request: Request,
    services: ServicesOf,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> AsyncIterator[Principal]:
    """Whom the request acts for, until its answer has been sent, or its key revoked.

    The session is closed before the endpoint starts, so that no stream holds it.

    Raises:
        ProblemError: 401, the same for a key that is missing, malformed, wrong or revoked.
    """
    principal = None
    if credentials is not None:
        principal = await run_in_threadpool(_authenticated, services.database, credentials.credentials)
    if principal is None:
        raise Unauthorized
    with services.keys.granted(principal.key_id) as grant:
        request.state.grant = grant
        yield principal


def _authenticated(database: Database, key: str) -> Principal | None:
    with database.read() as session:
        return tenants.authenticate(session, key)


PrincipalOf = Annotated[Principal, Depends(principal_of)]


async def job_id_of(
    job_id: Annotated[
        str, Path(json_schema_extra={"pattern": f"^job_{_ID_PATTERN}$"}, examples=["job_061yqb5zn9r4w7v0k8m2t6x3c1"])
    ],
) -> str:
    """
    Raises:
        JobNotFound: no job can have such an id.
    """
    if not re.fullmatch(f"job_{_ID_PATTERN}", job_id):
        raise JobNotFound(job_id)
    return job_id


async def checkpoint_id_of(
    checkpoint_id: Annotated[
        str, Path(json_schema_extra={"pattern": f"^ckpt_{_ID_PATTERN}$"}, examples=["ckpt_061yqb6a3h5w8v1k9m3t7x4d2e"])
    ],
) -> str:
    """
    Raises:
        CheckpointNotFound: no checkpoint can have such an id.
    """
    if not re.fullmatch(f"ckpt_{_ID_PATTERN}", checkpoint_id):
        raise CheckpointNotFound(checkpoint_id)
    return checkpoint_id


async def evaluation_id_of(
    evaluation_id: Annotated[
        str, Path(json_schema_extra={"pattern": f"^eval_{_ID_PATTERN}$"}, examples=["eval_061yqb6f7k5w8v1k9m3t7x4d2e"])
    ],
) -> str:
    """
    Raises:
        EvaluationNotFound: no evaluation can have such an id.
    """
    if not re.fullmatch(f"eval_{_ID_PATTERN}", evaluation_id):
        raise EvaluationNotFound(evaluation_id)
    return evaluation_id


JobId = Annotated[str, Depends(job_id_of)]
CheckpointId = Annotated[str, Depends(checkpoint_id_of)]
EvaluationId = Annotated[str, Depends(evaluation_id_of)]

Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]


def _id_query(prefix: str, description: str) -> Any:
    return Query(pattern=f"^{prefix}_{_ID_PATTERN}$", description=description)


_PAGE_BEFORE = "The `last_id` of the page before."
AfterJob = Annotated[str | None, _id_query("job", _PAGE_BEFORE)]
AfterCheckpoint = Annotated[str | None, _id_query("ckpt", _PAGE_BEFORE)]
AfterEvaluation = Annotated[str | None, _id_query("eval", _PAGE_BEFORE)]
JobFilter = Annotated[str | None, _id_query("job", "Only of this job.")]
CheckpointFilter = Annotated[str | None, _id_query("ckpt", "Only of this checkpoint.")]
AfterSeq = Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only what the ledger holds after this `seq`.")]
Wait = Annotated[
    float, Query(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to hold the answer until something is new.")
]
KnownSeq = Annotated[
    int | None, Query(ge=0, le=MAX_SEQ, description="The `last_seq` that is known; by default the present one.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Any text that is new for each new intent: whatever is sent again under it takes effect once, "
        "and is answered as it was the first time. Kept for at least a day.",
    ),
]
