"""Trying a job again."""

from sqlalchemy.orm import Session

from api.errors import ProblemError
from ppo_engine.spec import InvalidSpec, SpecFault, TrainingSpec
from ppo_jobs.errors import CheckpointNotFound
from ppo_jobs.repository import checkpoints, jobs
from ppo_jobs.schemas import Job, Parent, RetryRequest
from ppo_jobs.states import TERMINAL, JobStatus


def retry(session: Session, tenant_id: str, job_id: str, wish: RetryRequest) -> Job:
    """A new job like one that has ended, the seed included.

    Raises:
        JobNotFound, CheckpointNotFound: there is none, or it is another tenant's.
        InvalidSpec: the wish contradicts itself.
        ProblemError: 409, the job has not ended, or has nothing left to do.
    """
    if wish.from_start and wish.checkpoint_id is not None:
        raise InvalidSpec([SpecFault("/checkpoint_id", "cannot be combined with from_start")])
    old = jobs.get_job(session, tenant_id, job_id)
    if old.status not in TERMINAL:
        raise ProblemError(
            409, "job_not_terminal", f"job {job_id} is {old.status}; it can be retried once it has ended"
        )
    if old.status == JobStatus.SUCCEEDED and wish.checkpoint_id is None and not wish.from_start:
        detail = f"job {job_id} has succeeded; retry it with from_start, or from one of its checkpoints"
        raise ProblemError(409, "job_succeeded", detail)
    return jobs.insert_job(
        session,
        tenant_id,
        spec=old.spec,
        resolved=TrainingSpec.model_validate(old.resolved_spec),
        wants=old.wants,
        parent=Parent(job_id=job_id, checkpoint_id=_origin(session, tenant_id, old, wish), mode="retry"),
    )


def _origin(session: Session, tenant_id: str, old: Job, wish: RetryRequest) -> str | None:
    if wish.from_start:
        return None
    if wish.checkpoint_id is None:
        return old.latest_checkpoint_id
    checkpoint = checkpoints.get_checkpoint(session, tenant_id, wish.checkpoint_id)
    if checkpoint.job_id != old.id:
        raise CheckpointNotFound(wish.checkpoint_id)
    return checkpoint.id
