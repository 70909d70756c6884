"""What the end of a child means for its job."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ppo_engine.spec import EvaluationPlan, TrainingSpec
from ppo_jobs.states import AttemptOutcome, ReasonCode
from worker.process import Exit
from worker.protocol import STORAGE_FULL_STATUS, EndRecord

HANG_MARK = "Timeout ("
"""faulthandler writes it when it ends a process whose environment holds the interpreter."""

TAIL_CHARACTERS = 2000


class Intent(StrEnum):
    """Why the supervisor asked the child to end."""

    CANCEL = "cancel"
    DRAIN = "drain"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the attempt ended, and the reason that its job shows."""

    outcome: AttemptOutcome
    code: str
    message: str
    retryable: bool = False


CANCELLED = Verdict(AttemptOutcome.CANCELLED, ReasonCode.USER_REQUEST, "cancelled by its user")
DRAINED = Verdict(AttemptOutcome.RELEASED, ReasonCode.WORKER_DRAINING, "its worker shut down", retryable=True)


def without_room(message: str) -> Verdict:
    """A full disk is the machine's trouble and not the job's fault: it is tried again, and the attempt not counted."""
    return Verdict(AttemptOutcome.RELEASED, ReasonCode.STORAGE_FULL, message, retryable=True)


def judge(
    end: EndRecord | None,
    exit_: Exit,
    *,
    spec: TrainingSpec | EvaluationPlan,
    intent: Intent | None,
    killed_for_memory: bool,
    log_tail: str,
) -> Verdict:
    """The verdict on an attempt whose child is gone.

    Args:
        end: what the child said last, if it got to say it.
        exit_: how its process ended.
        intent: why it was asked to end, if it was.
        killed_for_memory: whether the kernel killed a process for want of memory meanwhile.
        log_tail: the last lines of its log.
    """
    if end is None:
        return _unspoken(exit_, spec, intent, killed_for_memory, log_tail)
    if end.outcome == "succeeded":
        return _succeeded(end, spec)
    if intent is Intent.CANCEL:
        return CANCELLED
    if end.outcome == "failed":
        if end.code == ReasonCode.STORAGE_FULL:
            return without_room(end.message)
        return Verdict(AttemptOutcome.FAILED, end.code, end.message, end.retryable)
    if intent is Intent.BUDGET:
        return _over_budget(spec)
    return CANCELLED if end.outcome == "cancelled" else DRAINED


def _unspoken(
    exit_: Exit,
    spec: TrainingSpec | EvaluationPlan,
    intent: Intent | None,
    killed_for_memory: bool,
    log_tail: str,
) -> Verdict:
    if intent is Intent.CANCEL:
        return CANCELLED
    if intent is Intent.DRAIN:
        return DRAINED
    if intent is Intent.BUDGET:
        return _over_budget(spec)
    if exit_.returncode == STORAGE_FULL_STATUS:
        return without_room("no space is left for its journal")
    tail = log_tail[-TAIL_CHARACTERS:]
    if HANG_MARK in log_tail and exit_.returncode == 1:
        return Verdict(
            AttemptOutcome.FAILED,
            "env_timeout",
            f"{spec.env.id} held the interpreter for longer than step_timeout_seconds ="
            f" {spec.env.step_timeout_seconds:g}\n{tail}",
        )
    if killed_for_memory and exit_.signal_name == "SIGKILL":
        return Verdict(AttemptOutcome.LOST, ReasonCode.OUT_OF_MEMORY, "killed for want of memory", True)
    how = f"was killed by {exit_.signal_name}" if exit_.signal_name else f"exited with status {exit_.returncode}"
    return Verdict(AttemptOutcome.LOST, ReasonCode.CHILD_DIED, f"the training process {how}\n{tail}".strip(), True)


def _succeeded(end: EndRecord, spec: TrainingSpec | EvaluationPlan) -> Verdict:
    """Success needs its proof: all timesteps, or the stop rule of the spec; all episodes of an evaluation."""
    if isinstance(spec, EvaluationPlan):
        if end.episodes == spec.n_episodes:
            return Verdict(AttemptOutcome.SUCCEEDED, end.code, end.message)
        short = f"the evaluation ended after {end.episodes} of {spec.n_episodes} episodes"
        return Verdict(AttemptOutcome.FAILED, ReasonCode.INTERNAL, short)
    reached = end.timesteps is not None and end.timesteps >= spec.ppo.total_timesteps
    stopped = end.code == ReasonCode.STOP_RULE and spec.stop.threshold is not None
    if reached or stopped:
        return Verdict(AttemptOutcome.SUCCEEDED, end.code, end.message)
    short = f"training ended after {end.timesteps} of {spec.ppo.total_timesteps} timesteps"
    return Verdict(AttemptOutcome.FAILED, ReasonCode.INTERNAL, short)


def _over_budget(spec: TrainingSpec | EvaluationPlan) -> Verdict:
    verb = "played" if isinstance(spec, EvaluationPlan) else "trained"
    limit = f"{verb} for budget.max_wall_seconds = {spec.budget.max_wall_seconds:g}"
    return Verdict(AttemptOutcome.FAILED, ReasonCode.BUDGET_EXHAUSTED, limit)


def memory_kills() -> int:
    """How many processes the kernel has killed for memory in this control group; 0 where that is not told."""
    try:
        groups = Path("/proc/self/cgroup").read_text()
        group = next(line[3:] for line in groups.splitlines() if line.startswith("0::"))
        for place in (group.lstrip("/"), ""):
            events = Path("/sys/fs/cgroup", place, "memory.events")
            if events.exists():
                counts = dict(line.split() for line in events.read_text().splitlines())
                return int(counts.get("oom_kill", 0))
    except (OSError, StopIteration, ValueError):
        pass
    return 0
