"""Whatever keeps a program from starting is told in one sentence; what it keeps is private from then on."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from ppo_jobs import kernel
from ppo_jobs.database import migrate, open_database
from ppo_jobs.entrance import in_words, prepare
from ppo_jobs.errors import DataDirectoryUnusable
from ppo_jobs.settings import sqlite_url
from ppo_server.__main__ import main
from ppo_server.secrets import put_away

COMMANDS = [["up", "--port", "0"], ["migrate"], ["api"], ["worker"], ["sweeper"], ["keys", "list"], ["doctor"]]


def a_file(directory: Path) -> None:
    directory.write_text("")


def below_a_file(directory: Path) -> None:
    directory.parent.rmdir()
    directory.parent.write_text("")


def corrupt(directory: Path) -> None:
    directory.mkdir()
    (directory / "ppo.sqlite3").write_bytes(b"this is no database " * 500)


def of_a_newer_version(directory: Path) -> None:
    directory.mkdir()
    migrate(sqlite_url(directory / "ppo.sqlite3"))
    database = open_database(sqlite_url(directory / "ppo.sqlite3"), durable=False)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()


def open_to_all(directory: Path) -> None:
    directory.mkdir()
    (directory / "somebody's").touch()
    directory.chmod(0o777)


def without_a_database(directory: Path) -> None:
    (directory / "ppo.sqlite3").mkdir(parents=True)


def with_a_directory_for_a_key(directory: Path) -> None:
    (directory / "api_key").mkdir(parents=True)


def with_a_directory_for_a_lock(directory: Path) -> None:
    (directory / "up.lock").mkdir(parents=True)


ALL = [command[0] for command in COMMANDS]
FAULTS: list[tuple[Callable[[Path], None], list[str], str]] = [
    (a_file, ALL, "it is a file"),
    (below_a_file, ALL, "a directory"),
    (open_to_all, ALL, "anybody may write to it"),
    (corrupt, ["up", "migrate", "keys", "doctor"], "not a database"),
    (of_a_newer_version, ["up", "migrate"], "newer version"),
    (without_a_database, ["up", "migrate", "keys", "doctor"], "unable to open"),
    (with_a_directory_for_a_key, ["up"], "Is a directory"),
    (with_a_directory_for_a_lock, ["up"], "Is a directory"),
]


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [(spoil, name, words) for spoil, names, words in FAULTS for name in names],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_keeps_a_program_from_starting_is_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], name: str, words: str
) -> None:
    directory = tmp_path / "parent" / "data"
    directory.parent.mkdir()
    spoil(directory)
    command = next(command for command in COMMANDS if command[0] == name)
    if name == "up":
        # In a process of its own: it starts others before it asks the database.
        variables = {**os.environ, "PPO_DATA_DIR": str(directory)}
        run = [sys.executable, "-m", "ppo_server", *command]
        ran = subprocess.run(run, env=variables, capture_output=True, text=True, check=False, timeout=100)
        status, told = ran.returncode, [line for line in ran.stderr.splitlines() if " | " not in line]
    else:
        answer = CliRunner().invoke(main, command, env={"PPO_DATA_DIR": str(directory)})
        status, told = answer.exit_code, answer.output.splitlines()
    assert status == 1
    if name == "doctor":
        assert any(line.startswith("BAD") and words in line for line in told), told
    else:
        assert len(told) == 1 and told[0].startswith("Error: ") and words in told[0], told


@pytest.mark.parametrize("directory", ["/proc/ppo", "/sys/ppo", "/sys/kernel"])
@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's")
def test_where_nobody_may_write_nothing_starts(directory: str) -> None:
    answer = CliRunner().invoke(main, ["up", "--port", "0"], env={"PPO_DATA_DIR": directory})
    assert (answer.exit_code, answer.output.count("\n")) == (1, 1)
    assert answer.output.startswith(f"Error: the data directory {directory} cannot be used: ")


def test_a_full_disk_and_a_read_only_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, words in ((28, "No space left on device"), (30, "Read-only file system")):

        def refuse(dir: Path, number: int = number, words: str = words) -> None:
            raise OSError(number, words)

        monkeypatch.setattr("ppo_jobs.entrance.tempfile.TemporaryFile", refuse)
        with pytest.raises(DataDirectoryUnusable, match=words):
            prepare(tmp_path)


def test_a_program_that_is_run_by_itself_speaks_as_plainly(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    for module in ("api", "worker.sweeper"):
        variables = {**os.environ, "PPO_DATA_DIR": str(tmp_path / "data")}
        ran = subprocess.run([sys.executable, "-m", module], env=variables, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
        assert ran.stderr.startswith("Error: the data directory")


def test_a_fault_of_the_programs_own_is_one_sentence_too_unless_its_traceback_is_wanted(monkeypatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("by nought\nand more")

    monkeypatch.setattr("ppo_server.__main__.load_settings", fail)
    answer = CliRunner().invoke(main, ["migrate"])
    assert (answer.exit_code, answer.output) == (1, "Error: ZeroDivisionError: by nought\n")
    wanted = CliRunner().invoke(main, ["migrate"], env={"PPO_LOG_LEVEL": "DEBUG"})
    assert isinstance(wanted.exception, ZeroDivisionError)
    assert in_words(PermissionError(13, "Permission denied", "/x/key")) == "/x/key: Permission denied"


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.iterdir()]}


def test_a_directory_that_was_made_before_becomes_private_with_all_that_is_ours_in_it(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    for name in ("artifacts", "runs", "broker"):
        (directory / name).mkdir(parents=True)
    for name in ("ppo.sqlite3", "ppo.sqlite3-wal"):
        (directory / name).touch(0o644)
    directory.chmod(0o755)
    assert CliRunner().invoke(main, ["migrate"], env={"PPO_DATA_DIR": str(directory)}).exit_code == 0
    found = modes(directory)
    assert found.pop("data") == found["artifacts"] == found["runs"] == found["broker"] == 0o700
    assert found["ppo.sqlite3"] == 0o600


def test_what_is_made_from_then_on_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    assert CliRunner().invoke(main, ["migrate"], env={"PPO_DATA_DIR": str(directory)}).exit_code == 0
    assert modes(directory) == {"data": 0o700, "ppo.sqlite3": 0o600}


def test_a_directory_with_other_things_in_it_keeps_its_mode_and_ours_are_private(tmp_path: Path) -> None:
    (tmp_path / "notes").touch(0o644)
    (tmp_path / "artifacts").mkdir(0o755)
    tmp_path.chmod(0o755)
    prepare(tmp_path)
    found = modes(tmp_path)
    assert (found[tmp_path.name], found["notes"], found["artifacts"]) == (0o755, 0o644, 0o700)


def test_secrets_are_handed_down_in_memory(tmp_path: Path) -> None:
    variables = {"PPO_DATABASE_URL": "postgresql+psycopg://u:s3cret@db/ppo", "PPO_PORT": "9"}
    put_away(variables)
    assert set(variables) == {"PPO_DATABASE_URL_FILE", "PPO_PORT"}
    assert Path(variables["PPO_DATABASE_URL_FILE"]).read_text().endswith("s3cret@db/ppo")
    assert Path(variables["PPO_DATABASE_URL_FILE"]).read_text().endswith("s3cret@db/ppo")
    os.close(int(variables["PPO_DATABASE_URL_FILE"].rpartition("/")[2]))


def as_nobody(program: Callable[[], object]) -> int:
    """A process without rights, which the kernel would let be looked into by others of its user."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            kernel._prctl(kernel.PR_SET_DUMPABLE, 1)
        os._exit(0 if program() else 1)
    finally:
        os._exit(2)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells variables by /proc")
@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_process_that_hides_its_secrets_is_not_looked_into(is_hidden: bool) -> None:
    def hold() -> None:
        if is_hidden:
            kernel._prctl(kernel.PR_SET_DUMPABLE, 0)
        time.sleep(60)

    def can_read(pid: int) -> bool:
        try:
            Path(f"/proc/{pid}/environ").read_bytes()
            return bool(os.listdir(f"/proc/{pid}/fd"))
        except PermissionError:
            return False

    holder = as_nobody(hold)
    try:
        time.sleep(0.3)
        reader = as_nobody(lambda: can_read(holder))
        assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == (1 if is_hidden else 0)
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
