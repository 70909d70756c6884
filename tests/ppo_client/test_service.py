"""The client against the real API and a real database; the test does what a worker would write there."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from ppo_client import Client, Conflict, InvalidRequest, NotAuthorised, NotFound, RetryPolicy
from ppo_client.jobs import JobHandle
from ppo_jobs.artifacts import LocalArtifacts
from ppo_jobs.database import Database
from ppo_jobs.schemas import JobPatch
from ppo_jobs.states import EventType, JobStatus, QueueName
from tests.api import deployment
from tests.ppo_client.conftest import Service

WEIGHTS = bytes(range(256)) * 5000


@pytest.fixture
def patient_client(api: Service, api_key: str) -> Iterator[Client]:
    """A client of the service that can be killed."""
    policy = RetryPolicy(first_delay_seconds=0.01, longest_delay_seconds=0.1)
    with Client(api.url, api_key, retry=policy) as client:
        yield client


@pytest.fixture
def running(client: Client, database: Database) -> JobHandle:
    """A job that a worker has claimed."""
    job = client.submit("CartPole-v1", ppo={"total_timesteps": 1000}, seed=3)
    assert deployment.start(database) == job.id
    return job.refresh()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The files of a checkpoint."""
    directory = tmp_path / "written"
    directory.mkdir()
    (directory / "policy.safetensors").write_bytes(WEIGHTS)
    (directory / "policy.json").write_text("{}")
    (directory / "state.json").write_text("{}")
    return directory


def test_a_job_comes_back_as_it_was_submitted(client: Client) -> None:
    job = client.submit("CartPole-v1", name="first", seed=3, ppo={"gamma": 0.9}, metadata={"team": "a"})
    assert job.status == JobStatus.QUEUED
    assert job.data.spec == {
        "env": {"id": "CartPole-v1"},
        "name": "first",
        "seed": 3,
        "ppo": {"gamma": 0.9},
        "metadata": {"team": "a"},
    }
    assert client.job(job.id).data == job.data
    assert job.data.wants == QueueName.CPU
    assert job.data.queue.position == 1


def test_one_idempotency_key_makes_one_job_however_many_submit(client: Client) -> None:
    with ThreadPoolExecutor(10) as pool:
        ids = set(pool.map(lambda _: client.submit("CartPole-v1", idempotency_key="once").id, range(10)))
    assert len(ids) == 1
    assert len(list(client.jobs())) == 1
    with pytest.raises(InvalidRequest) as caught:
        client.submit("Pendulum-v1", idempotency_key="once")
    assert caught.value.code == "idempotency_mismatch"


def test_lists_are_whole_over_pages_and_filtered_by_the_service(client: Client) -> None:
    submitted = [client.submit("CartPole-v1", seed=seed, group="g" if seed % 2 else None).id for seed in range(7)]
    assert [job.id for job in client.jobs(page_size=3)] == submitted[::-1]
    assert [job.id for job in client.jobs(group="g", page_size=1)] == submitted[1::2][::-1]
    assert list(client.jobs(status=JobStatus.RUNNING)) == []
    assert list(client.jobs(env_id="Pendulum-v1")) == []


