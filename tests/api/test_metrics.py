"""Curves, events, logs and the catalogue as they are read."""

import csv
import io
import json

import pytest

from api.negotiation import preferred
from ppo_engine.presets import family_presets, presets
from ppo_engine.spec import EnvironmentDescription
from ppo_jobs.repository import logs, workers
from ppo_jobs.states import QueueName
from tests.api import deployment


@pytest.fixture
def job_id(database, tenant) -> str:
    """A running job with metrics of the iterations 1 to 4: seq 3 to 6."""
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    deployment.append(database, job_id, [1, 2, 3, 4])
    return job_id


def test_metrics_are_columns_with_one_row_per_iteration(client, job_id):
    table = client.get(f"/v1/jobs/{job_id}/metrics").json()
    assert table["columns"] == {
        "iteration": [1, 2, 3, 4],
        "timesteps": [10, 20, 30, 40],
        "rollout/ep_rew_mean": [2.0, 4.0, 6.0, 8.0],
        "time/fps": [None, 1000.0, None, 1000.0],
    }
    assert table["last_seq"] == 6


def test_metrics_can_be_narrowed_to_columns_and_to_what_is_new(client, job_id):
    parameters = {"keys": "rollout/ep_rew_mean", "after": 4}
    assert client.get(f"/v1/jobs/{job_id}/metrics", params=parameters).json()["columns"] == {
        "iteration": [3, 4],
        "timesteps": [30, 40],
        "rollout/ep_rew_mean": [6.0, 8.0],
    }


@pytest.mark.parametrize("keys", ["iteration,rollout/ep_rew_mean", "timesteps,rollout/ep_rew_mean,iteration,iteration"])
def test_a_column_that_is_there_anyway_may_be_asked_for(client, job_id, keys):
    """As JSON, CSV and NDJSON, and thinned out by the curve that was asked for, not by a column of nothing."""
    path = f"/v1/jobs/{job_id}/metrics"
    for more in ({}, {"max_points": 3}):
        expected = client.get(path, params={"keys": "rollout/ep_rew_mean", **more}).json()["columns"]
        assert expected["iteration"] and None not in expected["iteration"]
        assert client.get(path, params={"keys": keys, **more}).json()["columns"] == expected
        rows = [dict(zip(expected, row, strict=True)) for row in zip(*expected.values(), strict=True)]
        lines = client.get(path, params={"keys": keys, **more}, headers={"Accept": "application/x-ndjson"}).text
        assert [json.loads(line) for line in lines.splitlines()] == rows
        cells = client.get(path, params={"keys": keys, **more}, headers={"Accept": "text/csv"}).text
        assert list(csv.DictReader(io.StringIO(cells))) == [{k: str(v) for k, v in row.items()} for row in rows]
    assert list(client.get(path, params={"keys": "iteration"}).json()["columns"]) == ["iteration", "timesteps"]


def test_metrics_can_be_thinned_out_to_first_and_last_and_the_sharpest(client, database, job_id):
    deployment.append(database, job_id, range(5, 500))
    columns = client.get(f"/v1/jobs/{job_id}/metrics", params={"max_points": 50}).json()["columns"]
    assert len(columns["iteration"]) == 50
    assert (columns["iteration"][0], columns["iteration"][-1]) == (1, 499)


