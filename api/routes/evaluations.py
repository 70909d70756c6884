"""Evaluations: have a checkpoint's policy play episodes, look at what it reached, stop it."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from api.answers import Answers, problems
from api.bodies import JSONRoute
from api.dependencies import (
    AfterEvaluation,
    CheckpointFilter,
    EvaluationId,
    IdempotencyKey,
    JobFilter,
    KnownSeq,
    Limit,
    PrincipalOf,
    ServicesOf,
    Wait,
)
from api.evaluations import accept
from api.idempotency import answer_once, intent_of
from api.waiting import read_when_new
from ppo_jobs.repository import evaluations
from ppo_jobs.schemas import Evaluation, EvaluationRequest, Page
from ppo_jobs.states import JobStatus

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], route_class=JSONRoute)

_CREATED: Answers = {201: {"headers": {"Location": {"description": "The evaluation.", "schema": {"type": "string"}}}}}
_CANCELLED: Answers = {200: {"model": Evaluation, "description": "It is cancelled already."}}
_EXAMPLES = {
    "job": {
        "summary": "The final policy of a job",
        "value": {"job_id": "job_061yqb5zn9r4w7v0k8m2t6x3c1", "n_episodes": 100, "seed": 1},
    },
    "checkpoint": {
        "summary": "Some checkpoint, with sampled actions",
        "value": {"checkpoint_id": "ckpt_061yqb6a3h5w8v1k9m3t7x4d2e", "n_episodes": 20, "deterministic": False},
    },
}


@router.post("", status_code=201, response_model=Evaluation, responses=_CREATED | problems(404, 409, body=True))
def submit_evaluation(
    wish: Annotated[EvaluationRequest, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    services: ServicesOf,
    principal: PrincipalOf,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Have the policy of a checkpoint play whole episodes. The checkpoint stays until they are played.

    Seed, checkpoint and versions determine the result, whatever happens to the workers meanwhile.
    """
    sent = wish.model_dump(mode="json", exclude_unset=True)
    return answer_once(
        services,
        intent_of(request, principal, idempotency_key, sent),
        Evaluation,
        lambda session: (201, accept(session, principal.tenant_id, wish)),
    )


@router.get("", responses=problems())
def list_evaluations(
    services: ServicesOf,
    principal: PrincipalOf,
    limit: Limit = 20,
    after: AfterEvaluation = None,
    job_id: JobFilter = None,
    checkpoint_id: CheckpointFilter = None,
    status: JobStatus | None = None,
) -> Page[Evaluation]:
    """The evaluations, newest first, without the single episodes."""
    with services.database.read() as session:
        return evaluations.list_evaluations(
            session,
            principal.tenant_id,
            limit=limit,
            after=after,
            job_id=job_id,
            checkpoint_id=checkpoint_id,
            status=status,
        )


@router.get("/{evaluation_id}", responses=problems(404))
async def read_evaluation(
    evaluation_id: EvaluationId,
    services: ServicesOf,
    principal: PrincipalOf,
    wait: Wait = 0,
    after: KnownSeq = None,
) -> Evaluation:
    """One evaluation, with every episode's return and length once it has succeeded.

    With `wait`, the answer comes when `last_seq` exceeds `after`, or it has ended, or time is up.
    """

    def read() -> Evaluation:
        with services.database.read() as session:
            return evaluations.get_evaluation(session, principal.tenant_id, evaluation_id)

    return await read_when_new(services, principal.tenant_id, read, after=after, seconds=wait)


@router.post(
    "/{evaluation_id}/cancel",
    status_code=202,
    response_model=Evaluation,
    responses=_CANCELLED | problems(404, 409),
)
def cancel_evaluation(
    evaluation_id: EvaluationId,
    request: Request,
    services: ServicesOf,
    principal: PrincipalOf,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Stop an evaluation: at once if it is queued, else within seconds."""

    def act(session: Session) -> tuple[int, Evaluation]:
        before = evaluations.get_evaluation(session, principal.tenant_id, evaluation_id).status
        cancelled = evaluations.request_cancel(session, principal.tenant_id, evaluation_id)
        return 200 if before == JobStatus.CANCELLED else 202, cancelled

    return answer_once(services, intent_of(request, principal, idempotency_key), Evaluation, act)