def test_what_the_service_refuses_is_told_with_its_place(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.submit("CartPole-v9")
    assert caught.value.errors[0].pointer == "/env/id"
    assert "CartPole-v1" in caught.value.errors[0].message
    with pytest.raises(InvalidRequest) as caught:
        client.submit("CartPole-v1", env={"kwargs": {"gravity": 1}})
    assert caught.value.errors[0].pointer.startswith("/env/kwargs")
    assert caught.value.request_id


def test_strange_ids_are_not_found(client: Client) -> None:
    for job_id in ["job_nope", "../workers", "job_1/cancel", "", "..", "ü", "a b"]:
        with pytest.raises((NotFound, InvalidRequest)):
            client.job(job_id)


def test_a_wrong_key_and_no_key_are_not_authorised(
    server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PPO_DATA_DIR", str(tmp_path / "empty"))
    for key in ("ppo_nobody_knows", None):
        with Client(server_url, key) as stranger, pytest.raises(NotAuthorised):
            list(stranger.jobs())


def test_catalogue_presets_workers_and_health_are_typed(client: Client) -> None:
    environments = {environment.id: environment for environment in client.environments()}
    assert environments["CartPole-v1"].observation_size == 4
    assert client.environment("CartPole-v1") == environments["CartPole-v1"]
    for unknown in ("CartPole", "ALE/Pong-v5", "../workers", ""):
        with pytest.raises(NotFound):
            client.environment(unknown)
    assert "CartPole-v1" in {preset.env_id for preset in client.presets()}
    assert [(worker.id, worker.slots) for worker in client.workers()] == [("worker-1", 2)]
    assert client.health().status == "ok"


def test_a_stream_outlives_the_death_of_the_service(api: Service, patient_client: Client, database: Database) -> None:
    """The API is killed twice while the ledger grows by 200 events: the stream shows each of them once."""
    running = patient_client.submit("CartPole-v1")
    deployment.start(database)
    events = running.stream()
    seen: list[int] = []

    def take(count: int) -> None:
        seen.extend(event.seq for event in islice(events, count))

    deployment.append(database, running.id, range(1, 101))
    take(50)
    api.kill()
    deployment.append(database, running.id, range(101, 151))
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(take, 80)
        api.start()
        taking.result(timeout=30)
    api.kill()
    deployment.append(database, running.id, range(151, 201))
    deployment.finish(database, running.id)
    api.start()
    seen.extend(event.seq for event in events)
    assert seen == list(range(1, len(seen) + 1))
    assert [event.seq for event in running.events(page_size=7)] == seen
    assert running.status == JobStatus.SUCCEEDED


def test_waiting_outlives_the_death_of_the_service(api: Service, patient_client: Client, database: Database) -> None:
    running = patient_client.submit("CartPole-v1")
    deployment.start(database)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(running.wait, 30)
        api.kill()
        deployment.finish(database, running.id, JobStatus.FAILED)
        api.start()
        assert waiting.result().status == JobStatus.FAILED


def test_a_job_that_has_ended_streams_its_whole_ledger(database: Database, running: JobHandle) -> None:
    deployment.append(database, running.id, range(1, 4))
    deployment.finish(database, running.id)
    types = [event.type for event in running.stream()]
    assert types == [EventType.STATUS] * 2 + [EventType.METRICS] * 3 + [EventType.STATUS]
    assert list(running.stream(after=6)) == []


def test_metrics_come_as_columns_of_the_keys_that_are_asked_for(database: Database, running: JobHandle) -> None:
    deployment.append(database, running.id, range(1, 5))
    table = running.metrics()
    assert table.columns["timesteps"] == [10, 20, 30, 40]
    assert table.columns["time/fps"] == [None, 1000.0, None, 1000.0]
    assert set(running.metrics(keys=["rollout/ep_rew_mean"]).columns) == {
        "iteration",
        "timesteps",
        "rollout/ep_rew_mean",
    }
    assert len(running.metrics(max_points=3).columns["iteration"]) == 3


def test_events_of_one_type_are_asked_for(database: Database, running: JobHandle) -> None:
    deployment.append(database, running.id, range(1, 3))
    assert [event.type for event in running.events()] == [EventType.STATUS] * 2 + [EventType.METRICS] * 2
    assert [event.seq for event in running.events(type=EventType.METRICS, page_size=1)] == [3, 4]
    assert list(running.events(type=EventType.DIAGNOSIS)) == []


def test_a_checkpoint_is_downloaded_and_goes_on_where_it_broke(
    database: Database, artifacts: LocalArtifacts, running: JobHandle, bundle: Path, tmp_path: Path
) -> None:
    checkpoint_id = deployment.store(database, artifacts, running.id, bundle)
    (checkpoint,) = running.checkpoints()
    assert checkpoint.id == checkpoint_id == running.checkpoint("latest").id
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    target = tmp_path / "policy"
    target.mkdir()
    (target / f"policy.safetensors.{digest[:12]}.part").write_bytes(WEIGHTS[:1000])

    received: list[int] = []
    paths = checkpoint.download(target, on_bytes=received.append)
    assert {path.name for path in paths} >= {"policy.safetensors", "policy.json"}
    assert "state.json" not in {path.name for path in paths}
    assert (target / "policy.safetensors").read_bytes() == WEIGHTS
    assert received[0] + received[1] <= len(WEIGHTS)
    assert 1000 in received
    assert not list(target.glob("*.part"))


def test_a_checkpoint_is_pinned_and_deleted(
    client: Client, database: Database, artifacts: LocalArtifacts, running: JobHandle, bundle: Path
) -> None:
    checkpoint_id = deployment.store(database, artifacts, running.id, bundle)
    checkpoint = client.checkpoint(checkpoint_id)
    assert "pinned" in checkpoint.pin().data.labels
    assert "pinned" not in checkpoint.pin(pinned=False).data.labels
    with pytest.raises(Conflict):
        checkpoint.delete()
    deployment.finish(database, running.id)
    checkpoint.delete()
    assert running.checkpoints() == []


def test_a_queued_job_is_cancelled_at_once_and_twice_is_no_error(client: Client) -> None:
    job = client.submit("CartPole-v1")
    assert job.cancel().status == JobStatus.CANCELLED
    assert job.cancel().status == JobStatus.CANCELLED


def test_what_has_ended_is_not_cancelled_but_retried_renamed_and_deleted(
    client: Client, database: Database, running: JobHandle
) -> None:
    assert running.cancel().data.cancel_requested
    with pytest.raises(Conflict):
        running.delete()
    with pytest.raises(Conflict):
        running.retry()
    deployment.finish(database, running.id, JobStatus.FAILED)
    with pytest.raises(Conflict):
        running.cancel()
    again = running.retry(from_start=True)
    assert again.data.parent is not None
    assert (again.data.parent.job_id, again.data.parent.mode) == (running.id, "retry")
    assert running.update(JobPatch(name="old")).data.name == "old"
    running.delete()
    with pytest.raises(NotFound):
        client.job(running.id)


def test_attempts_and_logs_belong_to_the_job(running: JobHandle) -> None:
    assert [(attempt.number, attempt.worker_id) for attempt in running.attempts()] == [(1, "worker-1")]
    assert running.logs().attempt == 1
    with pytest.raises(NotFound):
        running.logs(attempt=7)
