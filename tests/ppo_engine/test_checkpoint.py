import json
from pathlib import Path

import numpy as np
import pytest

from ppo_engine.checkpoint import MANIFEST, begin, read_arrays, seal, serialized, verify
from ppo_engine.errors import CheckpointCorrupt, CheckpointMismatch


def write_checkpoint(directory: Path, *, iteration: int = 3):
    begin(directory)
    (directory / "policy.safetensors").write_bytes(serialized({"policy/w": np.arange(6, dtype=np.float32)}))
    (directory / "state.json").write_text("{}\n")
    return seal(
        directory,
        iteration=iteration,
        timesteps=iteration * 100,
        resume=("exact", None),
        fingerprint={"cpu": "some"},
        metrics={"b": 2.0, "a": 1.0},
    )


def test_a_checkpoint_is_verified_by_the_manifest_that_was_written(tmp_path: Path) -> None:
    manifest = write_checkpoint(tmp_path / "new" / "checkpoint")
    assert verify(tmp_path / "new" / "checkpoint") == manifest
    described = {file.name: (file.size_bytes, file.media_type) for file in manifest.files}
    assert described == {
        "policy.safetensors": (
            (tmp_path / "new/checkpoint/policy.safetensors").stat().st_size,
            "application/octet-stream",
        ),
        "state.json": (3, "application/json"),
    }
    assert (manifest.format, manifest.iteration, manifest.timesteps) == (1, 3, 300)


def test_equal_numbers_give_equal_bytes_whatever_the_order_of_their_names() -> None:
    arrays = {"b": np.arange(3.0), "a": np.ones((2, 2), dtype=np.float32), "c": np.zeros(0, dtype=np.int64)}
    backwards = dict(reversed(arrays.items()))
    assert serialized(arrays) == serialized(backwards)


def test_arrays_of_any_shape_and_layout_are_read_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "flags": np.array([True, False]),
        "scalar": np.array(2**40),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    (tmp_path / "arrays").write_bytes(serialized(arrays))
    for name, array in read_arrays(tmp_path / "arrays").items():
        assert (array.shape, array.dtype, array.tolist()) == (
            arrays[name].shape,
            arrays[name].dtype,
            arrays[name].tolist(),
        )


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json"])
def test_a_single_flipped_bit_is_found_and_its_file_named(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=f"^{name} is damaged"):
        verify(tmp_path)


def test_a_missing_and_a_shortened_file_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CheckpointCorrupt, match=r"^state.json has 1 bytes, not 3"):
        verify(tmp_path)
    (tmp_path / "state.json").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"^state.json cannot be read"):
        verify(tmp_path)


def test_a_directory_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"^manifest.json cannot be read"):
        verify(tmp_path)


@pytest.mark.parametrize("content", ["", "[]x", '{"format": 1}', '{"format": 1, "iteration": "x"}'])
def test_a_damaged_manifest_is_corrupt(tmp_path: Path, content: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(CheckpointCorrupt, match=r"^manifest.json"):
        verify(tmp_path)


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format": 2, "something": "new"}))
    with pytest.raises(CheckpointMismatch, match="format 2; this version reads format 1"):
        verify(tmp_path)


def test_writing_into_a_checkpoint_takes_its_manifest_away_first(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    begin(tmp_path)
    with pytest.raises(CheckpointCorrupt):
        verify(tmp_path)


def test_arrays_that_are_no_safetensors_are_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointCorrupt, match=r"^x.safetensors cannot be read"):
        read_arrays(tmp_path / "x.safetensors")
