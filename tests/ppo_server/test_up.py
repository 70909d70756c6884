import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ppo_server.readiness import answers
from ppo_server.up import Signals

READY_SECONDS = 90


def start(data_dir: Path, *options: str, **given: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ppo_server", "up", "--data-dir", str(data_dir), *options]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PPO_")} | given
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables, start_new_session=True
    )


def until_ready(data_dir: Path, up: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while not (data_dir / "api_url").exists():
        assert up.poll() is None, up.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return (data_dir / "api_url").read_text().strip()


def ended(up: subprocess.Popen[str]) -> str:
    """What it printed, once it has ended."""
    return up.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    data_dir = tmp_path_factory.mktemp("up")
    data_dir.chmod(0o755)
    elsewhere = tmp_path_factory.mktemp("s3cret")
    up = start(data_dir, "--port", "0", "--slots", "1", PPO_ARTIFACTS_URL=f"file://{elsewhere}")
    try:
        yield data_dir, until_ready(data_dir, up), up
    finally:
        up.send_signal(signal.SIGTERM)
        ended(up)


def test_it_makes_a_key_that_only_its_owner_reads_and_that_opens_the_api(service) -> None:
    data_dir, url, _ = service
    assert stat.S_IMODE((data_dir / "api_key").stat().st_mode) == 0o600
    key = (data_dir / "api_key").read_text().strip()
    request = urllib.request.Request(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        assert answer.status == 200


def test_nothing_imports_torch_but_children_and_what_they_are_forked_from(service) -> None:
    _, _, up = service
    seen = 0
    for process in psutil.Process(up.pid).children(recursive=True):
        # What describes plugins, or compiles, may have ended by now.
        with suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            if {"worker.forkserver", "ppo_engine.fused.compile"}.isdisjoint(command):
                maps = [Path(mapped.path).name for mapped in process.memory_maps()]
                assert not [name for name in maps if name.startswith("libtorch")], command
                seen += 1
    assert seen >= 3, "API, worker and sweeper"


def test_a_second_one_on_the_same_directory_is_refused_in_one_sentence(service) -> None:
    data_dir, _, up = service
    second = start(data_dir, "--port", "0")
    assert ended(second) == f"Error: another `ppo up` (process {up.pid}) already runs on {data_dir}\n"
    assert second.returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not look into them at all")
def test_no_service_has_a_secret_among_its_variables_and_all_have_the_setting(service) -> None:
    data_dir, url, up = service
    below = psutil.Process(up.pid).children(recursive=True)
    seen = 0
    for process in below:
        # What describes plugins may have ended by now.
        with suppress(ProcessLookupError, FileNotFoundError):
            variables = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"s3cret" not in variables, process.pid
            seen += bool(variables)
    assert seen >= 3, "API, worker and sweeper"
    assert "s3cret" in Path(f"/proc/{up.pid}/environ").read_text()
    assert not (data_dir / "artifacts").exists()
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for name in ("ppo.sqlite3", "api.log"):
        found = next(data_dir.rglob(name))
        assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert answers(f"{url}/readyz")


@pytest.mark.parametrize("is_ignored", [True, False])
def test_the_terminals_end_is_the_services_end_unless_it_was_to_be_ignored(is_ignored: bool) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
        signals = Signals()
        signal.raise_signal(signal.SIGHUP)
        assert signals.stop_wanted() is not is_ignored
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop_wanted()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_port_that_is_taken_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = start(tmp_path, "--port", str(port))
        assert ended(up) == f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
        assert up.returncode == 1


def test_a_setting_that_makes_no_sense_is_told_in_one_sentence(tmp_path: Path) -> None:
    variables = {**os.environ, "PPO_LEASE_SECONDS": "-1", "PPO_DATA_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "ppo_server", "sweeper"], env=variables, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: PPO_LEASE_SECONDS: ") and ran.stderr.count("\n") == 1


def test_a_crashed_service_is_started_again_and_sigint_stops_all_of_them(tmp_path: Path) -> None:
    up = start(tmp_path, "--port", "0", "--slots", "1")
    url = until_ready(tmp_path, up)
    api = next(process for process in psutil.Process(up.pid).children() if "api" in process.cmdline())
    api.kill()
    deadline = time.monotonic() + 60
    while api.is_running() or not answers(f"{url}/healthz"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    below = psutil.Process(up.pid).children(recursive=True)
    assert len(below) >= 4  # API, Celery's main process and its slot, sweeper.
    up.send_signal(signal.SIGINT)
    printed = ended(up)
    assert up.returncode == 0
    assert "api ended with status -9" in printed
    assert printed.endswith("ppo: stopped\n")
    assert not [process for process in below if process.is_running()]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is needed")
def test_its_processes_do_not_outlive_it_when_it_is_killed(tmp_path: Path) -> None:
    up = start(tmp_path, "--port", "0", "--slots", "1")
    until_ready(tmp_path, up)
    below = psutil.Process(up.pid).children(recursive=True)
    up.kill()
    ended(up)
    assert psutil.wait_procs(below, timeout=20)[1] == []