def test_metrics_as_csv_have_empty_cells_where_there_is_no_value(client, job_id):
    answer = client.get(f"/v1/jobs/{job_id}/metrics", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv") and answer.headers["vary"] == "Accept"
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["iteration", "timesteps", "rollout/ep_rew_mean", "time/fps"]
    assert rows[1:3] == [["1", "10", "2.0", ""], ["2", "20", "4.0", "1000.0"]]


def test_metrics_as_ndjson_have_one_object_per_line(client, job_id):
    answer = client.get(f"/v1/jobs/{job_id}/metrics", headers={"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert rows[0] == {"iteration": 1, "timesteps": 10, "rollout/ep_rew_mean": 2.0, "time/fps": None}
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("application/json;q=0.5, text/csv", "text/csv"),
        ("text/csv;q=0.4, */*;q=0.5", "application/json"),
        ("*/*, application/json;q=0", "text/csv"),
        ("text/html", "application/json"),
        ("text/csv;q=x", "application/json"),
    ],
)
def test_the_preferred_representation_is_the_one_of_the_highest_quality(accept, chosen):
    assert preferred(accept, ("application/json", "text/csv")) == chosen


def test_events_come_in_pages_without_a_gap(client, job_id):
    first = client.get(f"/v1/jobs/{job_id}/events", params={"limit": 4}).json()
    second = client.get(f"/v1/jobs/{job_id}/events", params={"limit": 4, "after": first["last_id"]}).json()
    assert [event["seq"] for event in first["data"] + second["data"]] == [1, 2, 3, 4, 5, 6]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert first["data"][0]["data"] == {"status": "queued", "attempt": 0}


def test_logs_are_those_of_the_latest_attempt_unless_told_otherwise(client, database, job_id):
    with database.write() as session:
        logs.append_log(session, job_id, 1, "hello\n")
    assert client.get(f"/v1/jobs/{job_id}/logs").json() == client.get(f"/v1/jobs/{job_id}/logs?attempt=1").json()
    assert client.get(f"/v1/jobs/{job_id}/logs").json()["text"] == "hello\n"
    assert client.get(f"/v1/jobs/{job_id}/logs?attempt=2").json()["code"] == "attempt_not_found"


def test_attempts_are_listed_and_a_job_that_has_none_lists_none(client, database, tenant, job_id):
    (attempt,) = client.get(f"/v1/jobs/{job_id}/attempts").json()["data"]
    assert (attempt["number"], attempt["worker_id"], attempt["outcome"]) == (1, "worker-1", None)
    waiting = deployment.insert(database, tenant)
    empty = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    assert client.get(f"/v1/jobs/{waiting}/attempts").json() == empty


def test_the_catalogue_tells_what_can_be_trained_and_which_presets_there_are(client):
    environments = {one["id"]: one for one in client.get("/v1/environments").json()["data"]}
    assert set(environments) == {"CartPole-v1", "Pendulum-v1", "Sequences-v0"}
    assert environments["CartPole-v1"]["preset"] and not environments["Sequences-v0"]["supported"]
    told = {one["env_id"]: one for one in client.get("/v1/presets").json()["data"]}
    assert {env_id: one["spec"] for env_id, one in told.items()} == {
        preset.env_id: preset.spec for preset in (*presets().values(), *family_presets())
    }
    assert told["CartPole-v1"]["source"]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Sequences-v0"])
def test_one_environment_is_read_by_its_id(client, env_id):
    listed = {one["id"]: one for one in client.get("/v1/environments").json()["data"]}
    answer = client.get(f"/v1/environments/{env_id}")
    assert answer.status_code == 200 and answer.json() == listed[env_id]
    assert answer.json()["resume"] == "exact" and answer.json()["kwargs_schema"]["type"] == "object"


@pytest.mark.parametrize("path", ["two/Segments-v0", "two%2FSegments-v0"])
def test_an_id_of_two_segments_is_read_too(client, database, path):
    listed = client.get("/v1/environments/CartPole-v1").json()
    described = EnvironmentDescription(**{**listed, "id": "two/Segments-v0"})
    with database.write() as session:
        workers.register_worker(
            session, id="w", host="h", queue=QueueName.CPU, slots=1, devices=[], versions={}, environments=[described]
        )
    assert client.get(f"/v1/environments/{path}").json() == {**listed, "id": "two/Segments-v0", "preset": False}


@pytest.mark.parametrize("env_id", ["Nope-v0", "CartPole", "ALE/Pong-v5", "cartpole-v1", "CartPole-v1/", "a/b/c"])
def test_an_environment_that_nobody_knows_is_a_problem(client, env_id):
    answer = client.get(f"/v1/environments/{env_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "environment_not_found")
    assert answer.headers["content-type"] == "application/problem+json"


def test_workers_are_listed_with_their_free_slots(client, job_id):
    (worker,) = client.get("/v1/workers").json()["data"]
    assert (worker["id"], worker["slots"], worker["free_slots"], worker["alive"]) == ("worker-1", 2, 1, True)


def test_health_tells_the_version_and_readiness_each_check(client):
    assert client.get("/healthz").json()["status"] == "ok"
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"database": "ok", "migrations": "ok", "catalogue": "ok", "broker": "ok"}
