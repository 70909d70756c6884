"""Where machine code is kept: a *pack* for each part of the engine, one file that is whole or absent.

Packs lie in a directory that is named for the sources of everything that is compiled, the versions of the compiler and
the model of CPU, below NUMBA_CACHE_DIR or the user's cache directory. Only `ppo_engine.fused.compile` writes any, and
a process reads each once: what is written there later, by whomever, reaches none that has read it. They are read with
pickle, so a directory that others can write to is not used. A worker tells its children by the variable `DIGESTS` which
packs it found when it started: no other is read in their place, since environment code might have written it.
"""

import hashlib
import json
import logging
import os
import pickle
import platform
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from ppo_engine.machine import processor

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
SOURCES = ("compiled.py", "packs.py", "fused/*.py", "envs/batched/*.py")
COMPILERS = ("llvmlite", "numba")
PARTS = ("bookkeeping", "learning", "batched", "environments", "stepwise", "divergence", "lstm", "gru")
"""Of the engine: what is compiled together, in the order in which most jobs want it; see `ppo_engine.fused.warm`."""

DIGESTS = "PPO_PACK_DIGESTS"
SUFFIX = ".pack"
STALE_SECONDS = 86_400.0

Pack: TypeAlias = dict[str, dict[str, tuple[bytes, bytes]]]
"""Of each function, `module.name`, and each signature as text: the types of its arguments and its machine code."""

_read: dict[str, Pack | None] = {}
"""The packs that this process has read, by part; None where there was one that is not to be used."""


def read(part: str) -> Pack | None:
    """A part's machine code; None where there is none that can be used. Asking keeps it from being deleted."""
    if part not in _read and (file := file_of(part)) is not None:
        try:
            _read[part] = _content(part, file.read_bytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # Whatever unpickling may raise.
            log.warning("compiled code cannot be read from %s: %s", file, error)
            _read[part] = None
        with suppress(OSError):
            os.utime(file.parent)
    return _read.get(part)


def is_kept(part: str) -> bool:
    """Whether there is a file of a part's machine code, which need not be usable."""
    file = file_of(part)
    return file is not None and file.exists()


def digests() -> dict[str, str]:
    """Of each pack that is there, by part: what a process is told that shall read no other."""
    files = {part: file_of(part) for part in PARTS if is_kept(part)}
    return {part: hashlib.sha256(file.read_bytes()).hexdigest() for part, file in files.items() if file is not None}


def trust(part: str) -> None:
    """Read a part's machine code whatever was there when the worker started: a process of ours has just compiled it."""
    _expected().pop(part, None)
    if _read.get(part) is None:
        _read.pop(part, None)


@cache
def _expected() -> dict[str, str]:
    told: dict[str, str] = json.loads(os.environ.get(DIGESTS) or "{}")
    return told


def _content(part: str, data: bytes) -> Pack:
    """What a pack holds. Raises ValueError where it is not the one that is expected, or not whole."""
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("it is damaged")
    if (expected := _expected().get(part)) and expected != hashlib.sha256(data).hexdigest():
        raise ValueError("it is another than the worker found when it started")
    pack: Pack = pickle.loads(content)
    return pack


def write(part: str, pack: Pack) -> None:
    """Keep a part's machine code. Raises OSError where it does not fit, and then nothing is left of it."""
    file = file_of(part)
    if file is None:
        raise OSError(f"compiled code cannot be kept in {base()}")
    content = pickle.dumps(pack)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=part, delete=False) as made:
        try:
            made.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            made.close()
            os.replace(made.name, file)
        except BaseException:
            Path(made.name).unlink(missing_ok=True)
            raise


def file_of(part: str) -> Path | None:
    """The file of a part's machine code, be it there or not; None where none can be kept."""
    kept = directory()
    return None if kept is None else kept / f"{part}{SUFFIX}"


@cache
def directory() -> Path | None:
    """Where packs are; None where none can be kept, so that every process compiles for itself."""
    kept = base() / sources_digest()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept.mkdir(exist_ok=True, mode=0o700)
        obstacle = next(filter(None, map(_obstacle, (kept.parent, kept))), None)
    except OSError as error:
        obstacle = str(error)
    if obstacle is None:
        return kept
    log.warning("compiled code cannot be kept in %s: %s", kept, obstacle)
    return None


def base() -> Path:
    """The directory of all packs, of this engine and of others."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("NUMBA_CACHE_DIR") or Path(home, "ppo-service", "compiled")).expanduser()


def sources_digest() -> str:
    """Names the content of everything that is compiled, what compiles it, and for which CPU."""
    model, flags = processor()
    versions = [metadata.version(name) for name in COMPILERS]
    digest = hashlib.sha256("\n".join([*versions, platform.python_version(), model, *sorted(flags)]).encode())
    for path in sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern)):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def prune() -> None:
    """Delete the machine code of other sources that nobody has asked for in a day."""
    kept, oldest = directory(), time.time() - STALE_SECONDS
    for other in [] if kept is None else kept.parent.iterdir():
        if other != kept and other.is_dir() and other.stat().st_mtime < oldest:
            shutil.rmtree(other, ignore_errors=True)


def _obstacle(directory: Path) -> str | None:
    """Why code that was read from there might be somebody else's, or none can be written."""
    state = directory.stat()
    if state.st_uid != os.geteuid():
        return f"{directory} belongs to user {state.st_uid}"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to {directory}"
    return None if os.access(directory, os.W_OK) else f"{directory} cannot be written to"
