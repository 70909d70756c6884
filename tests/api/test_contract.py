"""What the API answers is what its OpenAPI document says, whatever it is sent."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.api import deployment


@pytest.fixture
def configuration(database, tenant, artifacts, tmp_path) -> Path:
    """Names of things that exist, so that the generated requests reach beyond a 404."""
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    deployment.append(database, job_id, range(1, 30))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "policy.json").write_text('{"format": 1}')
    checkpoint_id = deployment.store(database, artifacts, job_id, tmp_path / "files")
    deployment.finish(database, job_id)
    evaluation_id = deployment.evaluate(database, tenant, checkpoint_id)
    path = tmp_path / "schemathesis.toml"
    names = {
        "path.job_id": job_id,
        "path.checkpoint_id": checkpoint_id,
        "path.evaluation_id": evaluation_id,
        "path.name": "policy.json",
    }
    path.write_text("[parameters]\n" + "".join(f'"{name}" = "{value}"\n' for name, value in names.items()))
    return path


@pytest.mark.timeout(300)
def test_generated_requests_find_no_failure_and_no_undocumented_answer(configuration, server_url, api_key):
    """schemathesis with every check but one: that a spec has the right shape does not mean that it can be trained."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
        *("run", f"{server_url}/openapi.json", "--header", f"Authorization: Bearer {api_key}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--seed", "1", "--no-color"),
        *("--exclude-checks", "positive_data_acceptance", "--exclude-method", "DELETE", "--request-timeout", "20"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=configuration.parent)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "Tested: 29" in run.stdout
