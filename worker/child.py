"""The process that trains or evaluates: an assignment on stdin, records in a journal, checkpoints beside it.

It knows no database and holds no secret. It ends when the job does, when it is told to, or with its supervisor.
"""

import errno
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal, NoReturn

from ppo_engine.envs.plugins import prefer_plugin
from ppo_engine.envs.watchdog import install_timeout_handler
from ppo_engine.errors import EngineError, EnvironmentFault, EnvironmentTimedOut
from ppo_engine.evaluate import Playing
from ppo_engine.fused.compile import missing, require, seconds_for
from ppo_engine.fused.parts import parts_of, parts_of_evaluation
from ppo_engine.spec import CheckpointSpec, EvaluationPlan, InvalidSpec, TrainingSpec, is_settled
from ppo_engine.trainer import Progress, Trainer
from ppo_jobs.kernel import die_with_parent
from ppo_jobs.pulse import Pulse
from worker.attention import Attention, Interrupted
from worker.episodes import play
from worker.journal import JournalWriter
from worker.lifeline import Lifeline, end_process_group
from worker.protocol import (
    PULSE,
    STORAGE_FULL_STATUS,
    Assignment,
    CheckpointRecord,
    DiagnosisRecord,
    EndRecord,
    EvaluationRecord,
    MetricsRecord,
    RuntimeRecord,
    WaitingRecord,
    interrupted,
)
from worker.vitality import Vitality

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SAY_SECONDS = 10.0
TRACEBACK_CHARACTERS = 2000
"""So much of a traceback's end goes into the job's `status_reason`; all of it is in the log."""


class CheckpointClock:
    """Says when the next checkpoint is due, by steps or by time, whichever comes first."""

    def __init__(self, spec: CheckpointSpec, timesteps: int) -> None:
        self._spec = spec
        self.taken(timesteps)

    def taken(self, timesteps: int) -> None:
        self._timesteps = timesteps
        self._at = time.monotonic()

    def due(self, timesteps: int) -> bool:
        steps, seconds = self._spec.every_timesteps, self._spec.every_seconds
        by_steps = steps is not None and timesteps // steps > self._timesteps // steps
        return by_steps or (seconds is not None and time.monotonic() - self._at >= seconds)


class Keeper:
    """Writes the checkpoints of one attempt, each to a directory of its own."""

    def __init__(self, trainer: Trainer, checkpoints: Path, journal: JournalWriter) -> None:
        self.clock = CheckpointClock(trainer.spec.checkpoints, trainer.timesteps)
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._journal = journal
        self._evaluating: int | None = None
        """The iteration whose evaluation was saved within."""
        self._says_at = 0.0

    def save(self, *, final: bool, evaluated: bool, suffix: str = "") -> None:
        """Write a checkpoint; its manifest is on disk before the record of it exists."""
        trainer = self._trainer
        directory = f"{trainer.iteration:09d}{suffix}"
        manifest = trainer.save(self._checkpoints / directory)
        self._journal.append(
            CheckpointRecord(
                iteration=trainer.iteration,
                timesteps=trainer.timesteps,
                directory=directory,
                metrics=manifest.metrics,
                evaluated=evaluated,
                resume=manifest.resume,
                final=final,
            )
        )
        self.clock.taken(trainer.timesteps)

    def save_within_evaluation(self) -> None:
        """Once: an evaluation changes nothing that is saved."""
        if self._evaluating != self._trainer.iteration:
            self._evaluating = self._trainer.iteration
            self.save(final=False, evaluated=False, suffix="-evaluating")

    def look_on(self, playing: Playing) -> None:
        """While an evaluation takes long: have a checkpoint when one is due, and say in the log how far it is."""
        trainer = self._trainer
        if self.clock.due(trainer.timesteps):
            self.save_within_evaluation()
        if time.monotonic() >= self._says_at:
            self._says_at = time.monotonic() + SAY_SECONDS
            of = f"{playing.episodes} of {trainer.spec.evaluation.n_episodes} episodes have ended"
            say(f"evaluating at {trainer.timesteps} timesteps: {of}, after {playing.timesteps} steps")


def main() -> int:
    """Train or evaluate what stdin says; the exit status is 0 when the journal tells how it ended."""
    die_with_parent()
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    assignment = Assignment.model_validate_json(line)
    lifeline = Lifeline(sys.stdin.buffer)
    lifeline.start()
    prefer_plugin(assignment.plugin)
    journal = JournalWriter(Path(assignment.run_directory, "journal"))
    end_hangs(journal)
    vitality = Vitality()
    Pulse(Path(assignment.run_directory, PULSE), vitality.has_progressed).start()
    trainer: Trainer | None = None
    try:
        if isinstance(assignment.spec, EvaluationPlan):
            prepare(parts_of_evaluation(assignment.spec.env), journal)
            vitality.expect_progress()
            end = play(assignment.spec, assignment, journal, lifeline)
        else:
            prepare(parts_of(assignment.spec), journal)
            trainer = start(assignment.spec, assignment)
            vitality.expect_progress()
            end = train(trainer, assignment, journal, lifeline)
    except BaseException as error:  # An environment may raise SystemExit.
        say(traceback.format_exc().rstrip())
        end = failure(error)
    status = conclude(journal, end)
    if trainer is not None:
        # Only now: an environment may never come back from its close().
        with suppress(Exception):
            trainer.close()
    return status


