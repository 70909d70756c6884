"""What each process really loads, third parties included; the import contracts cover the source."""

import subprocess
import sys

import pytest

SERVER_ONLY = ("alembic", "celery", "fastapi", "kombu", "sqlalchemy", "starlette", "uvicorn")
TRAINING_ONLY = ("gymnasium", "mujoco", "numpy", "onnx", "torch")


def loaded_by(module: str, candidates: tuple[str, ...]) -> str:
    code = f"import sys, {module}; print(*[name for name in {candidates!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "module", ["api.app", "ppo_server.__main__", "worker.supervisor", "worker.sweeper", "worker.tasks"]
)
def test_only_the_training_child_loads_torch(module):
    assert loaded_by(module, ("torch", "gymnasium")) == ""


@pytest.mark.parametrize("module", ["ppo_client", "ppo_client.cli"])
def test_the_client_loads_neither_server_nor_engine(module):
    assert loaded_by(module, (*SERVER_ONLY, *TRAINING_ONLY)) == ""


def test_the_training_child_loads_no_database_and_no_broker():
    assert loaded_by("worker.child", (*SERVER_ONLY, "psycopg", "redis")) == ""
    code = "import sys, worker.child; print(*sorted(name for name in sys.modules if name.startswith('ppo_jobs.')))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == ["ppo_jobs.kernel", "ppo_jobs.pulse"], "signals and a file's time, and nothing of jobs"


def test_the_spec_and_the_presets_load_no_training_library():
    assert loaded_by("ppo_engine.spec, ppo_engine.presets", TRAINING_ONLY) == ""
