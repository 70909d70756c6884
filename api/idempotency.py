"""POSTs that take effect once, however often and however parallel they are sent under one `Idempotency-Key`."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from celery import Celery
from fastapi import Request, Response
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask

from api.dependencies import Services
from ppo_jobs.queue import publish
from ppo_jobs.repository import idempotency
from ppo_jobs.repository.tenants import Principal
from ppo_jobs.schemas import Evaluation, Job

Accepted = TypeVar("Accepted", Job, Evaluation)
"""What a POST is answered with: what waits in a queue from now on, or what it has become."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a request wants done, so that the same request is known when it comes again."""

    tenant_id: str
    key: str | None
    request_hash: str


def intent_of(request: Request, principal: Principal, key: str | None, body: Any = None) -> Intent:
    """
    Args:
        body: as JSON values; two bodies with the same values are the same request.
    """
    content = json.dumps([request.method, request.url.path, body], sort_keys=True)
    return Intent(principal.tenant_id, key, hashlib.sha256(content.encode()).hexdigest())


def answer_once(
    services: Services, intent: Intent, model: type[Accepted], act: Callable[[Session], tuple[int, Accepted]]
) -> Response:
    """Does `act` and stores its answer in one transaction, or gives the stored answer; then wakes who waits for work.

    Args:
        act: returns the status and the `model` to answer with; what it raises is not stored.
    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    with services.database.write() as session:
        status, accepted, is_repeated = _once(session, intent, model, act)
    answer = _answer(services.queue, status, accepted)
    if is_repeated:
        answer.headers["Idempotency-Replayed"] = "true"
    return answer


def _once(
    session: Session, intent: Intent, model: type[Accepted], act: Callable[[Session], tuple[int, Accepted]]
) -> tuple[int, Accepted, bool]:
    """Status, what was accepted, and whether that was told before."""
    if intent.key is None:
        status, accepted = act(session)
        return status, accepted, False
    stored = idempotency.answered(session, intent.tenant_id, intent.key, request_hash=intent.request_hash)
    if stored is not None:
        return stored.status, model.model_validate(stored.body), True
    status, accepted = act(session)
    body = accepted.model_dump(mode="json")
    idempotency.remember(
        session, intent.tenant_id, intent.key, request_hash=intent.request_hash, status=status, body=body
    )
    return status, accepted, False


def _answer(queue: Celery, status: int, accepted: Job | Evaluation) -> Response:
    """What was accepted; a worker is woken after it was sent, since the broker may be slow and the sweeper wakes one
    anyway."""
    answer = Response(accepted.model_dump_json(), status, media_type="application/json")
    if status == HTTPStatus.CREATED:
        answer.headers["Location"] = f"/v1/{accepted.object}s/{accepted.id}"
        answer.background = BackgroundTask(publish, queue, accepted.wants)
    return answer
