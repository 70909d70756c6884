import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ppo_client import Client, DownloadFailed, NotFound, ServiceUnreachable
from ppo_jobs.schemas import Checkpoint, CheckpointFile
from tests.ppo_client.stub import IMPATIENT, MOMENT, Answer, Request, Stub, as_json, service

WEIGHTS = bytes(range(256)) * 20_000  # 5,120,000 bytes
MANIFEST = b'{"format": 1}'
STATE = b"state"
CONTENTS = {"manifest.json": MANIFEST, "policy.safetensors": WEIGHTS, "state.json": STATE}


def described(name: str, content: bytes) -> CheckpointFile:
    digest = hashlib.sha256(content).hexdigest()
    return CheckpointFile(name=name, size_bytes=len(content), sha256=digest, media_type="application/octet-stream")


def a_checkpoint(contents: dict[str, bytes]) -> Checkpoint:
    files = [described(name, content) for name, content in contents.items()]
    return Checkpoint(
        id="ckpt_1",
        job_id="job_1",
        timesteps=1000,
        iteration=10,
        attempt=1,
        labels=["final"],
        metrics={},
        resume="exact",
        size_bytes=sum(map(len, contents.values())),
        files=files,
        created_at=MOMENT,
    )


def whole_file(request: Request) -> Answer:
    """What a right server answers: the rest when the validator fits, else all."""
    content = CONTENTS[request.path.rpartition("/")[2]]
    digest = hashlib.sha256(content).hexdigest()
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    if "Range" not in request.headers or request.headers["If-Range"] != f'"{digest}"':
        return Answer(200, content, {"ETag": f'"{digest}"'})
    return Answer(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})


def torn(after: int) -> Callable[[Request], Answer]:
    def reply(request: Request) -> Answer:
        answer = whole_file(request)
        return Answer(
            answer.status, answer.body, answer.headers, torn_after=after if len(answer.body) > after else None
        )

    return reply


def downloaded(
    reply: Callable[[Request], Answer], directory: Path, *, contents: dict[str, bytes] | None = None
) -> tuple[list[Path], list[Request]]:
    """The paths of a download, and the requests for files that it took."""

    def routed(request: Request) -> Answer:
        if "/files/" in request.path:
            return reply(request)
        return as_json(a_checkpoint(contents or CONTENTS).model_dump(mode="json"))

    with service(routed) as stub, Client(stub.url, retry=IMPATIENT) as client:
        paths = client.checkpoint("ckpt_1").download(directory)
        return paths, file_requests(stub)


def file_requests(stub: Stub) -> list[Request]:
    return [request for request in stub.requests if "/files/" in request.path]


def test_a_bundle_is_what_running_needs_and_its_manifest_comes_last(tmp_path: Path) -> None:
    paths, _ = downloaded(whole_file, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["policy.safetensors", "manifest.json"]
    assert paths[0].read_bytes() == WEIGHTS
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["manifest.json", "policy.safetensors"]


def test_a_download_torn_at_every_mebibyte_sends_no_byte_twice(tmp_path: Path) -> None:
    paths, requests = downloaded(torn(1 << 20), tmp_path)
    assert paths[0].read_bytes() == WEIGHTS
    weights = [request for request in requests if request.path.endswith("policy.safetensors")]
    starts = [request.headers.get("Range") for request in weights]
    # 5,120,000 bytes are 4 MiB and 925,696 bytes: five connections.
    assert starts == [None, *(f"bytes={step << 20}-" for step in range(1, 5))]
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert {request.headers["If-Range"] for request in weights[1:]} == {f'"{digest}"'}


def test_a_later_call_goes_on_where_an_earlier_one_was_cut_off(tmp_path: Path) -> None:
    seen: list[Request] = []

    def dies(request: Request) -> Answer:
        seen.append(request)
        return torn(2_000_000)(request) if len(seen) == 1 else Answer(is_dropped=True)

    with pytest.raises(ServiceUnreachable):
        downloaded(dies, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]

    paths, requests = downloaded(whole_file, tmp_path)
    assert requests[0].headers["Range"] == "bytes=2000000-"
    assert paths[0].read_bytes() == WEIGHTS
    assert not list(tmp_path.glob("*.part"))


def test_what_is_here_already_is_not_sent_again(tmp_path: Path) -> None:
    downloaded(whole_file, tmp_path)
    _, requests = downloaded(whole_file, tmp_path)
    assert requests == []


def test_a_file_that_was_changed_here_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "policy.safetensors").write_bytes(b"\0" * len(WEIGHTS))
    paths, _ = downloaded(whole_file, tmp_path)
    assert paths[0].read_bytes() == WEIGHTS


