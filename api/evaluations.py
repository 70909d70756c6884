"""From a wish to an evaluation that waits for its worker."""

import secrets
from collections.abc import Iterator

from sqlalchemy.orm import Session

from ppo_engine.spec import EvaluationPlan, InvalidSpec, SpecFault, TrainingSpec
from ppo_jobs.repository import checkpoints, evaluations, jobs
from ppo_jobs.repository.queue_places import capacities
from ppo_jobs.schemas import Evaluation, EvaluationRequest, Job
from ppo_jobs.states import QueueName

SEATS = 8
"""Copies of the environment that are stepped side by side: part of what a seed means."""


def accept(session: Session, tenant_id: str, wish: EvaluationRequest) -> Evaluation:
    """The evaluation, at the end of its queue.

    Raises:
        InvalidSpec: the wish names no checkpoint, or two.
        JobNotFound, CheckpointNotFound: there is none, or it is another tenant's.
        CheckpointMissing: the job has no such checkpoint.
    """
    if faults := list(_faults(wish)):
        raise InvalidSpec(faults)
    checkpoint_id = wish.checkpoint_id
    if checkpoint_id is None:
        which = wish.checkpoint or "final"
        checkpoint_id = evaluations.checkpoint_of_job(session, tenant_id, wish.job_id or "", which=which)
    trained_by = checkpoints.get_checkpoint(session, tenant_id, checkpoint_id).job_id
    job = jobs.get_job(session, tenant_id, trained_by)
    return evaluations.insert_evaluation(
        session,
        tenant_id,
        checkpoint_id,
        spec=wish.model_dump(mode="json", exclude_unset=True),
        plan=_plan(wish, job),
        wants=_queue(session, job),
    )


def _faults(wish: EvaluationRequest) -> Iterator[SpecFault]:
    if wish.checkpoint_id is None and wish.job_id is None:
        yield SpecFault("/checkpoint_id", "a checkpoint_id, or a job_id, is required")
    if wish.checkpoint_id is not None and wish.job_id is not None:
        yield SpecFault("/job_id", "cannot be combined with checkpoint_id, which says it all")
    if wish.checkpoint is not None and wish.job_id is None:
        yield SpecFault("/checkpoint", "says which checkpoint of job_id is meant, and there is no job_id")


def _plan(wish: EvaluationRequest, job: Job) -> EvaluationPlan:
    """The environment is that of training, but for what the wish says."""
    env = TrainingSpec.model_validate(job.resolved_spec).env
    changes: dict[str, object] = {"n_envs": SEATS, "vectorization": "auto"}
    if wish.max_episode_steps is not None:
        changes["max_episode_steps"] = wish.max_episode_steps
    # As for training: no reader of JSON rounds it.
    seed = secrets.randbits(32) if wish.seed is None else wish.seed
    return EvaluationPlan(
        env=env.model_copy(update=changes),
        n_episodes=wish.n_episodes,
        seed=seed,
        deterministic=wish.deterministic,
        budget=wish.budget,
    )


def _queue(session: Session, job: Job) -> QueueName:
    """Episodes are played on the CPU; where no living worker offers that, whoever trained can play them, too."""
    return QueueName.CPU if QueueName.CPU in capacities(session) else job.wants
