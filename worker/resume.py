"""Finding what an attempt goes on from."""

import logging
import shutil
from pathlib import Path

from ppo_jobs.artifacts import ArtifactStore
from ppo_jobs.errors import ArtifactCorrupt, ArtifactNotFound
from ppo_jobs.repository.checkpoints import StoredCheckpoint
from ppo_jobs.repository.claims import Claim
from ppo_jobs.states import JobKind

logger = logging.getLogger(__name__)


class CheckpointUnreadable(Exception):
    """The checkpoint of another job that this one was to start from, or to evaluate, is gone or damaged."""


def fetch_newest(claim: Claim, artifacts: ArtifactStore, directory: Path) -> StoredCheckpoint | None:
    """Brings the newest checkpoint whose files are whole to `directory`; damaged ones are passed over.

    Without one the job starts anew, which leads to the same bits; but not to those of its parent's checkpoint.

    Raises:
        CheckpointUnreadable: it was to start from another job's, or to evaluate it, and cannot.
    """
    for stored in claim.checkpoints:
        try:
            artifacts.fetch(stored.key, directory)
        except (ArtifactCorrupt, ArtifactNotFound) as error:
            logger.warning("job %s: checkpoint %s is passed over: %s", claim.job_id, stored.id, error)
            shutil.rmtree(directory, ignore_errors=True)
        else:
            return stored
    foreign = [stored.id for stored in claim.checkpoints if not stored.key.startswith(f"{claim.job_id}/")]
    if foreign:
        raise CheckpointUnreadable(f"checkpoint {foreign[-1]}, from which the job was to start, cannot be read")
    if claim.kind is JobKind.EVALUATE:
        raise CheckpointUnreadable("the checkpoint that was to be evaluated is gone")
    return None
