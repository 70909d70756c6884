"""Checkpoint directories: safetensors and JSON, whole or not at all.

policy.safetensors   weights `policy/...`, statistics `normalizer/...`; the same bytes for the same numbers
state.safetensors    all other arrays of the training's state        state.json   all that is no array
manifest.json        sizes and sha256 of every file, written last: a directory without it is no checkpoint
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ppo_engine.errors import CheckpointCorrupt, CheckpointMismatch

FORMAT = 1
MANIFEST = "manifest.json"
POLICY = "policy.safetensors"
MEDIA_TYPES = {
    ".json": "application/json",
    ".safetensors": "application/octet-stream",
    ".onnx": "application/octet-stream",
}


class CheckpointFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size_bytes: int
    sha256: str
    media_type: str


class CheckpointManifest(BaseModel):
    """What a checkpoint holds, and where in the training it was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    iteration: int
    timesteps: int
    resume: Literal["exact", "approximate"]
    resume_reason: str | None
    fingerprint: dict[str, JsonValue]
    metrics: dict[str, float]
    files: tuple[CheckpointFile, ...]


def serialized(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as safetensors: the same bytes for the same arrays, whatever the order of their names."""
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    content: bytes = save(ordered)
    return content


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file. Raises CheckpointCorrupt."""
    try:
        arrays: dict[str, NDArray[Any]] = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{path.name} cannot be read: {error}") from error
    return arrays


def begin(directory: Path) -> None:
    """Makes the directory ready to be written: from here until `seal` it is no checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    sync(directory)


def seal(
    directory: Path,
    *,
    iteration: int,
    timesteps: int,
    resume: tuple[Literal["exact", "approximate"], str | None],
    fingerprint: dict[str, JsonValue],
    metrics: dict[str, float],
) -> CheckpointManifest:
    """Makes every file of the directory durable, then writes the manifest, which makes it a checkpoint."""
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    for path in paths:
        sync(path)
    manifest = CheckpointManifest(
        iteration=iteration,
        timesteps=timesteps,
        resume=resume[0],
        resume_reason=resume[1],
        fingerprint=fingerprint,
        metrics=dict(sorted(metrics.items())),
        files=tuple(_described(path) for path in paths),
    )
    draft = directory / f".{MANIFEST}"
    draft.write_text(manifest.model_dump_json(indent=1) + "\n")
    sync(draft)
    draft.rename(directory / MANIFEST)
    sync(directory)
    return manifest


def verify(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, every file of which is as it was written.

    Raises:
        CheckpointCorrupt: there is no manifest, or a file is missing or damaged; names it.
        CheckpointMismatch: the checkpoint is of a format that this version does not know.
    """
    require_known_format(directory / MANIFEST)
    try:
        manifest = CheckpointManifest.model_validate_json((directory / MANIFEST).read_bytes())
    except ValidationError as error:
        raise CheckpointCorrupt(f"{MANIFEST} is damaged: {error}") from error
    for expected in manifest.files:
        try:
            found = _described(directory / expected.name)
        except OSError as error:
            raise CheckpointCorrupt(f"{expected.name} cannot be read: {error}") from error
        if found.size_bytes != expected.size_bytes:
            raise CheckpointCorrupt(f"{expected.name} has {found.size_bytes} bytes, not {expected.size_bytes}")
        if found.sha256 != expected.sha256:
            raise CheckpointCorrupt(f"{expected.name} is damaged: its sha256 is not that of the manifest")
    return manifest


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _described(path: Path) -> CheckpointFile:
    content = path.read_bytes()
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return CheckpointFile(
        name=path.name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), media_type=media_type
    )


def require_known_format(path: Path) -> None:
    """Raises CheckpointMismatch unless the JSON file is of this format, CheckpointCorrupt if it is no JSON."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{path.name} cannot be read: {error}") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise CheckpointMismatch(f"{path.name} is of format {found}; this version reads format {FORMAT}")
