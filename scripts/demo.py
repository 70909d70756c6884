"""Trains CartPole-v1 through the service, from an empty directory to an evaluated policy; `make demo` runs it.

Starts the service by `ppo up` in a temporary directory, submits the job over HTTP, shows its progress, downloads the
policy and evaluates it with the downloaded files alone. The last line of output is one JSON object.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from ppo_client import Client, ClientError
from ppo_jobs.schemas import Job
from ppo_jobs.states import JobStatus
from ppo_server.launch import PARENT_VARIABLE

PPO = str(Path(sys.executable).with_name("ppo"))
START_SECONDS = 150
STOP_SECONDS = 30
EPISODES = 100


ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PPO_")}
"""Without the settings of another deployment."""


class DemoFailed(Exception):
    """The message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train CartPole-v1 through the service.")
    parser.add_argument("--policy", type=Path, default=Path("demo-policy"), help="where the policy is downloaded to")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="ppo-demo-") as folder:
        try:
            with service(Path(folder)) as client:
                outcome = train(client, options.policy, seed=options.seed)
        except (DemoFailed, ClientError) as error:
            print(f"The demo failed: {error}", file=sys.stderr)
            print(log_tail(Path(folder)), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return 130
    print(json.dumps(outcome))
    return 0


@contextmanager
def service(folder: Path, *, variables: Mapping[str, str] | None = None) -> Iterator[Client]:
    """The whole service, with its data in `folder`, until the block ends.

    Args:
        variables: settings of it that are not the defaults.
    """
    command = [PPO, "up", "--data-dir", str(folder), "--port", "0"]
    print(f"Starting the service in {folder}", flush=True)
    with (folder / "demo.log").open("wb") as log:
        # Its own session: Ctrl-C reaches the demo, which then stops the service in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**ENVIRONMENT, PARENT_VARIABLE: str(os.getpid()), **(variables or {})},
            start_new_session=True,
        )
    try:
        with Client(*address(process, folder)) as client:
            print(f"It answers at {client.connection.url}", flush=True)
            yield client
    finally:
        stop(process)


def address(process: subprocess.Popen[bytes], folder: Path) -> tuple[str, str]:
    """URL and API key of the service, once it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed(f"the service ended with status {process.returncode} before it was ready.")
        with suppress(FileNotFoundError, httpx2.TransportError):
            url, key = ((folder / name).read_text().strip() for name in ("api_url", "api_key"))
            if httpx2.get(f"{url}/readyz", trust_env=False).is_success:
                return url, key
        time.sleep(0.1)
    raise DemoFailed(f"the service was not ready within {START_SECONDS} s.")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DemoFailed(f"the service did not stop within {STOP_SECONDS} s and was killed.") from None


def train(client: Client, policy: Path, *, seed: int) -> dict[str, object]:
    """Submits the job, follows it to its end, downloads and evaluates its policy; the demo's outcome."""
    job = client.submit("CartPole-v1", seed=seed, name="demo")
    print(f"{job.id} is queued: CartPole-v1 with its preset, seed {seed}", flush=True)
    watch(client, job.id)
    ended = job.wait().data
    if ended.status is not JobStatus.SUCCEEDED:
        reason = ended.status_reason.message if ended.status_reason else "without a reason"
        raise DemoFailed(f"the job ended as {ended.status.value}: {reason}")
    job.checkpoint("final").download(policy)
    print(f"Downloaded the policy to {policy}/; evaluating {EPISODES} episodes with it.", flush=True)
    return {
        "job_id": ended.id,
        "status": ended.status.value,
        "timesteps": ended.progress.timesteps,
        "train_seconds": train_seconds(ended),
        "mean_return": evaluate(policy),
        "policy": str(policy),
    }


def watch(client: Client, job_id: str) -> None:
    """Shows the job's progress until it has ended, as anyone would: by `ppo watch`."""
    connection = client.connection
    environment = {**ENVIRONMENT, "PPO_API_URL": connection.url, "PPO_API_KEY": connection.api_key or ""}
    subprocess.run([PPO, "watch", job_id], stdin=subprocess.DEVNULL, env=environment, check=False)


def train_seconds(job: Job) -> float:
    if job.started_at is None or job.finished_at is None:
        raise DemoFailed("the job has no times of start and end.")
    return round((job.finished_at - job.started_at).total_seconds(), 2)


def evaluate(policy: Path) -> float:
    """Mean return of the downloaded policy, which needs nothing of the service."""
    command = [sys.executable, "-m", "ppo_engine.evaluate", str(policy), "--episodes", str(EPISODES), "--json"]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise DemoFailed(answer.stderr.strip())
    return float(json.loads(answer.stdout)["mean_reward"])


def log_tail(folder: Path, lines: int = 30) -> str:
    log = folder / "demo.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
