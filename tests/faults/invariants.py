"""What must hold of every job, whatever was killed. Each function gives the faults that it found, in words."""

from collections.abc import Sequence
from itertools import pairwise

from ppo_jobs.schemas import Attempt, LedgerEvent
from ppo_jobs.states import EventType, JobStatus


def ledger_faults(events: Sequence[LedgerEvent], *, iterations: int) -> list[str]:
    """Numbers without a gap, every iteration once and in order, one success, no rewind, no stale writer."""
    faults = []
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        faults.append("the ledger's numbers have a gap")
    told = [event.data["iteration"] for event in events if event.type is EventType.METRICS]
    if told != list(range(1, iterations + 1)):
        twice = len(told) - len(set(told))
        faults.append(f"metrics tell of {len(set(told))} of {iterations} iterations, of {twice} twice")
    if rewinds := [event.data for event in events if event.type is EventType.REWIND]:
        faults.append(f"{len(rewinds)} rewinds, the first: {rewinds[0]}")
    successes = [event for event in events if event.data.get("status") == JobStatus.SUCCEEDED]
    if len(successes) != 1:
        faults.append(f"succeeded {len(successes)} times")
    if any(later.attempt < earlier.attempt for earlier, later in pairwise(events)):
        faults.append("an attempt wrote after the next one had begun")
    return faults


def attempt_faults(attempts: Sequence[Attempt]) -> list[str]:
    """Numbered without a gap, one after the other, each ended."""
    faults = []
    if [attempt.number for attempt in attempts] != list(range(1, len(attempts) + 1)):
        faults.append("attempts are missing")
    if any(attempt.finished_at is None or attempt.outcome is None for attempt in attempts):
        faults.append("an attempt never ended")
    for earlier, later in pairwise(attempts):
        if earlier.finished_at is not None and later.started_at < earlier.finished_at:
            faults.append(f"attempts {earlier.number} and {later.number} overlap")
    return faults


def stream_faults(ledger: Sequence[LedgerEvent], streamed: Sequence[int]) -> list[str]:
    """The streams, cut and taken up again, brought every event once."""
    if list(streamed) == [event.seq for event in ledger]:
        return []
    missing = {event.seq for event in ledger} - set(streamed)
    return [f"the stream brought {len(streamed)} of {len(ledger)} events, {len(missing)} of them missing"]
