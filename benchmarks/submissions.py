"""How many jobs a second the service takes while a training keeps its only slot busy.

One light process submits over eight kept-alive connections, each request as soon as the one before was answered, and
asks for /healthz every 20 ms over a ninth. Its share of a core is printed beside the rate: what it takes, the service
has not. At the end every id of a 201 must be in the list of jobs.

With --database-url and --broker-url the service runs on servers that are there already, in an empty database.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.record import RESULTS, Record, append, machine, versions, with_own_kernels
from ppo_jobs.states import JobStatus
from scripts.demo import service

HEALTH_SECONDS = 0.02
TRAINING = {"total_timesteps": 10**9}
"""Of the job that keeps the slot busy."""


@dataclass
class Answers:
    """What came back, and after how many seconds."""

    accepted: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)


class Connection:
    """One kept-alive connection that costs next to nothing: no client library reads what it is to measure."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), address.port
        self._headers = f"Host: {self._host}\r\nAuthorization: Bearer {key}\r\n"

    async def open(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of one answer."""
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        return int(answer[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


async def submit(connection: Connection, answers: Answers, until: float, most: int) -> None:
    """One submission after the other; every one has a seed of its own."""
    while time.monotonic() < until and len(answers.seconds) < most:
        body = json.dumps({"env": {"id": "CartPole-v1"}, "seed": len(answers.seconds)}).encode()
        began = time.monotonic()
        status, answer = await connection.request("POST", "/v1/jobs", body)
        answers.seconds.append(time.monotonic() - began)
        if status == 201:
            answers.accepted.append(answer[answer.index(b'"id":"') + 6 :].split(b'"', 1)[0].decode())
        else:
            answers.refused.append(status)


async def probe(connection: Connection, answers: Answers) -> None:
    """Asks whether the process lives until it is cancelled."""
    while True:
        began = time.monotonic()
        await connection.request("GET", "/healthz")
        answers.health_seconds.append(time.monotonic() - began)
        await asyncio.sleep(HEALTH_SECONDS)


async def load(url: str, key: str, *, connections: int, seconds: float, most: int) -> Answers:
    """Submits for so long, or until `most` have been sent."""
    answers = Answers()
    opened = [await Connection(url, key).open() for _ in range(connections + 1)]
    until = time.monotonic() + seconds
    probing = asyncio.create_task(probe(opened[-1], answers))
    await asyncio.gather(*(submit(connection, answers, until, most) for connection in opened[:-1]))
    probing.cancel()
    for connection in opened:
        connection.close()
    return answers


def measure(variables: dict[str, str], *, connections: int, seconds: float, most: int) -> Record:
    """One service, from its start to its end."""
    with (
        tempfile.TemporaryDirectory(prefix="ppo-bench-") as folder,
        service(Path(folder), variables={"PPO_SLOTS": "1", **variables}) as client,
    ):
        beside = client.submit("CartPole-v1", seed=0, ppo=TRAINING, priority=100)
        while beside.refresh().data.progress.iteration == 0:
            time.sleep(0.1)
        before = beside.refresh().data.progress.timesteps
        key = client.connection.api_key or ""
        began, spent, served = time.monotonic(), time.process_time(), cpu_seconds_of_the_api()
        answers = asyncio.run(load(client.connection.url, key, connections=connections, seconds=seconds, most=most))
        wall = time.monotonic() - began
        cpu, api = time.process_time() - spent, cpu_seconds_of_the_api() - served
        known = {job.id for job in client.jobs(status=JobStatus.QUEUED)}
        trained = beside.refresh().data.progress.timesteps - before
    return {
        "benchmark": "submissions",
        "machine": machine(),
        "versions": versions("ppo-service", "fastapi", "uvicorn", "sqlalchemy", "pydantic"),
        "database": "sqlite" if "PPO_DATABASE_URL" not in variables else "postgresql",
        "connections": connections,
        "submissions": len(answers.accepted),
        "refused": len(answers.refused),
        "lost": len(set(answers.accepted) - known),
        "per_second": len(answers.accepted) / wall,
        "median_seconds": statistics.median(answers.seconds),
        "p99_seconds": percentile(answers.seconds, 0.99),
        "health_median_seconds": statistics.median(answers.health_seconds),
        "health_p99_seconds": percentile(answers.health_seconds, 0.99),
        "client_cpu_share": cpu / wall,
        "api_cpu_share": api / wall,
        "trained_per_second": trained / wall,
    }


def number(record: Record, name: str) -> float:
    value = record[name]
    assert isinstance(value, int | float)
    return value


def milliseconds(record: Record, prefix: str) -> str:
    median, p99 = (number(record, f"{prefix}{name}_seconds") for name in ("median", "p99"))
    return f"median {1000 * median:.0f} ms, p99 {1000 * p99:.0f} ms"


def cpu_seconds_of_the_api() -> float:
    """What the process that answers has used so far."""
    for process in psutil.Process().children(recursive=True):
        if "api" in process.cmdline():
            times = process.cpu_times()
            return float(times.user + times.system)
    raise RuntimeError("there is no process of the API")


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> int:
    """Prints rate and latencies; with --json, one JSON object as the last line."""
    with_own_kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submissions", description=__doc__)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long, at the most")
    parser.add_argument("--submissions", type=int, default=5000, help="how many, at the most")
    parser.add_argument("--database-url", help="an empty database, instead of SQLite")
    parser.add_argument("--broker-url", help="instead of the broker of files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = {"PPO_DATABASE_URL": options.database_url, "PPO_BROKER_URL": options.broker_url}
    variables = {name: value for name, value in given.items() if value is not None}
    record = measure(variables, connections=options.connections, seconds=options.seconds, most=options.submissions)
    append(RESULTS / "submissions.jsonl", record)
    if options.json:
        print(json.dumps(record))
        return 0
    print(f"{machine()}; {record['database']}, {options.connections} connections, a training beside")
    print(
        f"{number(record, 'per_second'):.0f} submissions/s: {record['submissions']} accepted, {record['refused']} "
        f"refused, {record['lost']} lost; {milliseconds(record, '')}"
    )
    print(f"/healthz meanwhile: {milliseconds(record, 'health_')}")
    print(
        f"the client took {number(record, 'client_cpu_share'):.0%} of a core, the API "
        f"{number(record, 'api_cpu_share'):.0%}; the training made {number(record, 'trained_per_second'):,.0f} steps/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
