"""A job's curves."""

import csv
import io
import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.answers import Answers, problems
from api.dependencies import AfterSeq, JobId, PrincipalOf, ServicesOf
from api.negotiation import preferred
from ppo_jobs.repository import events
from ppo_jobs.schemas import MetricsTable

MAX_POINTS = 100_000

router = APIRouter(prefix="/v1/jobs", tags=["metrics"])

_FORMATS = ("application/json", "text/csv", "application/x-ndjson")
_ANSWERS: Answers = {
    200: {
        "description": "Columns, as JSON; or one row per line, as CSV or NDJSON.",
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": "iteration,timesteps,time/fps\n1,256,51200.0\n"},
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"iteration":1,"timesteps":256,"time/fps":51200.0}\n',
            },
        },
    }
}


@router.get("/{job_id}/metrics", response_model=MetricsTable, responses=_ANSWERS | problems(404))
def read_metrics(
    job_id: JobId,
    request: Request,
    services: ServicesOf,
    principal: PrincipalOf,
    keys: Annotated[
        str | None,
        Query(max_length=4000, description="Columns, separated by commas; all by default.", examples=["time/fps"]),
    ] = None,
    after: AfterSeq = 0,
    max_points: Annotated[
        int | None,
        Query(ge=2, le=MAX_POINTS, description="Thin out to so many rows that keep the look of the curves (LTTB)."),
    ] = None,
) -> Response:
    """The metrics as columns, one row per iteration. Send `Accept: text/csv` or `application/x-ndjson` for rows."""
    wanted = None if keys is None else [key for key in keys.split(",") if key]
    with services.database.read() as session:
        table = events.metrics_table(
            session, principal.tenant_id, job_id, keys=wanted, after=after, max_points=max_points
        )
    media_type = preferred(request.headers.get("accept", ""), _FORMATS)
    return Response(_render(table, media_type), media_type=media_type, headers={"Vary": "Accept"})


def _render(table: MetricsTable, media_type: str) -> str:
    if media_type == "text/csv":
        return _csv(table)
    if media_type == "application/x-ndjson":
        return _ndjson(table)
    return table.model_dump_json()


def _csv(table: MetricsTable) -> str:
    """RFC 4180, but with the line ends of Unix; an empty cell where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*table.columns.values(), strict=True))
    return text.getvalue()


def _ndjson(table: MetricsTable) -> str:
    rows = zip(*table.columns.values(), strict=True)
    lines = (json.dumps(dict(zip(table.columns, row, strict=True)), separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines)
