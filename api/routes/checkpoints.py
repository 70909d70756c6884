"""Checkpoints of jobs."""

from fastapi import APIRouter

from api.answers import problems
from api.bodies import JSONRoute
from api.dependencies import AfterCheckpoint, CheckpointId, JobId, Limit, PrincipalOf, ServicesOf
from ppo_jobs.repository import checkpoints
from ppo_jobs.schemas import Checkpoint, CheckpointPatch, Page

router = APIRouter(prefix="/v1", tags=["checkpoints"], route_class=JSONRoute)


@router.get("/jobs/{job_id}/checkpoints", responses=problems(404))
def list_checkpoints(
    job_id: JobId, services: ServicesOf, principal: PrincipalOf, limit: Limit = 20, after: AfterCheckpoint = None
) -> Page[Checkpoint]:
    """A job's checkpoints that are kept, newest first."""
    with services.database.read() as session:
        return checkpoints.list_checkpoints(session, principal.tenant_id, job_id, limit, after)


@router.get("/checkpoints/{checkpoint_id}", responses=problems(404))
def read_checkpoint(checkpoint_id: CheckpointId, services: ServicesOf, principal: PrincipalOf) -> Checkpoint:
    """One checkpoint, with its files and their checksums."""
    with services.database.read() as session:
        return checkpoints.get_checkpoint(session, principal.tenant_id, checkpoint_id)


@router.patch("/checkpoints/{checkpoint_id}", responses=problems(404, body=True))
def change_checkpoint(
    checkpoint_id: CheckpointId, patch: CheckpointPatch, services: ServicesOf, principal: PrincipalOf
) -> Checkpoint:
    """Pin a checkpoint, so that retention never deletes it, or unpin it."""
    with services.database.write() as session:
        return checkpoints.pin(session, principal.tenant_id, checkpoint_id, pinned=patch.pinned)


@router.delete("/checkpoints/{checkpoint_id}", status_code=204, responses=problems(404, 409))
def delete_checkpoint(checkpoint_id: CheckpointId, services: ServicesOf, principal: PrincipalOf) -> None:
    """Delete a checkpoint, unless its job would go on from it."""
    with services.database.write() as session:
        checkpoints.delete_checkpoint(session, principal.tenant_id, checkpoint_id)
