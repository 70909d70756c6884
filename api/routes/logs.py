"""What environments and training processes wrote to stdout and stderr."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.answers import problems
from api.dependencies import JobId, PrincipalOf, ServicesOf
from ppo_jobs.repository import logs
from ppo_jobs.schemas import LogChunk

router = APIRouter(prefix="/v1/jobs", tags=["logs"])


@router.get("/{job_id}/logs", responses=problems(404))
def read_log(
    job_id: JobId,
    services: ServicesOf,
    principal: PrincipalOf,
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The latest by default.")] = None,
) -> LogChunk:
    """What one attempt wrote: the first MiB and the last 64 KiB of it."""
    with services.database.read() as session:
        return logs.read_log(session, principal.tenant_id, job_id, attempt=attempt)
