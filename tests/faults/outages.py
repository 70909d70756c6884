"""Outages that end by themselves: a disk that is full for a while, and processes that stand still but live.

    python -m tests.faults.outages --seed 1

A job trains undisturbed first. Then it trains once through each outage, in the order and from the iteration on that the
seed draws: the disk is full for 25 s (that needs the right to mount a file system; else it is told to be left out), the
training process is stopped by SIGSTOP, the API is. Every job must succeed in as many attempts as its outage may cost,
with a whole ledger and the same policy, to the bit, and the service must answer again. Each outage is printed with the
time that it took to be noticed; the last line of output is a summary as JSON.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import httpx2
import psutil

from ppo_jobs.states import TERMINAL, AttemptOutcome, JobStatus
from tests.faults.invariants import attempt_faults, ledger_faults
from tests.faults.service import Service, running_service

ITERATIONS = 300
SPEC: dict[str, Any] = {
    "env": {"id": "test/Slow-v0", "n_envs": 2, "vectorization": "sync", "kwargs": {"seconds_per_step": 0.002}},
    "policy": {"hidden_sizes": [8]},
    "ppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "total_timesteps": 64 * ITERATIONS},
    "preset": "default",
    "seed": 3,
    "checkpoints": {"every_timesteps": 640},
}
"""An iteration takes at least 2 · 32 · 2 ms = 0.13 s, the whole some 40 s."""

LITTLE = {"env": {"id": "CartPole-v1"}, "ppo": {"total_timesteps": 1000}, "seed": 1}
STEP_TIMEOUT_SECONDS = 5.0
DISK_BYTES = 48 << 20
FULL_SECONDS = 25.0
LIMIT_SECONDS = 240.0
"""For one job and its outage."""


class Broken(Exception):
    """A promise was not kept."""


def full_disk(service: Service, data_dir: Path, job_id: str) -> str:
    """No byte is free on the disk of the whole service; what is freed is taken again."""
    filler, ends_at = data_dir / "filler", time.monotonic() + FULL_SECONDS
    answers: set[int] = set()
    try:
        while time.monotonic() < ends_at:
            with suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 12))
            with suppress(httpx2.TransportError):
                answer = service.http.post("/v1/jobs", json=LITTLE, headers={"Idempotency-Key": "while full"})
                answers.add(answer.status_code)
            time.sleep(0.2)
    finally:
        filler.unlink(missing_ok=True)
    if not answers <= {200, 201, 503}:
        raise Broken(f"POSTs were answered {sorted(answers)} while the disk was full")
    return f"POSTs of one job were answered {sorted(answers)}"


def frozen_child(service: Service, data_dir: Path, job_id: str) -> str:
    """The training process is stopped, and its job must go on in another."""
    (child,) = service.children()
    child.suspend()
    noticed = until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child is ended")
    return f"noticed after {noticed:.1f} s"


def frozen_api(service: Service, data_dir: Path, job_id: str) -> str:
    """The API is stopped, and must be replaced."""
    (api,) = apis(service)
    api.suspend()
    noticed = until(lambda: apis(service) not in ([api], []), "the API is replaced")
    answered = until(lambda: answers(service), "the API answers")
    return f"noticed after {noticed:.1f} s, answered {answered:.1f} s later"


OUTAGES: dict[str, tuple[Callable[[Service, Path, str], str], int]] = {
    "full disk": (full_disk, 99),
    "frozen child": (frozen_child, 2),
    "frozen API": (frozen_api, 1),
}
"""Each with the attempts that it may cost; those that found a disk full are not counted by the service."""


def apis(service: Service) -> list[psutil.Process]:
    """The processes of the API below `ppo up`."""
    found = []
    for process in service.process.children():
        with suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", "api"]:
                found.append(process)
    return found


def answers(service: Service) -> bool:
    try:
        return service.http.get("/healthz", timeout=2).is_success
    except httpx2.TransportError:
        return False


def until(condition: Callable[[], bool], words: str) -> float:
    """The seconds until it holds. Raises Broken."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > LIMIT_SECONDS:
            raise Broken(f"not within {LIMIT_SECONDS:.0f} s: {words}")
        time.sleep(0.05)
    return time.monotonic() - began


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own in `folder`; whether there is one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def trained(service: Service, strike: Callable[[str], None] | None, at: int) -> str:
    """The id of a job that has ended; `strike` is called when it has come to iteration `at`."""
    spec = {**SPEC, "env": {**SPEC["env"], "step_timeout_seconds": STEP_TIMEOUT_SECONDS}}
    job_id = service.submit(spec)
    if strike is not None:
        until(lambda: service.job(job_id).progress.iteration >= at, f"iteration {at}")
        strike(job_id)
    until(lambda: service.job(job_id).status in TERMINAL, "the job ends")
    return job_id


def examine(service: Service, job_id: str, calm: str, attempts_allowed: int) -> list[str]:
    job, attempts = service.job(job_id), service.attempts(job_id)
    found = ledger_faults(service.events(job_id), iterations=ITERATIONS) + attempt_faults(attempts)
    if job.status is not JobStatus.SUCCEEDED:
        found.append(f"is {job.status}: {job.status_reason}")
    if service.policy_sha256(job_id) != service.policy_sha256(calm):
        found.append("another policy than undisturbed")
    if len(attempts) > attempts_allowed:
        found.append(f"{len(attempts)} attempts where {attempts_allowed} were allowed")
    return found


def run(seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The summary; `faults_found` is empty if every promise was kept."""
    chance = random.Random(seed)
    found: list[str] = []
    left_out: list[str] = []
    attempts: dict[str, list[str]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ppo-outages-")))
        is_small = stack.enter_context(small_disk(folder))
        service = stack.enter_context(running_service(folder, slots=1, variables={}))
        stack.callback(service.database.dispose)
        calm = trained(service, None, 0)
        say(f"undisturbed: {service.job(calm).status}")
        for name in chance.sample(sorted(OUTAGES), len(OUTAGES)):
            if name == "full disk" and not is_small:
                left_out.append(f"{name}: no file system can be mounted here")
                continue
            outage, attempts_allowed = OUTAGES[name]
            at = chance.randrange(10, ITERATIONS // 3)

            def strike(job_id: str, name: str = name, at: int = at, outage: Any = outage) -> None:
                say(f"{name} at iteration {at}: {outage(service, folder, job_id)}")

            try:
                job_id = trained(service, strike, at)
            except (Broken, httpx2.TransportError) as error:
                say((folder / "up.out").read_text()[-2000:])
                found.append(f"{name}: {error}")
                continue
            outcomes = [attempt.outcome or AttemptOutcome.LOST for attempt in service.attempts(job_id)]
            attempts[name] = [str(outcome) for outcome in outcomes]
            found += [f"{name}: {fault}" for fault in examine(service, job_id, calm, attempts_allowed)]
    return {"seed": seed, "attempts": attempts, "left_out": left_out, "faults_found": found}


@click.command()
@click.option("--seed", default=0, show_default=True)
def main(seed: int) -> None:
    """Run all outages once; the exit status is 1 if a promise was broken."""
    summary = run(seed, lambda words: print(words, flush=True))
    print(json.dumps(summary))
    sys.exit(1 if summary["faults_found"] else 0)


if __name__ == "__main__":
    main()
