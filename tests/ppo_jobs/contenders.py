"""What runs in the child processes of tests about concurrency."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kombu import Connection
from sqlalchemy import text

import ppo_jobs.fsatomic  # noqa: F401 (registers the transport)
from ppo_jobs.database import open_database
from ppo_jobs.repository import claims
from ppo_jobs.states import QueueName


def claim_until_empty(url: str, worker_id: str) -> list[str]:
    database = open_database(url, durable=False)
    claimed: list[str] = []
    while True:
        with database.write() as session:
            owner = claims.claim(session, worker_id=worker_id, queue=QueueName.CPU, lease_seconds=60)
        if owner is None:
            database.dispose()
            return claimed
        claimed.append(owner.job_id)


def claim_in_two_threads(url: str, name: str) -> list[list[str]]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(claim_until_empty, [url] * 2, [f"{name}1", f"{name}2"]))


def count_up(url: str, times: int) -> None:
    """Reads a number, and writes it back one higher, in one transaction."""
    database = open_database(url, durable=False)
    lock = "FOR UPDATE" if database.engine.dialect.name == "postgresql" else ""
    for _ in range(times):
        with database.write() as session:
            slots = session.execute(text(f"SELECT slots FROM workers WHERE id = 'counter' {lock}")).scalar_one()
            session.execute(text("UPDATE workers SET slots = :n WHERE id = 'counter'"), {"n": slots + 1})
    database.dispose()


def send(broker: str, writer: int, count: int) -> None:
    with Connection(broker) as connection, connection.SimpleQueue("cpu") as queue:
        for number in range(count):
            queue.put({"writer": writer, "number": number})


def receive(broker: str, done: str) -> list[tuple[int, int]]:
    """Everything that comes until the file `done` exists and the queue is empty."""
    received: list[tuple[int, int]] = []
    with Connection(broker) as connection, connection.SimpleQueue("cpu") as queue:
        while True:
            was_done = Path(done).exists()
            try:
                message = queue.get(block=False)
            except queue.Empty:
                if was_done:
                    return received
                time.sleep(0.01)
                continue
            received.append((message.payload["writer"], message.payload["number"]))
            message.ack()
