"""Laws of evaluations over HTTP."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ppo_jobs.schemas import Evaluation
from ppo_jobs.states import JobStatus
from tests.api import deployment


@pytest.fixture
def checkpoint(database, tenant, artifacts, tmp_path) -> dict[str, str]:
    """A job that succeeded, and its final checkpoint."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "policy.json").write_text("{}")
    job_id = deployment.insert(database, tenant)
    deployment.start(database)
    checkpoint_id = deployment.store(database, artifacts, job_id, tmp_path / "files", final=True)
    deployment.finish(database, job_id)
    return {"job_id": job_id, "checkpoint_id": checkpoint_id}


def test_an_evaluation_of_a_jobs_final_checkpoint_waits_in_the_queue_with_its_seed_drawn(client, checkpoint):
    answer = client.post("/v1/evaluations", json={"job_id": checkpoint["job_id"]})
    assert answer.status_code == 201
    evaluation = answer.json()
    assert set(evaluation) == set(Evaluation.model_fields)
    assert answer.headers["location"] == f"/v1/evaluations/{evaluation['id']}"
    assert evaluation["id"].startswith("eval_")
    assert (evaluation["status"], evaluation["wants"], evaluation["queue"]["position"]) == ("queued", "cpu", 1)
    assert {key: evaluation[key] for key in checkpoint} == checkpoint
    plan = evaluation["resolved_spec"]
    assert (plan["n_episodes"], plan["deterministic"], plan["env"]["id"]) == (100, True, "CartPole-v1")
    assert isinstance(plan["seed"], int)
    other = client.post("/v1/evaluations", json={"job_id": checkpoint["job_id"]}).json()
    assert other["resolved_spec"]["seed"] != plan["seed"]
    assert client.get(answer.headers["location"]).json() == evaluation


def test_what_is_asked_for_is_planned(client, checkpoint):
    wish = {
        "checkpoint_id": checkpoint["checkpoint_id"],
        "n_episodes": 7,
        "seed": 12,
        "deterministic": False,
        "max_episode_steps": 33,
    }
    evaluation = client.post("/v1/evaluations", json=wish).json()
    plan = evaluation["resolved_spec"]
    assert (plan["n_episodes"], plan["seed"], plan["deterministic"]) == (7, 12, False)
    assert plan["env"]["max_episode_steps"] == 33
    assert evaluation["spec"] == wish


def test_a_result_has_every_episode_and_a_list_has_none(client, checkpoint, database, tenant):
    id = deployment.evaluate(database, tenant, checkpoint["checkpoint_id"])
    deployment.play(database, id, [1.0, 2.0, 3.0, 6.0])
    evaluation = client.get(f"/v1/evaluations/{id}").json()
    assert evaluation["status"] == "succeeded"
    assert evaluation["status_reason"]["code"] == "episodes_played"
    assert (evaluation["result"]["returns"], evaluation["result"]["lengths"]) == ([1.0, 2.0, 3.0, 6.0], [5, 5, 5, 5])
    assert (evaluation["result"]["mean_reward"], evaluation["result"]["ci95"]) == (3.0, [2.0, 4.0])
    assert evaluation["progress"] == {"episodes": 4, "n_episodes": 4, "fraction": 1.0, "timesteps": 20}
    (listed,) = client.get("/v1/evaluations").json()["data"]
    assert listed["result"]["mean_reward"] == 3.0
    assert (listed["result"]["returns"], listed["result"]["lengths"]) == (None, None)


def test_a_long_poll_is_answered_when_the_evaluation_ends(client, checkpoint, database, tenant):
    id = deployment.evaluate(database, tenant, checkpoint["checkpoint_id"])
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, f"/v1/evaluations/{id}", params={"wait": 30, "after": 4}, timeout=60)
        deployment.play(database, id, [1.0, 2.0, 3.0, 6.0])
        assert waiting.result().json()["status"] == "succeeded"


def test_a_queued_evaluation_is_cancelled_at_once_and_once_only(client, checkpoint, database, tenant):
    id = deployment.evaluate(database, tenant, checkpoint["checkpoint_id"])
    first, second = (client.post(f"/v1/evaluations/{id}/cancel") for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["status"] == second.json()["status"] == "cancelled"
    done = deployment.evaluate(database, tenant, checkpoint["checkpoint_id"])
    deployment.play(database, done, [1.0, 2.0, 3.0, 6.0])
    refused = client.post(f"/v1/evaluations/{done}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_transition")


def test_one_idempotency_key_makes_one_evaluation(client, checkpoint):
    def send(wish):
        return client.post("/v1/evaluations", json=wish, headers={"Idempotency-Key": "one"})

    wish = {"job_id": checkpoint["job_id"]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, [wish] * 4))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.status_code for answer in answers} == {201}
    assert send({**wish, "n_episodes": 3}).json()["code"] == "idempotency_mismatch"
    assert len(client.get("/v1/evaluations").json()["data"]) == 1


def test_evaluations_are_listed_newest_first_by_pages_and_filters(client, checkpoint, database, tenant):
    ids = [deployment.evaluate(database, tenant, checkpoint["checkpoint_id"]) for _ in range(3)][::-1]
    page = client.get("/v1/evaluations", params={"limit": 2}).json()
    assert ([found["id"] for found in page["data"]], page["has_more"]) == (ids[:2], True)
    rest = client.get("/v1/evaluations", params={"limit": 2, "after": page["last_id"]}).json()
    assert ([found["id"] for found in rest["data"]], rest["has_more"]) == (ids[2:], False)
    client.post(f"/v1/evaluations/{ids[0]}/cancel")
    for filters, expected in (
        ({"status": "cancelled"}, ids[:1]),
        ({"status": "queued"}, ids[1:]),
        (checkpoint, ids),
        ({"job_id": "job_" + "0" * 26}, []),
        ({"checkpoint_id": "ckpt_" + "0" * 26}, []),
    ):
        found = client.get("/v1/evaluations", params=filters).json()["data"]
        assert [evaluation["id"] for evaluation in found] == expected, filters


