"""The README's curl session, as written, against a running service."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_readme import blocks

START_SECONDS = 60

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Of a service that `ppo up` runs and stops."""
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "ppo_server", "up", "--data-dir", str(folder), "--port", "0", "--slots", "1"]
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(folder / "api_url", process)
        yield folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        assert process.poll() is None, f"`ppo up` ended with status {process.returncode}"
        assert time.monotonic() < deadline, f"no {path} within {START_SECONDS} s"
        time.sleep(0.1)


def test_the_curl_session_works_as_written(data_dir, tmp_path):
    (session,) = [block for block in blocks("bash") if "curl" in block]
    environment = {**os.environ, "PPO_DATA_DIR": str(data_dir)}
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] in {"queued", "running", "succeeded"}
    assert lines[4] == "event: end"
    assert "final" in lines[5]
    downloaded, promised = lines[-2:]
    assert len(downloaded) == 64
    assert downloaded == promised
