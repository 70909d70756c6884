"""Files whole and in parts, under the conditions that HTTP knows."""

import base64
import hashlib
import io
import random
import tarfile
import tracemalloc
from pathlib import Path

import httpx2
import pytest

from tests.api import deployment

WEIGHTS = random.Random(1).randbytes(600_000)
"""More than two blocks of a download."""


@pytest.fixture
def checkpoint_id(database, tenant, artifacts, tmp_path) -> str:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "policy.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "files" / "policy.json").write_text('{"format": 1}')
    (tmp_path / "files" / "empty.bin").write_bytes(b"")
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    return deployment.store(database, artifacts, job_id, tmp_path / "files")


@pytest.fixture
def path(checkpoint_id) -> str:
    return f"/v1/checkpoints/{checkpoint_id}/files/policy.safetensors"


def get(client: httpx2.Client, path: str, **headers: str) -> httpx2.Response:
    return client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_a_file_comes_whole_with_its_checksum_as_strong_validator(client, path):
    digest = hashlib.sha256(WEIGHTS)
    answer = client.get(path)
    assert answer.status_code == 200 and answer.content == WEIGHTS
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["content-disposition"] == 'attachment; filename="policy.safetensors"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["accept-ranges"] == "bytes"


def test_the_listing_names_the_files_with_their_checksums(client, checkpoint_id):
    checkpoint = client.get(f"/v1/checkpoints/{checkpoint_id}").json()
    files = {file["name"]: file for file in checkpoint["files"]}
    assert set(files) == {"policy.safetensors", "policy.json", "empty.bin"}
    assert files["policy.safetensors"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert files["policy.json"]["size_bytes"] == 13


def test_head_tells_what_get_would_without_the_bytes(client, path):
    head, whole = client.head(path), client.get(path)
    assert head.content == b"" and head.status_code == 200
    for name in ("content-length", "etag", "repr-digest", "content-type", "accept-ranges"):
        assert head.headers[name] == whole.headers[name], name
    part = client.head(path, headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-299999", 0, 300_000),
        ("bytes=300000-", 300_000, 600_000),
        ("bytes=-5", 599_995, 600_000),
        ("bytes=-999999", 0, 600_000),
        ("bytes=599999-9999999", 599_999, 600_000),
        ("Bytes = 262143-262144", 262_143, 262_145),
    ],
)
def test_a_range_gives_those_bytes(client, path, header, start, stop):
    answer = get(client, path, range=header)
    assert answer.status_code == 206 and answer.content == WEIGHTS[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/600000"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("header", ["bytes=600000-", "bytes=700000-800000", "bytes=-0"])
def test_a_range_beyond_the_end_is_a_416_that_tells_the_size(client, path, header):
    answer = get(client, path, range=header)
    assert answer.status_code == 416 and answer.headers["content-range"] == "bytes */600000"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "header",
    ["bytes=9-3", "bytes=", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", ",".join(["bytes=0-0"] * 101)],
)
def test_a_range_that_is_not_one_range_of_bytes_is_ignored(client, path, header):
    answer = get(client, path, range=header)
    assert answer.status_code == 200 and len(answer.content) == 600_000


def test_a_download_cut_at_random_offsets_is_resumed_to_the_same_bytes(client, path):
    random_offsets = random.Random(2)
    received, etag = b"", client.head(path).headers["etag"]
    while len(received) < len(WEIGHTS):
        answer = get(client, path, range=f"bytes={len(received)}-", if_range=etag)
        assert answer.status_code == 206
        received += answer.content[: random_offsets.randrange(1, 200_000)]
    assert received == WEIGHTS


def test_a_range_of_another_version_gives_the_whole_file(client, path):
    etag = client.head(path).headers["etag"]
    assert get(client, path, range="bytes=0-4", if_range='"other"').status_code == 200
    assert get(client, path, range="bytes=0-4", if_range=f"W/{etag}").status_code == 200, "a weak validator is no match"
    assert get(client, path, range="bytes=0-4", if_range=etag).status_code == 206


def test_a_client_that_has_the_file_is_told_so(client, path):
    etag = client.head(path).headers["etag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = get(client, path, if_none_match=known)
        assert answer.status_code == 304 and answer.content == b"" and answer.headers["etag"] == etag
    assert get(client, path, if_none_match='"x"').status_code == 200


def test_a_precondition_that_fails_is_a_412(client, path):
    etag = client.head(path).headers["etag"]
    assert get(client, path, if_match='"x"').json()["code"] == "precondition_failed"
    assert get(client, path, if_match=etag).status_code == get(client, path, if_match="*").status_code == 200


def test_an_empty_file_can_be_fetched(client, checkpoint_id):
    path = f"/v1/checkpoints/{checkpoint_id}/files/empty.bin"
    assert client.get(path).content == b"" and client.get(path).status_code == 200
    assert get(client, path, range="bytes=0-").status_code == 416


@pytest.mark.parametrize("name", ["nothing", "manifest.json", "%2e%2e", "..%2fpolicy.json", "%00", ".writing-1"])
def test_only_listed_files_can_be_fetched(client, checkpoint_id, name):
    answer = client.get(f"/v1/checkpoints/{checkpoint_id}/files/{name}")
    assert answer.status_code == 404 and answer.json()["code"] in {"file_not_found", "route_not_found"}


def test_a_file_that_is_gone_from_the_store_is_a_404(client, checkpoint_id, artifacts, path):
    (stored,) = artifacts.root.rglob("policy.safetensors")
    stored.unlink()
    assert client.get(path).status_code == 404
    assert client.get(f"/v1/checkpoints/{checkpoint_id}/archive").status_code == 404


def test_the_archive_unpacks_to_the_files(client, checkpoint_id):
    answer = client.get(f"/v1/checkpoints/{checkpoint_id}/archive")
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == f'attachment; filename="{checkpoint_id}.tar"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:") as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}
    assert contents == {
        f"{checkpoint_id}/policy.safetensors": WEIGHTS,
        f"{checkpoint_id}/policy.json": b'{"format": 1}',
        f"{checkpoint_id}/empty.bin": b"",
    }


def test_the_archive_has_a_validator_and_ranges_like_a_file(client, checkpoint_id):
    path = f"/v1/checkpoints/{checkpoint_id}/archive"
    whole = client.get(path)
    etag = whole.headers["etag"]
    assert client.head(path).headers["content-length"] == str(len(whole.content))
    middle = get(client, path, range="bytes=500-300000", if_range=etag)
    rest = get(client, path, range="bytes=300001-", if_range=etag)
    assert whole.content[:500] + middle.content + rest.content == whole.content
    assert get(client, path, if_none_match=etag).status_code == 304


def test_a_download_takes_constant_memory(client, database, tenant, artifacts, tmp_path):
    """40 MB are read and dropped; what this process allocates, server and client together, stays below 8 MB."""
    (tmp_path / "large").mkdir()
    with Path(tmp_path / "large" / "weights.bin").open("wb") as file:
        file.truncate(40_000_000)
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    checkpoint_id = deployment.store(database, artifacts, job_id, tmp_path / "large")
    for name in ("files/weights.bin", "archive"):
        tracemalloc.start()
        with client.stream("GET", f"/v1/checkpoints/{checkpoint_id}/{name}") as answer:
            size = sum(len(block) for block in answer.iter_raw())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size >= 40_000_000 and peak < 8_000_000


def test_a_checkpoint_is_pinned_and_deleted(client, database, checkpoint_id):
    path = f"/v1/checkpoints/{checkpoint_id}"
    assert client.patch(path, json={"pinned": True}).json()["labels"] == ["latest", "best", "pinned"]
    assert client.delete(path).json()["code"] == "checkpoint_in_use"
    job_id = client.get(path).json()["job_id"]
    assert [one["id"] for one in client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]] == [checkpoint_id]
    deployment.finish(database, job_id)
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