def test_evaluations_are_no_jobs_and_wait_in_the_same_line(client, checkpoint, database, tenant):
    id = deployment.evaluate(database, tenant, checkpoint["checkpoint_id"])
    assert [job["id"] for job in client.get("/v1/jobs").json()["data"]] == [checkpoint["job_id"]]
    assert client.get(f"/v1/jobs/{id}").status_code == 404
    assert client.delete(f"/v1/jobs/{id}").status_code == 404
    behind = client.post("/v1/jobs", json={"env": {"id": "CartPole-v1"}}).json()
    assert behind["queue"]["position"] == 2
    assert client.post("/v1/evaluations", json={"job_id": id}).json()["code"] == "job_not_found"


@pytest.mark.parametrize(
    ("wish", "pointers"),
    [
        ({}, ["/checkpoint_id"]),
        ({"checkpoint_id": "ckpt_x", "job_id": "job_x"}, ["/job_id"]),
        ({"checkpoint_id": "ckpt_x", "checkpoint": "best"}, ["/checkpoint"]),
        ({"job_id": "job_x", "n_episodes": 0}, ["/n_episodes"]),
        ({"job_id": "job_x", "n_episodes": 10_001}, ["/n_episodes"]),
        ({"job_id": "job_x", "n_episodes": "7"}, ["/n_episodes"]),
        ({"job_id": "job_x", "deterministic": 1}, ["/deterministic"]),
        ({"job_id": "job_x", "seed": -1}, ["/seed"]),
        ({"job_id": "job_x", "seed": 2**63}, ["/seed"]),
        ({"job_id": "job_x", "checkpoint": "newest"}, ["/checkpoint"]),
        ({"job_id": "job_x", "env": {"id": "CartPole-v1"}, "tenant_id": "t"}, ["/env", "/tenant_id"]),
        ({"job_id": "job_x", "max_episode_steps": 0}, ["/max_episode_steps"]),
        ({"job_id": "job_\x00"}, ["/job_id"]),
    ],
)
def test_nonsense_is_refused_with_a_pointer_to_it(client, wish, pointers):
    answer = client.post("/v1/evaluations", json=wish)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == pointers


def test_what_is_not_there_cannot_be_evaluated(client, stranger, checkpoint, database, tenant):
    for wish, status, code in (
        ({"job_id": "job_" + "0" * 26}, 404, "job_not_found"),
        ({"checkpoint_id": "ckpt_" + "0" * 26}, 404, "checkpoint_not_found"),
        ({"checkpoint_id": "nonsense"}, 404, "checkpoint_not_found"),
    ):
        answer = client.post("/v1/evaluations", json=wish)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    for wish in ({"job_id": checkpoint["job_id"]}, {"checkpoint_id": checkpoint["checkpoint_id"]}):
        assert stranger.post("/v1/evaluations", json=wish).status_code == 404
    assert stranger.get("/v1/evaluations", params=checkpoint).json()["data"] == []
    unfinished = deployment.insert(database, tenant)
    for which in ("final", "best", "latest"):
        answer = client.post("/v1/evaluations", json={"job_id": unfinished, "checkpoint": which})
        assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_missing")
        assert which in answer.json()["detail"] and "queued" in answer.json()["detail"]


def test_a_checkpoint_that_was_deleted_cannot_be_evaluated_and_one_that_is_evaluated_cannot_be_deleted(
    client, checkpoint, database, tenant
):
    id = deployment.evaluate(database, tenant, checkpoint["checkpoint_id"])
    for path in (f"/v1/checkpoints/{checkpoint['checkpoint_id']}", f"/v1/jobs/{checkpoint['job_id']}"):
        answer = client.delete(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_in_use")
    client.post(f"/v1/evaluations/{id}/cancel")
    assert client.delete(f"/v1/checkpoints/{checkpoint['checkpoint_id']}").status_code == 204
    answer = client.post("/v1/evaluations", json={"checkpoint_id": checkpoint["checkpoint_id"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "checkpoint_not_found")
    answer = client.post("/v1/evaluations", json={"job_id": checkpoint["job_id"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_missing")
    assert client.get(f"/v1/evaluations/{id}").json()["status"] == JobStatus.CANCELLED
    assert client.delete(f"/v1/jobs/{checkpoint['job_id']}").status_code == 204
    assert client.get(f"/v1/evaluations/{id}").json()["checkpoint_id"] == checkpoint["checkpoint_id"]


def test_where_no_cpu_worker_lives_the_worker_that_trained_plays(client, checkpoint, database, tenant):
    from sqlalchemy import update

    from ppo_jobs import tables

    with database.write() as session:
        session.execute(update(tables.workers).values(queue="cuda"))
    assert client.post("/v1/evaluations", json={"job_id": checkpoint["job_id"]}).json()["wants"] == "cpu"
    with database.write() as session:
        session.execute(update(tables.jobs).where(tables.jobs.c.kind == "train").values(queue="cuda"))
    assert client.post("/v1/evaluations", json={"job_id": checkpoint["job_id"]}).json()["wants"] == "cuda"
