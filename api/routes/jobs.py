"""Jobs: ask for one, look at it, stop it, try it again."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from api.answers import Answers, problems
from api.bodies import JSONRoute
from api.dependencies import (
    AfterJob,
    IdempotencyKey,
    JobId,
    KnownSeq,
    Limit,
    PrincipalOf,
    ServicesOf,
    Wait,
)
from api.idempotency import answer_once, intent_of
from api.pages import whole_page
from api.retries import retry
from api.submission import resolved_spec
from api.waiting import read_when_new
from ppo_engine.spec import TrainingSpec, settings_made, wanted_queue
from ppo_jobs.repository import jobs
from ppo_jobs.schemas import Attempt, Job, JobPatch, Page, RetryRequest
from ppo_jobs.states import JobStatus, QueueName

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JSONRoute)

_CREATED: Answers = {201: {"headers": {"Location": {"description": "The job.", "schema": {"type": "string"}}}}}
_CANCELLED: Answers = {200: {"model": Job, "description": "It is cancelled already."}}
_AS_IT_WAS = RetryRequest()
_EXAMPLES = {
    "tuned": {"summary": "With the tuned preset", "value": {"env": {"id": "CartPole-v1"}}},
    "own": {
        "summary": "With settings of one's own",
        "value": {
            "name": "pendulum, longer",
            "env": {"id": "Pendulum-v1", "n_envs": 4},
            "ppo": {"total_timesteps": 200_000, "learning_rate": {"kind": "linear", "initial": 1e-3, "final": 0.0}},
            "evaluation": {"every_timesteps": 50_000},
            "seed": 7,
        },
    },
}
_Filter = Annotated[str | None, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


@router.post("", status_code=201, response_model=Job, responses=_CREATED | problems(body=True))
def submit_job(
    spec: Annotated[TrainingSpec, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    services: ServicesOf,
    principal: PrincipalOf,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a job. Only `env.id` is required; the preset of the environment fills in the rest."""
    sent = settings_made(spec)
    with services.database.read() as session:
        resolved = resolved_spec(session, spec)
    wants = QueueName(wanted_queue(resolved))
    return answer_once(
        services,
        intent_of(request, principal, idempotency_key, sent),
        Job,
        lambda session: (
            201,
            jobs.insert_job(session, principal.tenant_id, spec=sent, resolved=resolved, wants=wants),
        ),
    )


@router.get("", responses=problems())
def list_jobs(
    services: ServicesOf,
    principal: PrincipalOf,
    limit: Limit = 20,
    after: AfterJob = None,
    status: JobStatus | None = None,
    group: _Filter = None,
    env_id: _Filter = None,
    name: _Filter = None,
) -> Page[Job]:
    """The jobs, newest first."""
    with services.database.read() as session:
        return jobs.list_jobs(
            session,
            principal.tenant_id,
            limit=limit,
            after=after,
            status=status,
            group=group,
            env_id=env_id,
            name=name,
        )


@router.get("/{job_id}", responses=problems(404))
async def read_job(
    job_id: JobId,
    services: ServicesOf,
    principal: PrincipalOf,
    wait: Wait = 0,
    after: KnownSeq = None,
) -> Job:
    """One job. With `wait`, the answer comes when `last_seq` exceeds `after`, or the job has ended, or time is up."""

    def read() -> Job:
        with services.database.read() as session:
            return jobs.get_job(session, principal.tenant_id, job_id)

    return await read_when_new(services, principal.tenant_id, read, after=after, seconds=wait)


@router.patch("/{job_id}", responses=problems(404, body=True))
def change_job(job_id: JobId, patch: JobPatch, services: ServicesOf, principal: PrincipalOf) -> Job:
    """Rename or tag a job. A field that is not sent stays; null clears."""
    with services.database.write() as session:
        return jobs.patch_job(session, principal.tenant_id, job_id, changes=patch.model_dump(exclude_unset=True))


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409))
def delete_job(job_id: JobId, services: ServicesOf, principal: PrincipalOf) -> None:
    """Delete a job that has ended, with its ledger, logs and checkpoints."""
    with services.database.write() as session:
        jobs.delete_job(session, principal.tenant_id, job_id)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=Job,
    responses=_CANCELLED | problems(404, 409),
)
def cancel_job(
    job_id: JobId,
    request: Request,
    services: ServicesOf,
    principal: PrincipalOf,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Stop a job: at once if it is queued, else at its next iteration, when it keeps a checkpoint."""

    def act(session: Session) -> tuple[int, Job]:
        before = jobs.get_job(session, principal.tenant_id, job_id).status
        return 200 if before == JobStatus.CANCELLED else 202, jobs.request_cancel(session, principal.tenant_id, job_id)

    return answer_once(services, intent_of(request, principal, idempotency_key), Job, act)


@router.post(
    "/{job_id}/retry",
    status_code=201,
    response_model=Job,
    responses=_CREATED | problems(404, 409, body=True),
)
def retry_job(
    job_id: JobId,
    request: Request,
    services: ServicesOf,
    principal: PrincipalOf,
    wish: Annotated[RetryRequest, Body()] = _AS_IT_WAS,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A new job with the spec of one that has ended, going on from its newest checkpoint unless told otherwise."""
    return answer_once(
        services,
        intent_of(request, principal, idempotency_key, wish.model_dump(mode="json")),
        Job,
        lambda session: (201, retry(session, principal.tenant_id, job_id, wish)),
    )


@router.get("/{job_id}/attempts", responses=problems(404))
def list_attempts(job_id: JobId, services: ServicesOf, principal: PrincipalOf) -> Page[Attempt]:
    """The tries at a job, first to last."""
    with services.database.read() as session:
        attempts = jobs.list_attempts(session, principal.tenant_id, job_id)
    return whole_page(attempts, [str(attempt.number) for attempt in attempts])
