"""What an attempt starts from: the work as it was resolved, a checkpoint that was fetched, what the ledger knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

from ppo_engine.spec import EvaluationPlan, TrainingSpec
from ppo_jobs.repository.checkpoints import StoredCheckpoint
from ppo_jobs.repository.claims import Claim
from ppo_jobs.states import EventType, JobKind
from worker.batches import Comparison, Known
from worker.protocol import Assignment, Episodes
from worker.runs import RunDirectory

Work: TypeAlias = TrainingSpec | EvaluationPlan


def work_of(claim: Claim) -> Work:
    """What the job is to do. Raises pydantic.ValidationError."""
    if claim.kind is JobKind.EVALUATE:
        return EvaluationPlan.model_validate(claim.resolved_spec)
    return TrainingSpec.model_validate(claim.resolved_spec)


@dataclass(frozen=True, slots=True)
class Origin:
    """Training goes on from a checkpoint; an evaluation of one, behind the blocks that were played before."""

    work: Work
    checkpoint: StoredCheckpoint | None
    known: Known
    """What the ledger has beyond `known_after`."""
    plugin: str | None = None
    """The one that registers the environment, by the catalogue."""

    @property
    def resumed_from(self) -> StoredCheckpoint | None:
        return None if isinstance(self.work, EvaluationPlan) else self.checkpoint

    @property
    def timesteps(self) -> int:
        """Done before, so not counted again."""
        if isinstance(self.work, EvaluationPlan):
            return sum(length for block in self._played() for length in block.lengths)
        return self.checkpoint.timesteps if self.checkpoint else 0

    def comparison(self) -> Comparison:
        if isinstance(self.work, EvaluationPlan):
            return Comparison({}, len(self._played()))
        return Comparison(self.known, iteration_after(self.work, self.checkpoint))

    def assignment(self, run: RunDirectory) -> Assignment:
        return Assignment(
            job_id=run.job_id,
            attempt=run.attempt,
            spec=self.work,
            run_directory=str(run.path),
            resume_from=str(run.resume) if self.checkpoint else None,
            plugin=self.plugin,
            played=self._played() if isinstance(self.work, EvaluationPlan) else (),
        )

    def _played(self) -> tuple[Episodes, ...]:
        """The blocks of episodes from the first on, without a gap."""
        blocks: list[Episodes] = []
        while (told := self.known.get((EventType.EVALUATION, len(blocks) + 1))) is not None:
            blocks.append(_episodes(told))
        return tuple(blocks)


def iteration_after(work: Work, checkpoint: StoredCheckpoint | None) -> int:
    """The iteration that training goes on from."""
    return 0 if isinstance(work, EvaluationPlan) or checkpoint is None else checkpoint.iteration


def known_after(work: Work, checkpoint: StoredCheckpoint | None) -> int:
    """Behind which the ledger is read: a checkpoint that was taken within an evaluation is followed by what its own
    iteration came to."""
    return max(0, iteration_after(work, checkpoint) - 1)


def _episodes(told: Mapping[str, JsonValue]) -> Episodes:
    return Episodes.model_validate({name: told[name] for name in Episodes.model_fields if name in told})
