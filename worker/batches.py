"""Turns journal records into what is still missing in the ledger.

A resumed attempt trains iterations again that the ledger may already have. They are compared, all but `time/*`, and
written only where they are new; a difference is told by a `rewind` event, after which everything counts as new.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ppo_jobs.repository.claims import Entry
from ppo_jobs.states import EventType
from worker.protocol import (
    CheckpointRecord,
    DiagnosisRecord,
    EndRecord,
    EpisodesRecord,
    EvaluationRecord,
    MetricsRecord,
    PlayingRecord,
    Record,
    ResultRecord,
    RuntimeRecord,
    WaitingRecord,
)

Known = Mapping[tuple[EventType, int], Mapping[str, JsonValue]]


@dataclass(slots=True)
class Batch:
    """What one transaction writes; at most one checkpoint, which comes last."""

    entries: list[Entry] = field(default_factory=list)
    waiting: WaitingRecord | None = None
    runtime: RuntimeRecord | None = None
    checkpoint: CheckpointRecord | None = None
    result: ResultRecord | None = None
    end: EndRecord | None = None
    blocks: int = 0
    """Of episodes, among the entries."""
    iteration: int | None = None
    timesteps: int | None = None
    """The newest iteration told of, whether or not the ledger had it."""
    playing: PlayingRecord | None = None
    """How far an evaluation is; counted as used once its block is done."""
    offset: int | None = None
    """Of the journal, behind the last record."""


class Comparison:
    """What the ledger had beyond the checkpoint that an attempt goes on from, and whether it still holds."""

    def __init__(self, known: Known, resumed_iteration: int) -> None:
        self._known = known
        self.newest_known = max((iteration for _, iteration in known), default=0)
        """The ledger's newest iteration that still holds; what is told of earlier ones is a repetition."""
        self._last_agreed = resumed_iteration

    def batch(self, records: Iterable[tuple[Record, int]]) -> Batch:
        """The records up to the first checkpoint or end, with what need not be written left out."""
        batch = Batch()
        for record, batch.offset in records:
            match record:
                case WaitingRecord():
                    batch.waiting = record
                case RuntimeRecord():
                    batch.runtime = record
                    if record.resume == "approximate":
                        batch.entries.append(self._rewind(record.resume_reason or "the resume is approximate"))
                case MetricsRecord() | EvaluationRecord() | DiagnosisRecord():
                    batch.entries.extend(self._new_entries(record))
                    batch.iteration, batch.timesteps = record.iteration, record.timesteps
                case CheckpointRecord():
                    batch.checkpoint = record
                    batch.iteration, batch.timesteps = record.iteration, record.timesteps
                    break
                case EpisodesRecord():
                    batch.blocks += 1
                    data = record.model_dump(mode="json", exclude={"type"})
                    batch.entries.append(Entry(EventType.EVALUATION, record.iteration, data))
                    batch.iteration, batch.timesteps = record.iteration, record.timesteps
                    batch.playing = None
                case PlayingRecord():
                    batch.playing = record
                case ResultRecord():
                    batch.result = record
                case EndRecord():
                    batch.end = record
                    break
        return batch

    def _new_entries(self, record: MetricsRecord | EvaluationRecord | DiagnosisRecord) -> list[Entry]:
        kind = EventType(record.type)
        entry = Entry(kind, record.iteration, record.model_dump(mode="json", exclude={"type"}))
        known = self._known.get((kind, record.iteration))
        if known is None:
            return [entry]
        if _timeless(known) == _timeless(entry.data):
            self._last_agreed = record.iteration
            return []
        return [self._rewind(f"{kind} of iteration {record.iteration} came out differently"), entry]

    def _rewind(self, reason: str) -> Entry:
        self._known, self.newest_known = {}, 0
        return Entry(EventType.REWIND, None, {"to_iteration": self._last_agreed, "reason": reason})


def _timeless(data: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The event without what depends on the clock."""
    metrics = data.get("metrics")
    if not isinstance(metrics, dict):
        return dict(data)
    return {**data, "metrics": {key: value for key, value in metrics.items() if not key.startswith("time/")}}
