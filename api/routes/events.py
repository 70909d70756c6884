"""The ledger: page by page, or live."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from api.answers import Answers, problems
from api.dependencies import MAX_SEQ, AfterSeq, JobId, PrincipalOf, Services, ServicesOf
from ppo_jobs.repository import events, jobs
from ppo_jobs.schemas import Job, LedgerEvent, Page
from ppo_jobs.states import TERMINAL, EventType

router = APIRouter(prefix="/v1/jobs", tags=["ledger"])

_STREAM: Answers = {
    200: {
        "description": "Server-sent events: `event` is the type, `id` the `seq`, `data` the ledger event; a last one, "
        "`end`, when the job has ended and everything was sent.",
        "content": {
            "text/event-stream": {
                # Some take a stream's schema for that of its text, others for that of an event: neither is said.
                "schema": {},
                "example": "retry: 2000\n\nid: 1\nevent: status\ndata: "
                '{"seq":1,"type":"status","attempt":0,"created_at":"2026-01-01T00:00:00Z",'
                '"data":{"status":"queued","attempt":0}}\n\n',
            }
        },
    },
    204: {"description": "The job has ended, and everything was sent before: do not reconnect."},
}


@router.get("/{job_id}/events", responses=problems(404))
def list_events(
    job_id: JobId,
    services: ServicesOf,
    principal: PrincipalOf,
    after: AfterSeq = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    kind: Annotated[EventType | None, Query(alias="type", description="Only events of this type.")] = None,
) -> Page[LedgerEvent]:
    """What happened, in order. `after` is the last `seq` that is known."""
    with services.database.read() as session:
        found = events.list_events(session, principal.tenant_id, job_id, after=after, limit=limit + 1, kind=kind)
    page = found[:limit]
    return Page[LedgerEvent](
        data=page,
        has_more=len(found) > limit,
        first_id=str(page[0].seq) if page else None,
        last_id=str(page[-1].seq) if page else None,
    )


@router.get("/{job_id}/stream", response_class=Response, responses=_STREAM | problems(404, 429))
async def stream_events(
    job_id: JobId,
    services: ServicesOf,
    principal: PrincipalOf,
    after: AfterSeq = 0,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=MAX_SEQ, description="The last `id` received; wins over `after`.")
    ] = None,
) -> Response:
    """What happened and what happens, as server-sent events; cut and resumed anywhere without a gap or a double."""
    job = await run_in_threadpool(_read, services, principal.tenant_id, job_id)
    known = after if last_event_id is None else last_event_id
    if job.status in TERMINAL and known >= job.last_seq:
        return Response(status_code=204)
    return services.streams.open(principal.tenant_id, job, known)


def _read(services: Services, tenant_id: str, job_id: str) -> Job:
    with services.database.read() as session:
        return jobs.get_job(session, tenant_id, job_id)