def test_a_server_that_ignores_ranges_still_gives_the_file(tmp_path: Path) -> None:
    tries = 0

    def reply(request: Request) -> Answer:
        nonlocal tries
        tries += 1
        content = CONTENTS[request.path.rpartition("/")[2]]
        return Answer(200, content, {}, torn_after=3_000_000 if tries == 1 else None)

    paths, _ = downloaded(reply, tmp_path)
    assert paths[0].read_bytes() == WEIGHTS


def test_a_server_without_ranges_that_is_torn_for_ever_is_given_up(tmp_path: Path) -> None:
    def reply(request: Request) -> Answer:
        return Answer(200, WEIGHTS, {}, torn_after=1_000_000)

    with pytest.raises(ServiceUnreachable):
        downloaded(reply, tmp_path)


def test_an_answer_for_another_range_is_not_appended(tmp_path: Path) -> None:
    tries = 0

    def reply(request: Request) -> Answer:
        nonlocal tries
        tries += 1
        if tries == 2:
            return Answer(206, WEIGHTS[7:], {"Content-Range": f"bytes 7-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"})
        return torn(3_000_000)(request) if tries == 1 else whole_file(request)

    paths, requests = downloaded(reply, tmp_path)
    assert paths[0].read_bytes() == WEIGHTS
    assert [request.headers.get("Range") for request in requests[:3]] == [None, "bytes=3000000-", None]


def test_a_part_with_wrong_bytes_is_thrown_away_once(tmp_path: Path) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / f"policy.safetensors.{digest[:12]}.part").write_bytes(b"\0" * 1000)
    paths, requests = downloaded(whole_file, tmp_path)
    assert paths[0].read_bytes() == WEIGHTS
    assert [request.headers.get("Range") for request in requests[:2]] == ["bytes=1000-", None]


def test_parts_of_another_checkpoint_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "policy.safetensors.0123456789ab.part").write_bytes(b"\0" * 1000)
    paths, requests = downloaded(whole_file, tmp_path)
    assert requests[0].headers.get("Range") is None
    assert paths[0].read_bytes() == WEIGHTS
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("body", [b"\0" * len(WEIGHTS), WEIGHTS + b"more"])
def test_content_that_is_not_what_was_promised_never_gets_the_files_name(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(DownloadFailed, match=r"policy\.safetensors"):
        downloaded(lambda _: Answer(200, body), tmp_path)
    assert not (tmp_path / "policy.safetensors").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", ".bashrc", "a/b", "..", ""])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadFailed, match="no safe name"):
        downloaded(whole_file, tmp_path / "inner", contents={name: b"x"})
    assert list((tmp_path / "inner").iterdir()) == []


def test_two_processes_do_not_write_one_part(tmp_path: Path) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    with (tmp_path / f"policy.safetensors.{digest[:12]}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadFailed, match="Another process"):
            downloaded(whole_file, tmp_path)


def test_the_bytes_that_are_reported_add_up_to_the_size_of_the_files(tmp_path: Path) -> None:
    amounts: list[int] = []
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / f"policy.safetensors.{digest[:12]}.part").write_bytes(b"\0" * 1000)

    def routed(request: Request) -> Answer:
        if "/files/" in request.path:
            return torn(1 << 20)(request)
        return as_json(a_checkpoint(CONTENTS).model_dump(mode="json"))

    with service(routed) as stub, Client(stub.url, retry=IMPATIENT) as client:
        client.checkpoint("ckpt_1").download(tmp_path, on_bytes=amounts.append)
    assert sum(amounts) == len(WEIGHTS) + len(MANIFEST)


def test_chosen_files_are_downloaded_and_others_refused(tmp_path: Path) -> None:
    def routed(request: Request) -> Answer:
        if "/files/" in request.path:
            return whole_file(request)
        return as_json(a_checkpoint(CONTENTS).model_dump(mode="json"))

    with service(routed) as stub, Client(stub.url) as client:
        checkpoint = client.checkpoint("ckpt_1")
        assert [path.name for path in checkpoint.download(tmp_path, names=["state.json"])] == ["state.json"]
        with pytest.raises(NotFound, match="secret"):
            checkpoint.download(tmp_path, names=["secret"])
