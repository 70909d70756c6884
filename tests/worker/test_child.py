"""The child by itself: a pipe, a journal, and nobody to look after it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

from ppo_engine.presets import resolve
from ppo_engine.spec import InvalidSpec, SpecFault, TrainingSpec
from tests.environments import PLUGIN_PATH
from tests.worker.workplace import eventually, spec_of
from worker.child import failure
from worker.journal import JournalReader
from worker.process import child_variables, visible_device
from worker.protocol import Assignment, CheckpointRecord, Command, EndRecord, MetricsRecord, Record

FOREVER = 100_000
VARIABLES = child_variables({**os.environ, "PYTHONPATH": str(PLUGIN_PATH)}, threads=1, gpu=None)


def assignment(run: Path, spec: dict) -> str:
    (run / "checkpoints").mkdir(parents=True)
    resolved = resolve(TrainingSpec.model_validate(spec))
    return (
        Assignment(job_id="job_x", attempt=1, spec=resolved, run_directory=str(run), resume_from=None).model_dump_json()
        + "\n"
    )


@contextmanager
def started(
    run: Path, spec: dict, *, prepare: Callable[[], None] | None = None, output: int | IO[str] = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    line = assignment(run, spec)
    with subprocess.Popen(
        [sys.executable, "-m", "worker.child"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=VARIABLES,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    ) as child:
        assert child.stdin is not None
        child.stdin.write(line)
        child.stdin.flush()
        yield child


def journal(run: Path) -> list[Record]:
    return [record for record, _ in JournalReader(run / "journal").read()]


def has_trained(run: Path) -> Callable[[], bool]:
    return lambda: any(isinstance(record, MetricsRecord) for record in journal(run))


def test_a_child_without_an_assignment_ends() -> None:
    ran = subprocess.run([sys.executable, "-m", "worker.child"], stdin=subprocess.DEVNULL, env=VARIABLES, check=False)
    assert ran.returncode == 0


def test_a_child_whose_pipe_closes_dies_with_all_that_it_started(tmp_path: Path) -> None:
    spec = spec_of("test/Slow-v0", iterations=FOREVER, env={"vectorization": "process"})
    with started(tmp_path, spec) as child:
        eventually(has_trained(tmp_path))
        below = psutil.Process(child.pid).children(recursive=True)
        assert below  # Its environments' processes.
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(20) == -signal.SIGKILL
    assert psutil.wait_procs(below, timeout=10)[1] == []


def test_a_command_is_obeyed_with_a_checkpoint(tmp_path: Path) -> None:
    with started(tmp_path, spec_of("test/Slow-v0", iterations=FOREVER)) as child:
        eventually(has_trained(tmp_path))
        assert child.stdin is not None
        child.stdin.write(Command(command="drain").model_dump_json() + "\n")
        child.stdin.flush()
        assert child.wait(20) == 0
    *_, checkpoint, end = journal(tmp_path)
    assert isinstance(checkpoint, CheckpointRecord)
    assert isinstance(end, EndRecord)
    assert end.outcome == "drained"
    assert (tmp_path / "checkpoints" / checkpoint.directory / "manifest.json").exists()


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))


def test_a_full_disk_ends_the_child_with_a_reason_and_without_half_a_checkpoint(tmp_path: Path) -> None:
    spec = spec_of(iterations=1, policy={"hidden_sizes": [64, 64]})
    with started(tmp_path, spec, prepare=limit_files) as child:
        assert child.wait(60) == 0
    end = journal(tmp_path)[-1]
    assert isinstance(end, EndRecord)
    assert (end.outcome, end.code, end.retryable) == ("failed", "storage_full", True)
    assert not list((tmp_path / "checkpoints").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"id": "test/RaisesInStep-v0"}, "env_error"),
        ({"id": "test/HangsInStep-v0", "step_timeout_seconds": 0.5}, "env_timeout"),
    ],
)
def test_a_log_that_takes_no_more_keeps_no_reason_back(tmp_path: Path, env: dict, reason: str) -> None:
    with (
        Path("/dev/full").open("w") as full,
        started(tmp_path, spec_of(env.pop("id"), env=env), output=full) as child,
    ):
        child.wait(60)
    end = journal(tmp_path)[-1]
    assert isinstance(end, EndRecord)
    assert (end.outcome, end.code) == ("failed", reason)


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "worker.child"], stdin=subprocess.PIPE, start_new_session=True)
child.stdin.write(sys.argv[1].encode())
child.stdin.flush()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is needed")
def test_a_child_dies_with_its_supervisor_even_while_an_environment_holds_the_interpreter(tmp_path: Path) -> None:
    spec = spec_of("test/HangsWithLock-v0", env={"step_timeout_seconds": 3600.0})
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, assignment(tmp_path, spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=VARIABLES,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    eventually(lambda: (tmp_path / "journal").exists() and journal(tmp_path))
    time.sleep(0.5)  # By now the environment is in the step that never ends.
    with parent:
        parent.kill()
    child.wait(20)


@pytest.mark.parametrize(
    ("visible", "gpu", "device"),
    [(None, None, ""), (None, 1, "1"), ("4,6", 1, "6"), ("4,6", None, ""), ("", 0, "0"), ("4", 1, "")],
)
def test_a_child_sees_its_own_gpu_or_none(visible: str | None, gpu: int | None, device: str) -> None:
    assert visible_device(visible, gpu) == device


IMPORTED = """
import json, sys
import worker.tasks, worker.supervisor, worker.sweeper, ppo_server.up
print(json.dumps(sorted(name for name in ("torch", "gymnasium", "numpy", "fastapi") if name in sys.modules)))
"""


def test_neither_celery_nor_supervisors_nor_sweepers_import_torch(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        env={**os.environ, "PPO_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == []


def test_a_spec_that_the_machine_cannot_train_fails_with_a_code_of_its_own() -> None:
    end = failure(InvalidSpec([SpecFault("/env/vectorization", "EnvPool is missing")]))
    assert (end.code, end.message) == ("invalid_spec", "/env/vectorization: EnvPool is missing")
