"""What tests of the API put into the database: a worker with its catalogue, and jobs as that worker leaves them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppo_engine.spec import EnvironmentDescription, EnvSpec, EvaluationPlan, TrainingSpec
from ppo_jobs.artifacts import LocalArtifacts, artifact_key
from ppo_jobs.database import Database
from ppo_jobs.ids import new_checkpoint_id
from ppo_jobs.repository import checkpoints, claims, evaluations, jobs, workers
from ppo_jobs.schemas import CheckpointFile
from ppo_jobs.states import AttemptOutcome, EventType, JobStatus, QueueName

CATALOGUE = [
    EnvironmentDescription(
        id="CartPole-v1",
        origin="gymnasium 1.4.0",
        supported=True,
        observation_space={"type": "Box", "shape": [4], "dtype": "float32", "low": [None] * 4, "high": [None] * 4},
        action_space={"type": "Discrete", "n": 2, "start": 0},
        observation_size=4,
        action_size=2,
        max_episode_steps=500,
        kwargs_schema={
            "type": "object",
            "properties": {"sutton_barto_reward": {"type": "boolean"}},
            "additionalProperties": False,
        },
    ),
    EnvironmentDescription(
        id="Pendulum-v1",
        origin="gymnasium 1.4.0",
        supported=True,
        observation_space={"type": "Box", "shape": [3], "dtype": "float32", "low": [-1, -1, -8], "high": [1, 1, 8]},
        action_space={"type": "Box", "shape": [1], "dtype": "float32", "low": [-2], "high": [2]},
        observation_size=3,
        action_size=1,
        max_episode_steps=200,
        kwargs_schema={"type": "object", "properties": {"g": {"type": "number"}}, "additionalProperties": False},
    ),
    EnvironmentDescription(
        id="Sequences-v0",
        origin="somewhere 1.0",
        supported=False,
        unsupported_reason="observations of type Sequence are not supported",
        observation_space={"type": "Sequence"},
        action_space={"type": "Discrete", "n": 2, "start": 0},
        observation_size=0,
        action_size=2,
        kwargs_schema={"type": "object", "additionalProperties": False},
    ),
]


def register(database: Database) -> None:
    with database.write() as session:
        workers.register_worker(
            session,
            id="worker-1",
            host="localhost",
            queue=QueueName.CPU,
            slots=2,
            devices=[],
            versions={"torch": "2.13.0"},
            environments=CATALOGUE,
        )


def insert(
    database: Database,
    tenant: str,
    *,
    total_timesteps: int = 1000,
    seed: int = 1,
    max_episode_steps: int | None = None,
) -> str:
    """A queued job's id."""
    env = {"id": "CartPole-v1", "max_episode_steps": max_episode_steps}
    spec = {"env": env, "ppo": {"total_timesteps": total_timesteps}, "seed": seed}
    with database.write() as session:
        resolved = TrainingSpec.model_validate(spec)
        return jobs.insert_job(session, tenant, spec=spec, resolved=resolved, wants=QueueName.CPU).id


def trained(
    database: Database,
    tenant: str,
    *,
    seed: int,
    score: float | None,
    group: str | None = None,
    status: JobStatus = JobStatus.SUCCEEDED,
    metric: str = "rollout/ep_rew_mean",
    **settings: dict[str, Any],
) -> str:
    """The id of a job that has ended with this score, by its last metrics.

    Args:
        settings: parts of its spec.
    """
    spec = {"env": {"id": "CartPole-v1"}, "group": group, "seed": seed} | settings
    with database.write() as session:
        resolved = TrainingSpec.model_validate(spec)
        job_id = jobs.insert_job(session, tenant, spec=spec, resolved=resolved, wants=QueueName.CPU).id
    assert start(database) == job_id
    if score is not None:
        data = {"iteration": 1, "timesteps": 10, "metrics": {metric: score}}
        with database.write() as session:
            claims.append(session, job_id, 1, [claims.Entry(EventType.METRICS, 1, data)])
    finish(database, job_id, status)
    return job_id


