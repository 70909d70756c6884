"""The files of checkpoints. A checkpoint is there when its manifest is there, and the manifest is stored last."""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from ppo_jobs.errors import ArtifactCorrupt, ArtifactNotFound, InvalidArtifactName, StorageFull

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_BLOCK_BYTES = 1024 * 1024
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = ".writing-"


class ArtifactStore(Protocol):
    """Directories of files under keys `{job}/{attempt}/{checkpoint}`, never changed once they are stored."""

    def put(self, key: str, directory: Path) -> None:
        """Stores every file of a directory, the manifest last; storing the same again changes nothing.

        Raises:
            StorageFull: no space is left; what was stored so far is garbage.
        """

    def open(self, key: str, name: str) -> BinaryIO:
        """One stored file.

        Raises:
            ArtifactNotFound: there is none of that name.
        """

    def path(self, key: str, name: str) -> Path:
        """Where one stored file can be read on this machine.

        Raises:
            ArtifactNotFound: there is none of that name.
        """

    def fetch(self, key: str, directory: Path) -> None:
        """Copies all files into a new directory, comparing each with its checksum; the manifest last.

        Raises:
            ArtifactNotFound: nothing is stored under the key.
            ArtifactCorrupt: a file is missing or differs from its checksum.
            StorageFull: no space is left for the copy.
        """

    def delete(self, key: str) -> None:
        """Deletes the manifest first, then the rest; nothing happens if nothing is there.

        Raises:
            OSError: something could not be deleted.
        """

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every key, or those below `{job}` or `{job}/{attempt}`, the half-written ones too."""

    def written_at(self, key: str) -> float:
        """When something under the key was written last, in seconds since 1970 by the store's clock."""


class LocalArtifacts:
    """An `ArtifactStore` in a directory of a local file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def put(self, key: str, directory: Path) -> None:
        target = self._directory(key)
        names = sorted(path.name for path in directory.iterdir())
        if MANIFEST not in names:
            raise ValueError(f"{directory} has no {MANIFEST}")
        with _storage_errors():
            _make_durable_directories(target, self.root)
            for name in [name for name in names if name != MANIFEST]:
                _copy_whole(directory / _safe(name), target / name)
            # Whoever sees the manifest after a loss of power must find the files' names as well.
            _sync_directory(target)
            _copy_whole(directory / MANIFEST, target / MANIFEST)
            _sync_directory(target)

    def open(self, key: str, name: str) -> BinaryIO:
        path = self.path(key, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ArtifactNotFound(key, name) from None
        return os.fdopen(descriptor, "rb")

    def path(self, key: str, name: str) -> Path:
        path = self._directory(key) / _safe(name)
        if not path.is_file() or path.is_symlink():
            raise ArtifactNotFound(key, name)
        return path

    def fetch(self, key: str, directory: Path) -> None:
        with self.open(key, MANIFEST) as file:
            content = file.read()
        expected = _checksums(content)
        with _storage_errors():
            directory.mkdir(parents=True, exist_ok=True)
            for name, sha256 in expected.items():
                try:
                    source = self.path(key, name)
                except ArtifactNotFound:
                    raise ArtifactCorrupt(f"{key}/{name} is missing") from None
                if _copy_whole(source, directory / name) != sha256:
                    (directory / name).unlink()
                    raise ArtifactCorrupt(f"{key}/{name} differs from its checksum")
            _copy_whole(self.path(key, MANIFEST), directory / MANIFEST)
            _sync_directory(directory)

    def delete(self, key: str) -> None:
        directory = self._directory(key)
        if not directory.is_dir():
            return
        (directory / MANIFEST).unlink(missing_ok=True)
        _sync_directory(directory)
        with suppress(FileNotFoundError):  # Another sweeper was faster.
            shutil.rmtree(directory)
        for parent in directory.parents:
            if parent == self.root:
                return
            try:
                parent.rmdir()
            except OSError:
                return  # Another checkpoint is still in it.

    def keys(self, prefix: str = "") -> Iterator[str]:
        parts = [_safe(part) for part in prefix.split("/") if part]
        for path in sorted(self.root.glob("/".join([*parts, *["*"] * (3 - len(parts))]) + "/")):
            key = path.relative_to(self.root).as_posix()
            if all(_NAME.fullmatch(part) for part in key.split("/")):
                yield key

    def written_at(self, key: str) -> float:
        directory = self._directory(key)
        times = [directory.stat().st_mtime]
        for path in directory.iterdir():
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
        return max(times)

    def _directory(self, key: str) -> Path:
        parts = key.split("/")
        if len(parts) != 3:
            raise InvalidArtifactName(f"{key!r} is no job/attempt/checkpoint")
        path = self.root.joinpath(*(_safe(part) for part in parts))
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InvalidArtifactName(f"{key!r} leads out of the store")
        return path


def open_artifacts(url: str) -> ArtifactStore:
    """The store at a `file:///absolute/path` URL."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise ValueError(f"no artifact store is known for {parts.scheme}://")
    return LocalArtifacts(Path(unquote(parts.path)))


def artifact_key(job_id: str, attempt: int, checkpoint_id: str) -> str:
    """The attempt is part of it, so that one that lost its lease never writes over another's files."""
    return f"{job_id}/{attempt}/{checkpoint_id}"


def _safe(name: str) -> str:
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise InvalidArtifactName(f"{name!r} is no name of an artifact")
    return name


def _checksums(manifest: bytes) -> dict[str, str]:
    try:
        return {_safe(file["name"]): file["sha256"] for file in json.loads(manifest)["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"the manifest cannot be read: {error!r}") from error


def _copy_whole(source: Path, target: Path) -> str:
    """Copies so that `target` is never seen half-written, even after a loss of power; returns the content's SHA-256."""
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    digest = hashlib.sha256()
    try:
        with source.open("rb") as reader, temporary.open("xb") as writer:
            while block := reader.read(_BLOCK_BYTES):
                digest.update(block)
                writer.write(block)
            writer.flush()
            os.fsync(writer.fileno())
        os.rename(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _make_durable_directories(directory: Path, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    parent = root
    for part in directory.relative_to(root).parts:
        child = parent / part
        child.mkdir(exist_ok=True)
        _sync_directory(parent)
        parent = child


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"no space is left for {error.filename or 'artifacts'}") from error
        raise
