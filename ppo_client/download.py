"""Files over connections that may break: resumed where they broke, and checked to the last byte."""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import httpx2

from ppo_client.errors import DownloadFailed
from ppo_client.transport import Transport
from ppo_jobs.schemas import CheckpointFile

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def download_file(
    transport: Transport,
    path: str,
    file: CheckpointFile,
    directory: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
) -> Path:
    """The file in `directory`, whole and with the sha256 that `file` promises.

    The bytes so far stand in `NAME.<start of the sha256>.part`, so that parts of different checkpoints never mix.

    Raises:
        DownloadFailed: twice the content was another, the name is unsafe, or another process downloads the same file.
    """
    if not _SAFE_NAME.fullmatch(file.name):
        raise DownloadFailed(f"{file.name!r} is no safe name for a file.")
    report = on_bytes or _ignore
    target = directory / file.name
    if target.is_file() and target.stat().st_size == file.size_bytes and _sha256(target) == file.sha256:
        report(file.size_bytes)
        return target
    part = directory / f"{file.name}.{file.sha256[:12]}.part"
    with part.open("a+b") as stream:
        _lock(stream, part)
        for _ in range(2):
            _fill(transport, path, file, stream, report)
            if _sha256(part) == file.sha256:
                os.fsync(stream.fileno())
                part.replace(target)
                _remove_stale_parts(target)
                return target
            _empty(stream)
            report(-file.size_bytes)
    part.unlink(missing_ok=True)
    raise DownloadFailed(f"{file.name} came twice with another content than its checkpoint promises.")


def _fill(
    transport: Transport, path: str, file: CheckpointFile, stream: BinaryIO, report: Callable[[int], None]
) -> None:
    """Append what is missing until the part has its full size, over as many connections as that takes."""
    patience = transport.patience()
    if (size := stream.seek(0, os.SEEK_END)) > file.size_bytes:
        _empty(stream)
    else:
        report(size)
    furthest = stream.seek(0, os.SEEK_END)
    while (have := stream.seek(0, os.SEEK_END)) < file.size_bytes:
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": f'"{file.sha256}"'}
        try:
            with transport.open(path, headers=headers) as response:
                if _cannot_resume(response, have):
                    _empty(stream)
                    report(-have)
                elif not transport.is_busy(patience, response):
                    _append(response, file, stream, report)
        except httpx2.TransportError as error:
            stream.flush()
            # Only what goes beyond every earlier try is progress: a service without ranges may be torn for ever.
            if stream.tell() > furthest:
                furthest = stream.tell()
                patience.restart()
            transport.recover(patience, error)


def _append(
    response: httpx2.Response,
    file: CheckpointFile,
    stream: BinaryIO,
    report: Callable[[int], None],
) -> None:
    """Write the body behind what is there, or in its place where the service sends the whole file."""
    if response.status_code == httpx2.codes.OK and (have := stream.tell()):
        _empty(stream)
        report(-have)
    for chunk in response.iter_bytes():
        if stream.tell() + len(chunk) > file.size_bytes:
            raise DownloadFailed(f"{file.name} is longer than its checkpoint promises.")
        stream.write(chunk)
        stream.flush()
        report(len(chunk))
    if (size := stream.tell()) < file.size_bytes:
        raise httpx2.RemoteProtocolError(f"{file.name} ended after {size} of {file.size_bytes} bytes")


def _cannot_resume(response: httpx2.Response, have: int) -> bool:
    """Whether the service will not go on behind the first `have` bytes."""
    if not have:
        return False
    content_range = response.headers.get("content-range", "")
    is_elsewhere = response.status_code == httpx2.codes.PARTIAL_CONTENT and not content_range.startswith(
        f"bytes {have}-"
    )
    return is_elsewhere or response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE


def _empty(stream: BinaryIO) -> None:
    stream.truncate(0)
    stream.seek(0)


def _lock(stream: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DownloadFailed(f"Another process is downloading {part.name} to {part.parent}.") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove_stale_parts(target: Path) -> None:
    for part in target.parent.glob(f"{target.name}.*.part"):
        with suppress(FileNotFoundError):
            part.unlink()


def _ignore(_: int) -> None:
    return None
