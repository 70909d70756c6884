"""Commits what a child journals to the ledger: in order, each record once, fenced by the attempt.

A checkpoint's files are stored before its row, and its row commits with or after every metric up to its iteration.
"""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, JsonValue
from sqlalchemy.orm import Session

from ppo_jobs.artifacts import ArtifactStore, artifact_key
from ppo_jobs.database import Database
from ppo_jobs.errors import DatabaseUnavailable
from ppo_jobs.ids import new_checkpoint_id
from ppo_jobs.repository import checkpoints, claims, evaluations, logs
from ppo_jobs.schemas import CheckpointFile
from worker.batches import Batch, Comparison
from worker.journal import JournalReader
from worker.log import LogReader
from worker.protocol import CheckpointRecord, EndRecord
from worker.runs import RunDirectory

logger = logging.getLogger(__name__)


class Manifest(BaseModel):
    """What the ledger wants to know of a checkpoint's `manifest.json`."""

    fingerprint: dict[str, JsonValue]
    files: list[CheckpointFile]


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint whose files are in the store and whose row is still to come."""

    id: str
    key: str
    manifest: Manifest
    record: CheckpointRecord


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch on its way; it is tried again as it is until the database has said what became of it."""

    batch: Batch
    stored: Stored | None
    log: str
    log_offset: int
    usage: claims.UsageDelta