def evaluate(
    database: Database,
    tenant: str,
    checkpoint_id: str,
    *,
    n_episodes: int = 4,
    deterministic: bool = True,
    max_episode_steps: int | None = None,
) -> str:
    """A queued evaluation's id."""
    plan = EvaluationPlan(
        env=EnvSpec(id="CartPole-v1", max_episode_steps=max_episode_steps),
        n_episodes=n_episodes,
        seed=1,
        deterministic=deterministic,
        block_episodes=2,
    )
    with database.write() as session:
        return evaluations.insert_evaluation(session, tenant, checkpoint_id, spec={}, plan=plan, wants=QueueName.CPU).id


def play(database: Database, evaluation_id: str, returns: Sequence[float]) -> None:
    """As a worker leaves the first queued evaluation: its episodes, by twos, and what they came to."""
    with database.write() as session:
        claim = claims.claim(session, worker_id="worker-1", queue=QueueName.CPU, lease_seconds=60)
        assert claim is not None and claim.job_id == evaluation_id
        for block in range(0, len(returns), 2):
            number = block // 2 + 1
            data = {"iteration": number, "timesteps": 10 * number, "metrics": {}}
            data |= {"returns": list(returns[block : block + 2]), "lengths": [5, 5]}
            claims.append(session, *claim.key, [claims.Entry(EventType.EVALUATION, number, data)])
        mean = sum(returns) / len(returns)
        result = {"n_episodes": len(returns), "mean_reward": mean, "ci95": [mean - 1, mean + 1], "iqm_reward": mean}
        result |= {"iqm_ci95": None, "std_reward": 0.0, "mean_length": 5.0}
        evaluations.set_result(session, *claim.key, result)
        reason = claims.Reason("episodes_played", "played them all")
        status, outcome = JobStatus.SUCCEEDED, AttemptOutcome.SUCCEEDED
        claims.finish(session, *claim.key, status=status, outcome=outcome, reason=reason)


def start(database: Database) -> str:
    """The id of the first queued job, which runs from now on."""
    with database.write() as session:
        claim = claims.claim(session, worker_id="worker-1", queue=QueueName.CPU, lease_seconds=60)
    assert claim is not None
    return claim.job_id


def metrics(iteration: int) -> claims.Entry:
    """At iteration i: 10·i timesteps, a mean return of 2·i, and speed only at even ones."""
    values = {"rollout/ep_rew_mean": 2.0 * iteration}
    if iteration % 2 == 0:
        values["time/fps"] = 1000.0
    data = {"iteration": iteration, "timesteps": 10 * iteration, "metrics": values}
    return claims.Entry(EventType.METRICS, iteration, data)


def append(database: Database, job_id: str, iterations: Sequence[int]) -> int:
    """Adds metrics to the running job; its newest seq."""
    with database.write() as session:
        return claims.append(session, job_id, 1, [metrics(iteration) for iteration in iterations])


def append_large(database: Database, job_id: str, iterations: Sequence[int], *, kilobytes: int) -> None:
    """As `append`, each event having so many kilobytes."""
    entries = [metrics(iteration) for iteration in iterations]
    for entry in entries:
        entry.data["padding"] = "x" * (kilobytes * 1000)
    with database.write() as session:
        claims.append(session, job_id, 1, entries)


def finish(database: Database, job_id: str, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    with database.write() as session:
        reason = claims.Reason("target_reached", "1000 of 1000 timesteps")
        outcome = AttemptOutcome(status.value)
        claims.finish(session, job_id, 1, status=status, outcome=outcome, reason=reason)


def store(database: Database, artifacts: LocalArtifacts, job_id: str, directory: Path, *, final: bool = False) -> str:
    """Stores the files of `directory` as a checkpoint of the running job; its id."""
    (directory / "manifest.json").write_text("{}")
    files = [
        CheckpointFile(
            name=path.name,
            size_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            media_type="application/json" if path.suffix == ".json" else "application/octet-stream",
        )
        for path in sorted(directory.iterdir())
        if path.name != "manifest.json"
    ]
    checkpoint_id = new_checkpoint_id()
    key = artifact_key(job_id, 1, checkpoint_id)
    artifacts.put(key, directory)
    with database.write() as session:
        checkpoints.insert_checkpoint(
            session,
            job_id,
            1,
            id=checkpoint_id,
            key=key,
            iteration=5,
            timesteps=50,
            metrics={"rollout/ep_rew_mean": 10.0},
            resume="exact",
            files=files,
            fingerprint={},
            final=final,
        )
    return checkpoint_id
