"""Messages arrive whole and once; garbage and lost messages harm nobody."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from kombu import Connection

from ppo_jobs import fsatomic
from ppo_jobs.queue import TASK, broker_answers, celery_app, publish
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName
from tests.ppo_jobs.contenders import receive, send

ROOT = Path(__file__).parents[2]


@pytest.fixture
def embedded_url(tmp_path: Path) -> str:
    return f"fsatomic://{tmp_path}/broker"


def _wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_two_writers_and_two_readers_lose_and_tear_nothing(embedded_url: str, tmp_path: Path) -> None:
    done = tmp_path / "done"
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        readers = [pool.submit(receive, embedded_url, str(done)) for _ in range(2)]
        writers = [pool.submit(send, embedded_url, writer, 500) for writer in range(2)]
        for writer in writers:
            writer.result()
        done.touch()
        received = [message for reader in readers for message in reader.result()]
    assert sorted(received) == [(writer, number) for writer in range(2) for number in range(500)]
    left = {directory: list((tmp_path / "broker" / directory).iterdir()) for directory in ("queue", "taken", "garbage")}
    assert left == {"queue": [], "taken": [], "garbage": []}


def test_messages_of_one_sender_arrive_in_order(embedded_url: str, tmp_path: Path) -> None:
    send(embedded_url, 0, 50)
    (tmp_path / "done").touch()
    assert receive(embedded_url, str(tmp_path / "done")) == [(0, number) for number in range(50)]


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_garbage_is_moved_aside_and_the_next_message_arrives(embedded_url: str, tmp_path: Path, garbage: bytes) -> None:
    queue = tmp_path / "broker" / "queue"
    queue.mkdir(parents=True)
    (queue / "00000000000000000001_torn.cpu.msg").write_bytes(garbage)
    (queue / "00000000000000000002_half.cpu.msg.123.tmp").write_bytes(b"{")
    send(embedded_url, 7, 1)
    (tmp_path / "done").touch()
    assert receive(embedded_url, str(tmp_path / "done")) == [(7, 0)]
    assert [path.read_bytes() for path in (tmp_path / "broker" / "garbage").iterdir()] == [garbage]


def test_what_a_crash_left_behind_is_removed_after_an_hour(embedded_url: str, tmp_path: Path) -> None:
    stale = ["queue/1_a.cpu.msg.9.tmp", "queue/1_b.celery@old.celery.pidbox.msg", "taken/1_c.cpu.msg"]
    fresh = ["queue/2_a.cpu.msg.9.tmp", "queue/2_b.celery@new.celery.pidbox.msg", "taken/2_c.cpu.msg"]
    waiting = ["queue/1_d.cpu.msg"]
    for name in stale + fresh + waiting:
        path = tmp_path / "broker" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if name in stale + waiting:
            os.utime(path, (1, time.time() - fsatomic.STALE_SECONDS - 60))
    with Connection(embedded_url) as connection, connection.channel():
        left = {str(path.relative_to(tmp_path / "broker")) for path in (tmp_path / "broker").glob("*/*")}
    assert left == {*fresh, *waiting}


def test_a_broker_that_was_emptied_under_a_living_connection_works_on(embedded_url: str, tmp_path: Path) -> None:
    with Connection(embedded_url) as connection, connection.channel() as channel:
        for _ in range(2):
            assert channel._size("cpu") == 0
            channel._put("cpu", {"body": "b", "properties": {}})
            shutil.rmtree(tmp_path / "broker")
            channel._put("cpu", {"body": "b", "properties": {}})
            assert channel._get("cpu")["body"] == "b"
            shutil.rmtree(tmp_path / "broker")


def test_a_table_of_bindings_that_is_garbage_is_written_anew(embedded_url: str, tmp_path: Path) -> None:
    with Connection(embedded_url) as connection, connection.channel() as channel:
        (tmp_path / "broker" / "control" / "news.exchange").write_text("[[torn")
        channel.exchange_declare("news", "fanout")
        for queue in ("a", "b"):
            channel.queue_declare(queue)
            channel.queue_bind(queue, "news", "")
        assert sorted(binding.queue for binding in channel.get_table("news")) == ["a", "b"]
        channel.queue_delete("a")
        assert [binding.queue for binding in channel.get_table("news")] == ["b"]


def test_the_settings_of_celery_are_those_that_survive(settings: Settings) -> None:
    conf = celery_app(settings).conf
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.task_ignore_result) == (False, False, True)
    assert (conf.accept_content, conf.task_serializer) == (["json"], "json")
    assert conf.worker_prefetch_multiplier == 1
    assert conf.broker_connection_max_retries is None
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    redis = celery_app(Settings(broker_url="redis://:s3cret@127.0.0.1:1/0")).conf.broker_transport_options
    assert (redis["socket_timeout"], redis["health_check_interval"], redis["socket_keepalive"]) == (15, 10, True)


def test_publishing_to_a_broker_that_is_away_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    for url in ("redis://:s3cret@127.0.0.1:1/0", f"fsatomic://{tmp_path}/file/below"):
        app = celery_app(Settings(broker_url=url, data_dir=tmp_path))
        assert not publish(app, QueueName.CPU)
        assert not broker_answers(app)
    assert "queue cpu was not woken" in caplog.text
    assert "s3cret" not in caplog.text


@contextmanager
def _worker(settings: Settings, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | {
        "PPO_BROKER_URL": settings.broker_url,
        "PPO_DATA_DIR": str(settings.data_dir),
        "PROBE_DIRECTORY": str(tmp_path / "probe"),
    }
    (tmp_path / "probe").mkdir()
    command = [sys.executable, "-m", "celery", "-A", "tests.ppo_jobs.celery_probe", "worker", "-Q", "cpu", "-c", "1"]
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle", "-n", "probe@test", "-l", "INFO"],
            cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def test_a_worker_takes_what_was_published_and_answers_control(settings: Settings, tmp_path: Path) -> None:
    app = celery_app(settings)
    assert broker_answers(app)
    assert publish(app, QueueName.CPU)  # Before any worker has declared the queue.
    with _worker(settings, tmp_path) as process:
        probe = tmp_path / "probe"
        _wait_until(lambda: len(list(probe.iterdir())) == 1)
        assert app.control.ping(timeout=10, limit=1) == [{"probe@test": {"ok": "pong"}}]
        # Pickle is what could run code here; such a message is refused and the worker lives.
        app.send_task(TASK, queue="cpu", serializer="pickle")
        if settings.broker_url.startswith("fsatomic:"):
            (tmp_path / "broker" / "queue" / "00000000000000000001_torn.cpu.msg").write_bytes(b"{")
        assert publish(app, QueueName.CUDA)  # Not this worker's queue.
        for _ in range(2):
            assert publish(app, QueueName.CPU)
        _wait_until(lambda: len(list(probe.iterdir())) == 3)
        assert process.poll() is None
    assert process.returncode == 0
    assert len(list(probe.iterdir())) == 3
    app.close()
