"""Downloads."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.answers import Answers, problems
from api.dependencies import CheckpointId, PrincipalOf, ServicesOf
from api.downloads import archive_content, download, file_content
from ppo_jobs.repository import checkpoints

router = APIRouter(prefix="/v1/checkpoints", tags=["files"])

_BYTES: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
"""First, for clients that are generated; the type itself, which any reader may take for what it is, has no schema."""
_ETAG = {"ETag": {"description": "A strong validator.", "schema": {"type": "string"}}}
_RANGE = {"Content-Range": {"description": "Which bytes of how many.", "schema": {"type": "string"}}}


def _answers(media_type: str) -> Answers:
    return {
        200: {"description": "All of it.", "content": {**_BYTES, media_type: {}}, "headers": _ETAG},
        206: {"description": "The range asked for.", "content": {**_BYTES, media_type: {}}, "headers": _ETAG | _RANGE},
        304: {"description": "It is the one of If-None-Match.", "headers": _ETAG},
    } | problems(404, 412, 416)


_FileName = Annotated[str, Path(examples=["policy.safetensors"])]


@router.head("/{checkpoint_id}/files/{name}", response_class=Response, responses=_answers("*/*"))
@router.get("/{checkpoint_id}/files/{name}", response_class=Response, responses=_answers("*/*"))
def read_file(
    checkpoint_id: CheckpointId, name: _FileName, request: Request, services: ServicesOf, principal: PrincipalOf
) -> Response:
    """One file, whole or a range of it. Its ETag is its SHA-256, so a broken download can be resumed with If-Range."""
    with services.database.read() as session:
        checkpoint, key = checkpoints.checkpoint_location(session, principal.tenant_id, checkpoint_id)
    return download(request, file_content(services.artifacts, key, checkpoint, name))


@router.head("/{checkpoint_id}/archive", response_class=Response, responses=_answers("application/x-tar"))
@router.get("/{checkpoint_id}/archive", response_class=Response, responses=_answers("application/x-tar"))
def read_archive(
    checkpoint_id: CheckpointId, request: Request, services: ServicesOf, principal: PrincipalOf
) -> Response:
    """All files in one uncompressed tar, whole or a range of it."""
    with services.database.read() as session:
        checkpoint, key = checkpoints.checkpoint_location(session, principal.tenant_id, checkpoint_id)
    return download(request, archive_content(services.artifacts, key, checkpoint))
