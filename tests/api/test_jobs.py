"""Asking for jobs, looking at them, stopping them, trying them again."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import insert

from api.dependencies import MAX_SEQ
from ppo_engine.presets import presets
from ppo_jobs import tables
from tests.api import deployment


def test_a_job_needs_only_an_environment(client):
    answer = client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}})
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["spec"] == {"env": {"id": "CartPole-v1"}}
    assert job["status"] == "queued" and job["last_seq"] == 1
    tuned = presets()["CartPole-v1"].spec["ppo"]
    assert job["resolved_spec"]["ppo"] == job["resolved_spec"]["ppo"] | tuned
    assert client.get(answer.headers["location"]).json() == job


def test_a_submission_reads_its_own_entry_of_the_catalogue_only(client, database):
    with database.write() as session:
        session.execute(insert(tables.environments).values(id="Odd-v0", description={}, worker_id="w", updated_at=1.0))
    assert client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}).status_code == 201
    answer = client.post("/v1/jobs", json={"env": {"id": "CartPol-v1"}})
    assert "did you mean CartPole-v1?" in answer.json()["detail"]


def test_a_missing_seed_is_drawn_and_recorded(client):
    seeds = {
        client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}).json()["resolved_spec"]["seed"] for _ in range(4)
    }
    assert len(seeds) == 4 and None not in seeds


def test_what_the_user_sets_wins_over_the_preset(client):
    spec = {"env": {"id": "CartPole-v1"}, "ppo": {"gamma": 0.5}, "device": "cuda"}
    job = client.post("/v1/jobs", json=spec).json()
    assert job["resolved_spec"]["ppo"]["gamma"] == 0.5
    tuned = presets()["CartPole-v1"].spec["ppo"]
    assert job["resolved_spec"]["ppo"] == job["resolved_spec"]["ppo"] | tuned | {"gamma": 0.5}
    assert job["wants"] == "cuda"
    assert job["queue"]["reason"] == "no worker offers cuda"


def test_fifty_parallel_posts_under_one_key_make_one_job(client):
    def post(_: int):
        return client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}, headers={"Idempotency-Key": "one"})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(post, range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 49
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_another_body_under_a_used_key_is_refused(client):
    headers = {"Idempotency-Key": "one"}
    client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}, headers=headers)
    answer = client.post("/v1/jobs", json={"env": {"id": "Pendulum-v1"}}, headers=headers)
    assert answer.status_code == 422 and answer.json()["code"] == "idempotency_mismatch"


def test_the_same_values_written_otherwise_are_the_same_request(client):
    headers = {"Idempotency-Key": "one", "Content-Type": "application/json"}
    first = client.post("/v1/jobs", content='{"env":{"id":"CartPole-v1"},"seed":1}', headers=headers)
    second = client.post("/v1/jobs", content='{ "seed": 1, "env": {"id": "CartPole-v1"} }', headers=headers)
    assert first.json()["id"] == second.json()["id"]


def test_a_refused_request_does_not_use_up_its_key(client):
    headers = {"Idempotency-Key": "one"}
    assert client.post("/v1/jobs", json={"env": {"id": "Nothing-v0"}}, headers=headers).status_code == 422
    assert client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}, headers=headers).status_code == 201


def test_keys_of_two_tenants_are_apart(client, stranger):
    headers = {"Idempotency-Key": "one"}
    mine = client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}, headers=headers).json()
    theirs = stranger.post("/v1/jobs", json={"env": {"id": "Pendulum-v1"}}, headers=headers).json()
    assert mine["id"] != theirs["id"]
    assert [job["id"] for job in stranger.get("/v1/jobs").json()["data"]] == [theirs["id"]]


def test_pages_hold_every_job_once_newest_first(client):
    ids = [client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}, "name": str(n)}).json()["id"] for n in range(5)]
    found, after = [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        found += [job["id"] for job in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert found == ids[::-1]
    assert [job["id"] for job in client.get("/v1/jobs", params={"name": "3"}).json()["data"]] == [ids[3]]
    assert client.get("/v1/jobs", params={"status": "running"}).json()["data"] == []


def test_a_job_is_renamed_and_tagged_and_keeps_what_is_not_sent(client, tenant, database):
    path = f"/v1/jobs/{deployment.insert(database, tenant)}"
    assert client.patch(path, json={"name": "a", "metadata": {"k": "v"}}).json()["metadata"] == {"k": "v"}
    renamed = client.patch(path, json={"name": None}).json()
    assert renamed["name"] is None and renamed["metadata"] == {"k": "v"}


def test_a_queued_job_is_cancelled_at_once_and_again_without_effect(client, tenant, database):
    path = f"/v1/jobs/{deployment.insert(database, tenant)}"
    first, second = client.post(f"{path}/cancel"), client.post(f"{path}/cancel")
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["status"] == second.json()["status"] == "cancelled"
    assert first.json()["status_reason"]["code"] == "user_request"


def test_a_running_job_is_asked_to_stop_and_an_ended_one_refuses(client, tenant, database):
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    asked = client.post(f"/v1/jobs/{job_id}/cancel")
    assert asked.status_code == 202 and asked.json()["cancel_requested"] and asked.json()["status"] == "running"
    deployment.finish(database, job_id)
    refused = client.post(f"/v1/jobs/{job_id}/cancel")
    assert refused.status_code == 409 and refused.json()["code"] == "invalid_transition"


def test_only_an_ended_job_is_deleted(client, tenant, database):
    path = f"/v1/jobs/{deployment.insert(database, tenant)}"
    assert client.delete(path).json()["code"] == "job_not_terminal"
    client.post(f"{path}/cancel")
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_a_retry_goes_on_from_the_newest_checkpoint(client, tenant, database, artifacts, tmp_path):
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    (tmp_path / "files").mkdir()
    checkpoint_id = deployment.store(database, artifacts, job_id, tmp_path / "files")
    assert client.post(f"/v1/jobs/{job_id}/retry").json()["code"] == "job_not_terminal"
    deployment.finish(database, job_id, status=deployment.JobStatus.FAILED)
    retried = client.post(f"/v1/jobs/{job_id}/retry", headers={"Idempotency-Key": "again"})
    assert retried.status_code == 201
    assert retried.json()["parent"] == {"job_id": job_id, "checkpoint_id": checkpoint_id, "mode": "retry"}
    assert retried.json()["resolved_spec"] == client.get(f"/v1/jobs/{job_id}").json()["resolved_spec"]
    again = client.post(f"/v1/jobs/{job_id}/retry", headers={"Idempotency-Key": "again"})
    assert again.content == retried.content and again.headers["idempotency-replayed"] == "true"
    fresh = client.post(f"/v1/jobs/{job_id}/retry", json={"from_start": True})
    assert fresh.json()["parent"]["checkpoint_id"] is None


def test_a_retry_takes_no_checkpoint_of_another_job(client, tenant, database, artifacts, tmp_path):
    (tmp_path / "files").mkdir()
    first = deployment.insert(database, tenant)
    deployment.start(database)
    checkpoint_id = deployment.store(database, artifacts, first, tmp_path / "files")
    second = deployment.insert(database, tenant)
    client.post(f"/v1/jobs/{second}/cancel")
    answer = client.post(f"/v1/jobs/{second}/retry", json={"checkpoint_id": checkpoint_id})
    assert answer.status_code == 404 and answer.json()["code"] == "checkpoint_not_found"


def test_a_job_that_succeeded_is_not_retried_into_nothing(client, tenant, database):
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    deployment.finish(database, job_id)
    assert client.post(f"/v1/jobs/{job_id}/retry").json()["code"] == "job_succeeded"
    assert client.post(f"/v1/jobs/{job_id}/retry", json={"from_start": True}).status_code == 201


def test_a_long_poll_answers_when_the_ledger_grows(client, tenant, database):
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, f"/v1/jobs/{job_id}", params={"wait": 30, "after": 2}, timeout=40)
        deployment.append(database, job_id, [1])
        assert waiting.result().json()["last_seq"] == 3


def test_a_long_poll_does_not_wait_for_what_is_known_to_be_there(client, tenant, database):
    job_id = deployment.insert(database, tenant)
    assert client.get(f"/v1/jobs/{job_id}", params={"wait": 60, "after": 0}).json()["last_seq"] == 1
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.get(f"/v1/jobs/{job_id}", params={"wait": 60, "after": MAX_SEQ}).json()["status"] == "cancelled"


def test_a_long_poll_ends_when_its_time_is_up(client, tenant, database):
    job_id = deployment.insert(database, tenant)
    assert client.get(f"/v1/jobs/{job_id}", params={"wait": 0.3}).json()["last_seq"] == 1