class Ledger:
    """Follows one attempt's journal and log."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        claim: claims.Claim,
        run: RunDirectory,
        comparison: Comparison,
        *,
        resumed_from: checkpoints.StoredCheckpoint | None,
        usage: "UsageMeter",
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._claim = claim
        self._run = run
        self._comparison = comparison
        self._resumed_from = resumed_from
        self._usage = usage
        self._journal = JournalReader(run.journal)
        self._log = LogReader(run.log)
        self._last_seq = claim.last_seq
        self._pending: Pending | None = None
        self._is_in_doubt = False
        self.is_behind = False
        """More was journaled than the last batch took."""
        self.has_progress = False
        """It has committed how far training has come."""
        self.end: EndRecord | None = None
        """What the child said last, once it is committed."""

    def commit(self) -> bool:
        """Commit one batch, and tell whether there was one.

        Raises:
            LeaseLost: the attempt no longer owns the job; nothing was written.
            DatabaseUnavailable: try again later; the journal keeps everything until then.
            StorageFull: the checkpoint does not fit into the artifact store.
            JournalCorrupt: the journal cannot be read on.
        """
        pending = self._pending = self._pending or self._next()
        if pending is None:
            return False
        try:
            with self._database.write() as session:
                last_seq = self._write(session, pending)
        except DatabaseUnavailable:
            self._is_in_doubt = True
            raise
        # Not before the commit was answered: it is what tells, in doubt, whether it happened.
        self._last_seq = last_seq
        self._is_in_doubt = False
        self._pending = None
        self._advance(pending)
        return True

    def _next(self) -> Pending | None:
        records = self._journal.read() if self.end is None else []
        log, log_offset = self._log.read()
        if not records and not log:
            self.is_behind = False
            return None
        batch = self._comparison.batch(records)
        self.is_behind = bool(records) and batch.offset != records[-1][1]
        stored = self._store(batch.checkpoint) if batch.checkpoint else None
        return Pending(batch, stored, log, log_offset, self._usage.delta(batch.timesteps))

    def _store(self, record: CheckpointRecord) -> Stored:
        directory = self._run.checkpoints / record.directory
        manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
        id_ = new_checkpoint_id()
        key = artifact_key(self._claim.job_id, self._claim.attempt, id_)
        self._artifacts.put(key, directory)
        return Stored(id_, key, manifest, record)

    def _write(self, session: Session, pending: Pending) -> int:
        """The ledger's end after the batch, which is not written again if a commit without an answer did happen."""
        job_id, attempt = self._claim.key
        if self._is_in_doubt and (reached := claims.append(session, job_id, attempt, [])) > self._last_seq:
            return reached
        batch, stored = pending.batch, pending.stored
        if batch.waiting is not None:
            claims.explain(session, job_id, attempt, claims.Reason(batch.waiting.code, batch.waiting.message))
        if batch.runtime is not None:
            resumed_from = self._resumed_from.id if self._resumed_from else None
            claims.set_runtime(session, job_id, attempt, batch.runtime.runtime, resumed_from)
            if batch.runtime.settled_spec is not None:
                claims.settle_spec(session, job_id, attempt, batch.runtime.settled_spec)
        if pending.log:
            logs.append_log(session, job_id, attempt, pending.log)
        last_seq = claims.append(
            session, job_id, attempt, batch.entries, progress=self._progress(batch), usage=pending.usage
        )
        if batch.blocks:
            claims.bear_fruit(session, job_id, attempt, batch.blocks)
        if batch.result is not None:
            evaluations.set_result(session, job_id, attempt, batch.result.result)
        if stored is not None:
            checkpoints.insert_checkpoint(
                session,
                job_id,
                attempt,
                id=stored.id,
                key=stored.key,
                iteration=stored.record.iteration,
                timesteps=stored.record.timesteps,
                metrics=stored.record.metrics,
                evaluated=stored.record.evaluated,
                resume=stored.record.resume,
                files=stored.manifest.files,
                fingerprint=stored.manifest.fingerprint,
                final=stored.record.final,
            )
            last_seq += 1
        return last_seq

    def _progress(self, batch: Batch) -> claims.ProgressUpdate | None:
        """How far the job is; a repetition of what the ledger has does not set it back."""
        if batch.playing is not None:
            return claims.ProgressUpdate(batch.playing.timesteps, batch.playing.iteration)
        if batch.iteration is None or batch.timesteps is None or batch.iteration < self._comparison.newest_known:
            return None
        return claims.ProgressUpdate(batch.timesteps, batch.iteration)

    def _advance(self, pending: Pending) -> None:
        if pending.batch.offset is not None:
            self._journal.advance(pending.batch.offset)
        self._log.advance(pending.log_offset)
        self.has_progress = self.has_progress or pending.batch.iteration is not None
        self.end = pending.batch.end or self.end
        if pending.stored is not None:
            shutil.rmtree(self._run.checkpoints / pending.stored.record.directory, ignore_errors=True)
            self._retain()

    def _retain(self) -> None:
        """Let go of the checkpoints that retention does not keep: rows first, so that no row is without its files."""
        try:
            with self._database.write() as session:
                expired = checkpoints.expired_by_retention(session, self._claim.job_id)
                checkpoints.forget(session, [id_ for id_, _ in expired])
        except DatabaseUnavailable as error:
            logger.warning("job %s: retention waits: %s", self._claim.job_id, error)
            return
        for _, key in expired:
            with suppress(OSError):  # A sweeper will try again.
                self._artifacts.delete(key)


class UsageMeter:
    """What the attempt has used since it last said so."""

    def __init__(self, cpu_seconds: Callable[[], float], *, timesteps: int, has_gpu: bool) -> None:
        """`cpu_seconds` tells the child's processor time so far; `timesteps`, where training goes on from."""
        self._cpu_seconds = cpu_seconds
        self._has_gpu = has_gpu
        self._told_cpu, self._told_timesteps, self._told_at = 0.0, timesteps, time.monotonic()

    def delta(self, timesteps: int | None) -> claims.UsageDelta:
        cpu, now = max(self._cpu_seconds(), self._told_cpu), time.monotonic()
        steps = self._told_timesteps if timesteps is None else timesteps
        wall = now - self._told_at
        delta = claims.UsageDelta(
            cpu_seconds=cpu - self._told_cpu,
            gpu_seconds=wall if self._has_gpu else 0.0,
            env_steps=steps - self._told_timesteps,
            train_seconds=wall,
        )
        self._told_cpu, self._told_timesteps, self._told_at = cpu, steps, now
        return delta
