import errno
import io
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ppo_jobs.database import Database
from ppo_jobs.repository import tenants
from ppo_jobs.settings import Settings
from ppo_server import doctor
from ppo_server.__main__ import main
from ppo_server.first_start import ensure_api_key
from ppo_server.logs import LogFollower, start_afresh
from ppo_server.readiness import CannotStart, free_port, local_url, visible_gpus, write_private
from ppo_server.up import say


def ppo(settings: Settings, *arguments: str):
    variables = {"PPO_DATABASE_URL": settings.database_url, "PPO_DATA_DIR": str(settings.data_dir)}
    return CliRunner().invoke(main, arguments, env=variables)


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(settings: Settings, database: Database) -> None:
    made = ppo(settings, "keys", "create", "laptop")
    key = made.output.strip()
    listed = ppo(settings, "keys", "list").output
    assert "valid" in listed and "laptop" in listed and key.rpartition("_")[2] not in listed
    key_id = listed.split()[0]
    assert ppo(settings, "keys", "revoke", key_id).exit_code == 0
    assert "revoked" in ppo(settings, "keys", "list").output
    with database.read() as session:
        assert tenants.authenticate(session, key) is None


def test_what_is_not_there_is_said_in_one_sentence(settings: Settings) -> None:
    answer = ppo(settings, "keys", "list", "--tenant", "nobody")
    assert (answer.exit_code, answer.output) == (1, "Error: there is no tenant named nobody\n")


def test_migrate_makes_an_empty_database_usable(settings: Settings, empty_database_url: str) -> None:
    empty = settings.model_copy(update={"database_url": empty_database_url})
    assert [finding.is_fine for finding in doctor.database(empty)] == [False]
    assert ppo(empty, "migrate").exit_code == 0
    assert [finding.is_fine for finding in doctor.database(empty)] == [True, True]


def test_the_doctor_says_what_is_wrong(settings: Settings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(
        update={
            "database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none",
            "broker_url": "redis://127.0.0.1:1/0",
        }
    )
    assert not doctor.database(nowhere)[0].is_fine
    assert not doctor.broker(nowhere).is_fine
    assert doctor.broker(settings).is_fine
    assert doctor.disk(settings).words.endswith("GiB free")


def test_the_doctor_names_kernels_of_another_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        monkeypatch.delenv(name, raising=False)
    (plain,) = doctor.kernels()
    assert plain.is_fine and plain.words.startswith("openblas ")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    (astray,) = doctor.kernels()
    assert not astray.is_fine and "Nehalem; OPENBLAS_CORETYPE may choose kernels of another CPU" in astray.words


def test_the_key_file_is_kept_while_it_opens_the_database_and_replaced_when_not(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "api_key"
    ensure_api_key(database, path)
    first = path.read_text()
    ensure_api_key(database, path)
    assert path.read_text() == first
    write_private(path, "ppo_0000_stale\n")
    ensure_api_key(database, path)
    with database.read() as session:
        assert tenants.authenticate(session, path.read_text().strip()) is not None
    assert path.read_text() != first
    database.dispose()


def test_a_cuda_worker_where_there_is_no_gpu_is_refused(settings: Settings, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == 0
    answer = ppo(settings, "worker", "--queue", "cuda")
    assert answer.exit_code == 1
    assert answer.output == "Error: a worker of queue cuda needs a GPU for each slot, and this machine has 0\n"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("gpu.example", "http://gpu.example:80"),
    ],
)
def test_the_url_is_one_that_a_program_here_can_reach(host: str, url: str) -> None:
    assert local_url(host, 80) == url


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1 port 8000: Cannot assign"):
        free_port("192.0.2.1", 8000)


def test_the_terminal_shows_trouble_and_ends_of_jobs_and_nothing_else(tmp_path: Path, capsys) -> None:
    path = start_afresh(tmp_path / "api.log")
    follower = LogFollower()
    follower.follow("api", path)
    path.write_text(
        "2026-11-20T14:24:00Z INFO api.server: GET /v1/jobs 200\n"
        "2026-11-20T14:24:01Z WARNING worker.lease: late\n"
        "2026-11-20T14:24:02Z INFO ppo_jobs.repository.transitions: job job_01 is running\n"
        "2026-11-20T14:24:03Z INFO ppo_jobs.repository.transitions: job job_01 is succeeded\n"
        "2026-11-20T14:24:04Z ERROR half a li"
    )
    follower.show_new()
    assert capsys.readouterr().err.splitlines() == [
        "api | 2026-11-20T14:24:01Z WARNING worker.lease: late",
        "api | 2026-11-20T14:24:03Z INFO ppo_jobs.repository.transitions: job job_01 is succeeded",
    ]


class Full(io.StringIO):
    """As a file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "no space left")


def test_a_terminal_that_takes_nothing_and_a_log_that_is_gone_end_no_service(tmp_path: Path, monkeypatch) -> None:
    """Both went wrong when the disk was full that `ppo up` wrote its own output to."""
    path = start_afresh(tmp_path / "api.log")
    follower = LogFollower()
    follower.follow("api", path)
    follower.follow("worker", start_afresh(tmp_path / "worker.log"))
    path.write_text("2026-11-20T14:24:01Z WARNING worker.lease: late\n")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Full())
    say("ready")
    follower.show_new()
    path.unlink()
    follower.show_new()
