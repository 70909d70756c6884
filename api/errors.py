"""Every error as `application/problem+json` (RFC 9457). Domain errors know no HTTP: they get their status here."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from api.pointers import body_faults
from ppo_engine.spec import InvalidSpec
from ppo_jobs.errors import (
    ApiKeyNotFound,
    ArtifactNotFound,
    AttemptNotFound,
    CheckpointInUse,
    CheckpointMissing,
    CheckpointNotFound,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnavailable,
    EvaluationNotFound,
    GroupNotFound,
    IdempotencyMismatch,
    InvalidArtifactName,
    InvalidTransition,
    JobNotFound,
    JobNotTerminal,
    JobsError,
    StorageFull,
)
from ppo_jobs.schemas import Fault, Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
MAX_FAULTS = 100
"""Named in one answer."""


class ProblemError(HTTPException):
    """An error that the API itself finds; an HTTPException, which FastAPI lets out of the reading of a body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.errors = list(errors)


class Unauthorized(ProblemError):
    """No valid key was sent, or it is not valid any more."""

    def __init__(self) -> None:
        detail = "send a valid API key as `Authorization: Bearer ppo_…`"
        super().__init__(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    code: str


_ANSWERS: dict[type[JobsError], _Answer] = {
    JobNotFound: _Answer(404, "job_not_found"),
    CheckpointNotFound: _Answer(404, "checkpoint_not_found"),
    EvaluationNotFound: _Answer(404, "evaluation_not_found"),
    GroupNotFound: _Answer(404, "group_not_found"),
    AttemptNotFound: _Answer(404, "attempt_not_found"),
    ApiKeyNotFound: _Answer(404, "api_key_not_found"),
    ArtifactNotFound: _Answer(404, "file_not_found"),
    InvalidArtifactName: _Answer(404, "file_not_found"),
    InvalidTransition: _Answer(409, "invalid_transition"),
    JobNotTerminal: _Answer(409, "job_not_terminal"),
    CheckpointInUse: _Answer(409, "checkpoint_in_use"),
    CheckpointMissing: _Answer(409, "checkpoint_missing"),
    IdempotencyMismatch: _Answer(422, "idempotency_mismatch"),
    DatabaseFull: _Answer(503, "storage_full"),
    DatabaseReadOnly: _Answer(503, "database_read_only"),
    DatabaseUnavailable: _Answer(503, "database_unavailable"),
    StorageFull: _Answer(503, "storage_full"),
}

_CODES = {
    400: "malformed_request",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


def new_request_id() -> str:
    """For a request whose client named none."""
    return f"req_{secrets.token_hex(12)}"


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str,
    errors: Iterable[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The one shape of every error."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=list(islice(errors, MAX_FAULTS)),
    )
    return JSONResponse(problem.model_dump(mode="json"), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem; what nobody foresaw is answered by `api.middleware`."""
    app.add_exception_handler(HTTPException, _from_http)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(InvalidSpec, _from_spec)
    for kind in _ANSWERS:
        app.add_exception_handler(kind, _from_jobs)


async def _from_http(request: Request, error: Any) -> JSONResponse:
    if isinstance(error, ProblemError):
        return _problem(
            request, error.status_code, error.code, error.detail, errors=error.errors, headers=error.headers
        )
    code = _CODES.get(error.status_code, HTTPStatus(error.status_code).name.lower())
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(_methods_at(request.app, request.url.path))}
    return _problem(request, error.status_code, code, _sentence(request, error), headers=headers)


def _methods_at(app: FastAPI, path: str) -> list[str]:
    """Every method of a path; routing itself stops at the first route that has the path, and names only its methods."""
    documented = app.openapi()["paths"].items()
    found = [methods for template, methods in documented if compile_path(template)[0].fullmatch(path)]
    return sorted({method.upper() for methods in found for method in methods}) or ["GET"]


def _sentence(request: Request, error: HTTPException) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"there is nothing at {request.url.path}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.url.path} does not take {request.method}"
    return str(error.detail)


async def _from_validation(request: Request, error: Any) -> JSONResponse:
    faults = body_faults(error.errors(), error.body)
    return _problem(request, 422, "invalid_request", in_short(faults), errors=faults)


async def _from_spec(request: Request, error: Any) -> JSONResponse:
    faults = [Fault(pointer=fault.pointer, message=fault.message) for fault in error.faults]
    return _problem(request, 422, "invalid_spec", in_short(faults), errors=faults)


async def _from_jobs(request: Request, error: Any) -> JSONResponse:
    answer = next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    detail = _in_public(error) if isinstance(error, DatabaseUnavailable) else str(error)
    return _problem(request, answer.status, answer.code, detail, headers=headers)


def _in_public(error: DatabaseUnavailable) -> str:
    """Without the driver's words, which may name the server, and the user there."""
    if isinstance(error, DatabaseFull):
        return str(error)
    return "the database takes no writes" if isinstance(error, DatabaseReadOnly) else "the database cannot be reached"


def in_short(faults: list[Fault]) -> str:
    """The first fault, and how many more there are."""
    first = f"{faults[0].pointer}: {faults[0].message}" if faults[0].pointer else faults[0].message
    return first if len(faults) == 1 else f"{first} (and {len(faults) - 1} more)"


def _problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Iterable[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    request_id = request.state.request_id
    return problem_response(status, code, detail, request_id=request_id, errors=errors, headers=headers)
