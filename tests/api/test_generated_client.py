"""A client that openapi-python-client makes of the document: without a warning, and it does what ours does."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from ppo_engine.presets import presets
from tests.api import deployment


@pytest.fixture
def generated(client, tmp_path, monkeypatch):
    """Imports a module of the generated package."""
    (tmp_path / "openapi.json").write_bytes(client.get("/openapi.json").content)
    (tmp_path / "settings.json").write_text('{"post_hooks": []}')
    program = Path(sys.executable).with_name("openapi-python-client")
    command = [
        *(str(program), "generate", "--path", "openapi.json", "--config", "settings.json", "--meta", "none"),
        *("--output-path", "generated_ppo_client", "--fail-on-warning"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0 and "warning" not in run.stdout.lower(), run.stdout + run.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(f"generated_ppo_client.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "generated_ppo_client"]:
        del sys.modules[name]


@pytest.fixture
def service(generated, server_url, api_key):
    options = {"raise_on_unexpected_status": True, "timeout": 60, "httpx_args": {"trust_env": False}}
    with generated("client").AuthenticatedClient(server_url, api_key, **options) as service:
        yield service


def test_a_generated_client_submits_watches_evaluates_and_downloads(generated, service, database, artifacts, tmp_path):
    models = generated("models")
    spec = models.TrainingSpec(models.EnvSpec("CartPole-v1"), ppo=models.PPOSpec(total_timesteps=20_000))
    job = generated("api.jobs.submit_job").sync(client=service, body=spec)
    assert job.spec.to_dict() == {"env": {"id": "CartPole-v1"}, "ppo": {"total_timesteps": 20_000}}
    tuned = presets()["CartPole-v1"].spec["ppo"] | {"total_timesteps": 20_000}
    resolved = job.resolved_spec.to_dict()["ppo"]
    assert resolved == resolved | tuned, "nothing that was not set beats the preset"

    assert deployment.start(database) == job.id
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "policy.json").write_text('{"format": 1}')
    checkpoint_id = deployment.store(database, artifacts, job.id, tmp_path / "files", final=True)
    deployment.finish(database, job.id)
    events = generated("api.ledger.stream_events").sync(job.id, client=service)
    assert events.startswith("retry: ") and "event: end\n" in events
    for found in (
        generated("api.files.read_file").sync(checkpoint_id, "policy.json", client=service),
        generated("api.files.read_archive").sync(checkpoint_id, client=service),
    ):
        assert b'{"format": 1}' in found.payload.read()
    table = generated("api.metrics.read_metrics").sync(job.id, client=service)
    assert table.columns.to_dict() == {"iteration": [], "timesteps": []}

    wish = models.EvaluationRequest(job_id=job.id, n_episodes=4)
    evaluation = generated("api.evaluations.submit_evaluation").sync(client=service, body=wish)
    assert isinstance(evaluation, models.Evaluation)
    assert evaluation.spec.to_dict() == {"job_id": job.id, "n_episodes": 4, "deterministic": True}
    assert evaluation.resolved_spec.to_dict()["n_episodes"] == 4
    [listed] = generated("api.evaluations.list_evaluations").sync(client=service).data
    assert listed.id == evaluation.id
    problem = generated("api.jobs.read_job").sync("job_" + "0" * 26, client=service)
    assert (problem.status, problem.code) == (404, "job_not_found")


def test_what_a_preset_may_fill_in_has_no_default_in_the_document(client):
    """Nor is anything but `env.id` required, which is how generators tell that a field may be left out."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    pending, seen = ["TrainingSpec"], {}
    while pending:
        name = pending.pop()
        text = str(schemas[name])
        seen[name] = schemas[name].get("required", [])
        assert "'default':" not in text, name
        pending += [other for other in schemas if f"'#/components/schemas/{other}'" in text and other not in seen]
    assert len(seen) >= 12
    assert {name: required for name, required in seen.items() if required} == {
        "TrainingSpec": ["env"],
        "EnvSpec": ["id"],
        "LinearSchedule": ["initial"],
        "KLAdaptiveRate": ["kind"],
    }
    assert "128" not in schemas["PPOSpec"]["properties"]["n_steps"]["description"]
    assert "256" in schemas["PPOSpec"]["properties"]["n_steps"]["description"]
