"""Nobody ever sees half a checkpoint, whatever happens while it is stored."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ppo_jobs.artifacts import LocalArtifacts, artifact_key, open_artifacts
from ppo_jobs.errors import ArtifactCorrupt, ArtifactNotFound, InvalidArtifactName, StorageFull

KEY = artifact_key("job_1", 1, "ckpt_1")
NEXT = artifact_key("job_1", 1, "ckpt_2")
FILES = {"policy.safetensors": b"weights" * 1000, "state.json": b"{}", "empty": b""}


def _checkpoint(directory: Path, files: dict[str, bytes] = FILES) -> Path:
    directory.mkdir(parents=True)
    listed = []
    for name, content in files.items():
        (directory / name).write_bytes(content)
        listed.append({"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    (directory / "manifest.json").write_text(json.dumps({"format": 1, "files": listed}))
    return directory


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class PowerLoss(BaseException):
    """No handler of the store answers it."""


@contextmanager
def _faults(monkeypatch: pytest.MonkeyPatch, fault: Callable[[str], None]) -> Iterator[None]:
    """Calls `fault` before each operation that changes the file system or waits for it."""

    def before(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            if name == "fsync":
                _lose_what_is_not_synced(arguments[0], fault)
            else:
                fault(name)
            return original(*arguments, **options)

        return operation

    with monkeypatch.context() as patch:
        for owner, name in (
            (os, "rename"),
            (os, "fsync"),
            (os, "rmdir"),
            (os, "unlink"),
            (Path, "mkdir"),
            (Path, "open"),
            (Path, "unlink"),
        ):
            patch.setattr(owner, name, before(name, getattr(owner, name)))
        yield


def _lose_what_is_not_synced(descriptor: int, fault: Callable[[str], None]) -> None:
    try:
        fault("fsync")
    except PowerLoss:
        size = os.fstat(descriptor).st_size
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.ftruncate(descriptor, size // 2)
        raise


def _count_operations(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> int:
    operations: list[str] = []
    with _faults(monkeypatch, operations.append):
        run()
    return len(operations)


def _power_loss_at(number: int) -> Callable[[str], None]:
    left = [number]

    def fault(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise PowerLoss

    return fault


def test_what_was_stored_is_fetched(tmp_path: Path) -> None:
    store = open_artifacts(f"file://{tmp_path}/with%20space")
    source = _checkpoint(tmp_path / "source")
    store.put(KEY, source)
    store.put(KEY, source)
    store.fetch(KEY, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(source)
    assert list(store.keys()) == [KEY]
    assert store.path(KEY, "state.json").is_relative_to(tmp_path / "with space")
    with store.open(KEY, "policy.safetensors") as file:
        assert file.read() == FILES["policy.safetensors"]


def test_a_crash_at_any_operation_leaves_the_older_checkpoint_and_no_half_of_the_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _checkpoint(tmp_path / "source")
    total = _count_operations(monkeypatch, lambda: LocalArtifacts(tmp_path / "count").put(KEY, source))
    assert total > 20  # Three files and the manifest are opened, synced and renamed; directories are made and synced.
    outcomes = set()
    for number in range(1, total + 1):
        store = LocalArtifacts(tmp_path / f"store{number}")
        store.put(KEY, source)
        with _faults(monkeypatch, _power_loss_at(number)), pytest.raises(PowerLoss):
            store.put(NEXT, source)
        store.fetch(KEY, tmp_path / f"old{number}")
        try:
            store.fetch(NEXT, tmp_path / f"new{number}")
            outcomes.add("whole")
        except ArtifactNotFound:
            outcomes.add("absent")
        store.put(NEXT, source)
        store.fetch(NEXT, tmp_path / f"again{number}")
        assert _contents(tmp_path / f"again{number}") == _contents(source)
    assert outcomes == {"absent", "whole"}


def test_a_crash_while_deleting_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _checkpoint(tmp_path / "source")
    counted = LocalArtifacts(tmp_path / "count")
    counted.put(KEY, source)
    total = _count_operations(monkeypatch, lambda: counted.delete(KEY))
    assert total > 5
    for number in range(1, total + 1):
        store = LocalArtifacts(tmp_path / f"store{number}")
        store.put(KEY, source)
        with _faults(monkeypatch, _power_loss_at(number)), pytest.raises(PowerLoss):
            store.delete(KEY)
        try:
            store.fetch(KEY, tmp_path / f"left{number}")
        except ArtifactNotFound:
            store.delete(KEY)
            store.delete(KEY)
            assert list(store.keys()) == []


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_file_is_never_handed_out_as_whole(tmp_path: Path, damage: str) -> None:
    store = LocalArtifacts(tmp_path / "store")
    store.put(KEY, _checkpoint(tmp_path / "source"))
    path = store.path(KEY, "policy.safetensors")
    if damage == "changed":
        path.write_bytes(b"W" + FILES["policy.safetensors"][1:])
    elif damage == "truncated":
        path.write_bytes(FILES["policy.safetensors"][:-1])
    else:
        path.unlink()
    with pytest.raises(ArtifactCorrupt, match=r"policy\.safetensors"):
        store.fetch(KEY, tmp_path / "copy")
    assert not (tmp_path / "copy" / "manifest.json").exists()


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b'{"files": [{"name": "../../x", "sha256": ""}]}', b"\xff"])
def test_a_manifest_that_makes_no_sense_is_corrupt(tmp_path: Path, manifest: bytes) -> None:
    store = LocalArtifacts(tmp_path / "store")
    store.put(KEY, _checkpoint(tmp_path / "source"))
    store.path(KEY, "manifest.json").write_bytes(manifest)
    with pytest.raises((ArtifactCorrupt, InvalidArtifactName)):
        store.fetch(KEY, tmp_path / "copy")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0", "ü", "x" * 101, "a b", "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    store = LocalArtifacts(tmp_path / "store")
    store.put(KEY, _checkpoint(tmp_path / "source"))
    for attempt in (
        lambda: store.open(KEY, name),
        lambda: store.path(KEY, name),
        lambda: store.fetch(f"job_1/1/{name}", tmp_path / "copy"),
        lambda: store.delete(f"{name}/1/ckpt_1"),
    ):
        with pytest.raises(InvalidArtifactName):
            attempt()


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    store.put(KEY, _checkpoint(tmp_path / "source"))
    (tmp_path / "secret").write_text("secret")
    (store.path(KEY, "state.json").parent / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactNotFound):
        store.open(KEY, "link")
    (tmp_path / "outside" / "ckpt_1").mkdir(parents=True)
    (tmp_path / "store" / "job_1" / "2").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidArtifactName):
        store.delete("job_1/2/ckpt_1")


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    with pytest.raises(ArtifactNotFound):
        store.fetch(KEY, tmp_path / "copy")
    store.delete(KEY)
    assert list(store.keys()) == []
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        store.put(KEY, tmp_path)


def test_half_written_keys_are_listed_so_that_garbage_can_be_found(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path / "store")
    source = _checkpoint(tmp_path / "source")
    store.put(KEY, source)
    (tmp_path / "store" / NEXT).mkdir(parents=True)
    (tmp_path / "store" / "stray").write_text("")
    assert list(store.keys()) == [KEY, NEXT]
    store.delete(NEXT)
    assert list(store.keys()) == [KEY]


def test_a_full_disk_is_named_and_leaves_nothing_under_the_target_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalArtifacts(tmp_path / "store")
    source = _checkpoint(tmp_path / "source")

    def full(operation: str) -> None:
        if operation == "fsync":
            raise OSError(errno.ENOSPC, "No space left on device")

    with _faults(monkeypatch, full), pytest.raises(StorageFull):
        store.put(KEY, source)
    with pytest.raises(ArtifactNotFound):
        store.open(KEY, "policy.safetensors")
    store.put(KEY, source)


def test_a_write_that_the_system_refuses_for_its_size_is_storage_full(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "source", {"large": b"x" * 200_000})
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from ppo_jobs.artifacts import LocalArtifacts; from ppo_jobs.errors import StorageFull\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: LocalArtifacts(Path(sys.argv[1]) / 'store').put('j/1/c', Path(sys.argv[1]) / 'source')\n"
        "except StorageFull: sys.exit(7)\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, timeout=60, capture_output=True)
    assert run.returncode == 7, run.stderr.decode()
    assert [path.name for path in (tmp_path / "store" / "j" / "1" / "c").iterdir()] == []
