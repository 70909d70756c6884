"""Files over HTTP, in constant memory: strong validators, ranges, and archives that are never built.

What is sent is a sequence of pieces, each some bytes or a stored file, so that an archive has a length, a validator
and ranges like any file. A request for several ranges at once gets everything, as RFC 9110, 14.2 allows.
"""

import base64
import hashlib
import re
import tarfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from api.errors import ProblemError
from ppo_jobs.artifacts import ArtifactStore
from ppo_jobs.errors import ArtifactNotFound
from ppo_jobs.schemas import Checkpoint, CheckpointFile

BLOCK_BYTES = 256 * 1024
_SINGLE_RANGE = re.compile(r"bytes\s*=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the artifact store."""

    store: ArtifactStore
    key: str
    name: str
    size: int


Piece = bytes | StoredFile


@dataclass(frozen=True, slots=True)
class Content:
    """What can be downloaded."""

    pieces: Sequence[Piece]
    sha256: str
    """Of the bytes, or of what determines them: the strong validator."""
    headers: Mapping[str, str]

    @property
    def size(self) -> int:
        return sum(_size(piece) for piece in self.pieces)


def file_content(store: ArtifactStore, key: str, checkpoint: Checkpoint, name: str) -> Content:
    """One file of a checkpoint.

    Raises:
        ArtifactNotFound: the checkpoint has no such file, or it is gone.
    """
    file = next((file for file in checkpoint.files if file.name == name), None)
    if file is None:
        raise ArtifactNotFound(checkpoint.id, name)
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    headers = {
        "Content-Type": file.media_type,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Repr-Digest": f"sha-256=:{digest}:",
    }
    return Content([_stored(store, key, file)], file.sha256, headers)


def archive_content(store: ArtifactStore, key: str, checkpoint: Checkpoint) -> Content:
    """All files of a checkpoint as an uncompressed tar, in a directory named after it.

    Raises:
        ArtifactNotFound: a file is gone.
    """
    moment = int(checkpoint.created_at.timestamp())
    pieces: list[Piece] = []
    for file in checkpoint.files:
        member = tarfile.TarInfo(f"{checkpoint.id}/{file.name}")
        member.size, member.mtime = file.size_bytes, moment
        padding = bytes(-file.size_bytes % tarfile.BLOCKSIZE)
        pieces += [member.tobuf(tarfile.GNU_FORMAT), _stored(store, key, file), padding]
    pieces.append(bytes(2 * tarfile.BLOCKSIZE))
    contents = "".join(f"{file.name}\0{file.sha256}\0" for file in checkpoint.files)
    validator = hashlib.sha256(f"tar\0{checkpoint.id}\0{moment}\0{contents}".encode()).hexdigest()
    headers = {
        "Content-Type": "application/x-tar",
        "Content-Disposition": f'attachment; filename="{checkpoint.id}.tar"',
    }
    return Content(pieces, validator, headers)


def download(request: Request, content: Content) -> Response:
    """The answer to a GET or HEAD under the preconditions and the range of the request (RFC 9110, 13 and 14).

    Raises:
        ProblemError: 412 or 416.
    """
    etag = f'"{content.sha256}"'
    headers = {**content.headers, "ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if (wanted := request.headers.get("if-match")) is not None and not _names(wanted, etag, weakly=False):
        raise ProblemError(HTTPStatus.PRECONDITION_FAILED, "precondition_failed", "the file is not the one of If-Match")
    if (known := request.headers.get("if-none-match")) is not None and _names(known, etag, weakly=True):
        kept = {name: headers[name] for name in ("ETag", "Cache-Control")}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)
    size = content.size
    start, stop, status = 0, size, HTTPStatus.OK
    if request.headers.get("if-range", etag) == etag and (span := _span(request.headers.get("range", ""), size)):
        (start, stop), status = span, HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return _Download(_blocks(content.pieces, start, stop), status, headers)


class _Download(StreamingResponse):
    def __init__(self, blocks: AsyncGenerator[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(blocks, status, headers)
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that leaves must not leave a file open behind it.
        async with aclosing(self._blocks):
            await super().__call__(scope, receive, send)


def _names(condition: str, etag: str, *, weakly: bool) -> bool:
    tags = [tag.strip() for tag in condition.split(",")]
    return "*" in tags or etag in tags or (weakly and f"W/{etag}" in tags)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None where the header is to be ignored.

    Raises:
        ProblemError: 416, none of the bytes asked for exists.
    """
    match = _SINGLE_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise ProblemError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            f"there are {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, stop


async def _blocks(pieces: Sequence[Piece], start: int, stop: int) -> AsyncGenerator[bytes]:
    """The bytes from `start` to before `stop` of the pieces' concatenation."""
    for piece, first, last in _overlaps(pieces, start, stop):
        if isinstance(piece, bytes):
            yield piece[first:last]
            continue
        with await run_in_threadpool(piece.store.open, piece.key, piece.name) as file:
            file.seek(first)
            while first < last:
                block = await run_in_threadpool(file.read, min(BLOCK_BYTES, last - first))
                if not block:
                    raise OSError(f"{piece.key}/{piece.name} is shorter than its {piece.size} bytes")
                first += len(block)
                yield block


def _overlaps(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
    offset = 0
    for piece in pieces:
        first, last = max(start - offset, 0), min(stop - offset, _size(piece))
        if first < last:
            yield piece, first, last
        offset += _size(piece)


def _stored(store: ArtifactStore, key: str, file: CheckpointFile) -> StoredFile:
    size = store.path(key, file.name).stat().st_size
    if size != file.size_bytes:
        raise ArtifactNotFound(key, file.name)
    return StoredFile(store, key, file.name, size)


def _size(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.size