def prepare(parts: Collection[str], journal: JournalWriter) -> None:
    """Have these parts of the engine compiled; where that takes long, the job says so."""
    if lacking := missing(parts):
        seconds = seconds_for(lacking)
        message = f"the engine is being compiled for this machine, about {seconds} s left"
        journal.append(WaitingRecord(code="engine_compiling", message=message))
    require(parts)


def end_hangs(journal: JournalWriter) -> None:
    """Have an environment that does not come back end this process and all that it started."""

    def fail(error: EnvironmentTimedOut) -> None:
        say(f"{error.code}: {error}")
        faulthandler.dump_traceback()
        try:
            conclude(journal, failure(error))
        finally:
            end_process_group()

    install_timeout_handler(fail, exit_when_stuck=True)


def say(text: str) -> None:
    """Write to the log, unless it takes no more: what matters is in the journal too."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def conclude(journal: JournalWriter, end: EndRecord) -> int:
    """Journal how it ended; on a full disk the exit status must do."""
    try:
        journal.append(end)
    except OSError as error:
        if error.errno in NO_SPACE:
            return STORAGE_FULL_STATUS
        raise
    return 0


def train(trainer: Trainer, assignment: Assignment, journal: JournalWriter, lifeline: Lifeline) -> EndRecord:
    """Run iterations until training is finished or a command ends it; a checkpoint is always written last."""
    journal.append(runtime_record(trainer, assignment))
    keep = trainer.spec.checkpoints
    keeper = Keeper(trainer, Path(assignment.run_directory, "checkpoints"), journal)
    try:
        for progress in trainer.iterations(Attention(lifeline, keeper.look_on)):
            record_progress(journal, progress)
            command = lifeline.command
            # The best policy can be kept only if it is there: one that was evaluated is saved.
            is_scored = progress.evaluation is not None
            is_wanted = progress.finished or command is not None or (is_scored and keep.keep_best > 0)
            if is_wanted or keeper.clock.due(progress.timesteps):
                keeper.save(final=progress.finished, evaluated=is_scored)
            if progress.finished:
                return succeeded(trainer, progress.stop_reason)
            if command:
                return interrupted(command, trainer.timesteps)
    except Interrupted as interruption:
        keeper.save_within_evaluation()
        return interrupted(interruption.command, trainer.timesteps)
    # Its checkpoint was the last one already: the attempt before died between that and saying so.
    keeper.save(final=True, evaluated=False)
    return succeeded(trainer, None)


def start(spec: TrainingSpec, assignment: Assignment) -> Trainer:
    """A trainer at its first iteration, or where the checkpoint left off."""
    # Other slots have the other cores.
    cores = {"threads": assignment.threads, "environment_cores": assignment.threads}
    if assignment.resume_from is None:
        return Trainer(spec, **cores)
    return Trainer.resume(spec, Path(assignment.resume_from), **cores)


def runtime_record(trainer: Trainer, assignment: Assignment) -> RuntimeRecord:
    resumed, given = trainer.resumed, assignment.spec
    was_settled = isinstance(given, TrainingSpec) and is_settled(given)
    return RuntimeRecord(
        runtime=trainer.runtime,
        settled_spec=None if was_settled else trainer.spec.model_dump(mode="json"),
        resumed_iteration=0 if assignment.resume_from is None else trainer.iteration,
        resume=resumed.kind if resumed else None,
        resume_reason=resumed.reason if resumed else None,
    )


def record_progress(journal: JournalWriter, progress: Progress) -> None:
    if progress.metrics is not None:
        journal.append(
            MetricsRecord(iteration=progress.iteration, timesteps=progress.timesteps, metrics=progress.metrics)
        )
    if progress.findings:
        findings = [finding.model_dump(mode="json") for finding in progress.findings]
        journal.append(DiagnosisRecord(iteration=progress.iteration, timesteps=progress.timesteps, findings=findings))
    if (evaluation := progress.evaluation) is not None:
        journal.append(
            EvaluationRecord(iteration=progress.iteration, timesteps=progress.timesteps, metrics=evaluation.metrics())
        )


def succeeded(trainer: Trainer, stop_reason: Literal["total_timesteps", "stop_rule"] | None) -> EndRecord:
    """Training is done; a checkpoint of a finished run (no stop_reason) says by its timesteps which way it ended."""
    target = trainer.spec.ppo.total_timesteps
    if stop_reason == "stop_rule" or (stop_reason is None and trainer.timesteps < target):
        stop = trainer.spec.stop
        code, message = "stop_rule", f"{stop.metric} reached {stop.threshold}"
    else:
        code, message = "target_reached", f"trained for {trainer.timesteps} of {target} timesteps"
    return EndRecord(outcome="succeeded", code=code, message=message, timesteps=trainer.timesteps)


def failure(error: BaseException) -> EndRecord:
    """Why training cannot go on, for whoever reads `status_reason`."""
    code, retryable = "internal", False
    if isinstance(error, EngineError):
        code = error.code
    elif isinstance(error, InvalidSpec):
        code = "invalid_spec"
    elif isinstance(error, OSError) and error.errno in NO_SPACE:
        code, retryable = "storage_full", True
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        code = "out_of_memory"
    if isinstance(error, EnvironmentFault) and error.traceback_text:
        say(error.traceback_text)
        message = f"{error}\n{error.traceback_text[-TRACEBACK_CHARACTERS:]}"
    elif isinstance(error, EngineError | InvalidSpec):
        message = str(error)
    else:
        message = f"{type(error).__name__}: {error}"
    return EndRecord(outcome="failed", code=code, message=message, retryable=retryable, timesteps=None)


def run() -> NoReturn:
    """Be the child; threads of an environment do not keep it alive once it is finished."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
