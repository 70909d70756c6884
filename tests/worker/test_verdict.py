import pytest

from ppo_engine.spec import TrainingSpec
from ppo_jobs.states import AttemptOutcome, ReasonCode
from worker.process import Exit
from worker.protocol import STORAGE_FULL_STATUS, EndRecord
from worker.verdict import Intent, Verdict, judge

SPEC = TrainingSpec.model_validate(
    {"env": {"id": "CartPole-v1"}, "ppo": {"total_timesteps": 1000}, "budget": {"max_wall_seconds": 60.0}}
)
STOPPING = SPEC.model_copy(update={"stop": SPEC.stop.model_copy(update={"threshold": 195.0})})


def end(outcome: str, code: str, timesteps: int | None = 500) -> EndRecord:
    return EndRecord.model_validate({"outcome": outcome, "code": code, "message": "why", "timesteps": timesteps})


def verdict(
    record: EndRecord | None, status: int = 0, intent: Intent | None = None, *, spec=SPEC, oom: bool = False, log=""
) -> Verdict:
    return judge(record, Exit(status), spec=spec, intent=intent, killed_for_memory=oom, log_tail=log)


@pytest.mark.parametrize(
    ("record", "spec", "outcome"),
    [
        (end("succeeded", "target_reached", 1000), SPEC, AttemptOutcome.SUCCEEDED),
        (end("succeeded", "target_reached", 999), SPEC, AttemptOutcome.FAILED),
        (end("succeeded", "target_reached", None), SPEC, AttemptOutcome.FAILED),
        (end("succeeded", "stop_rule", 500), STOPPING, AttemptOutcome.SUCCEEDED),
        (end("succeeded", "stop_rule", 500), SPEC, AttemptOutcome.FAILED),
    ],
)
def test_success_needs_all_timesteps_or_a_stop_rule(record, spec, outcome) -> None:
    assert verdict(record, spec=spec).outcome is outcome


@pytest.mark.parametrize(
    ("record", "intent", "outcome", "code"),
    [
        (end("cancelled", "user_request"), Intent.CANCEL, AttemptOutcome.CANCELLED, ReasonCode.USER_REQUEST),
        (None, Intent.CANCEL, AttemptOutcome.CANCELLED, ReasonCode.USER_REQUEST),
        (end("failed", "env_error"), Intent.CANCEL, AttemptOutcome.CANCELLED, ReasonCode.USER_REQUEST),
        (end("succeeded", "target_reached", 1000), Intent.CANCEL, AttemptOutcome.SUCCEEDED, ReasonCode.TARGET_REACHED),
        (end("drained", "worker_draining"), Intent.DRAIN, AttemptOutcome.RELEASED, ReasonCode.WORKER_DRAINING),
        (None, Intent.DRAIN, AttemptOutcome.RELEASED, ReasonCode.WORKER_DRAINING),
        (end("failed", "env_error"), Intent.DRAIN, AttemptOutcome.FAILED, "env_error"),
        (end("cancelled", "user_request"), Intent.BUDGET, AttemptOutcome.FAILED, ReasonCode.BUDGET_EXHAUSTED),
        (None, Intent.BUDGET, AttemptOutcome.FAILED, ReasonCode.BUDGET_EXHAUSTED),
    ],
)
def test_an_end_that_was_asked_for_is_what_was_asked_for(record, intent, outcome, code) -> None:
    found = verdict(record, -9 if record is None else 0, intent)
    assert (found.outcome, found.code) == (outcome, code)


def test_the_engines_own_code_and_words_are_the_reason() -> None:
    found = verdict(end("failed", "env_error", None))
    assert (found.outcome, found.code, found.message) == (AttemptOutcome.FAILED, "env_error", "why")


def test_a_full_disk_is_no_fault_of_the_job() -> None:
    found = verdict(end("failed", "storage_full", None))
    assert (found.outcome, found.code, found.retryable) == (AttemptOutcome.RELEASED, ReasonCode.STORAGE_FULL, True)


@pytest.mark.parametrize(
    ("status", "oom", "outcome", "code"),
    [
        (-9, False, AttemptOutcome.LOST, ReasonCode.CHILD_DIED),
        (-11, False, AttemptOutcome.LOST, ReasonCode.CHILD_DIED),
        (-9, True, AttemptOutcome.LOST, ReasonCode.OUT_OF_MEMORY),
        (3, False, AttemptOutcome.LOST, ReasonCode.CHILD_DIED),
        (0, False, AttemptOutcome.LOST, ReasonCode.CHILD_DIED),
        (STORAGE_FULL_STATUS, False, AttemptOutcome.RELEASED, ReasonCode.STORAGE_FULL),
    ],
)
def test_a_child_that_said_nothing_is_judged_by_how_it_ended(status, oom, outcome, code) -> None:
    found = verdict(None, status, oom=oom)
    assert (found.outcome, found.code, found.retryable) == (outcome, code, True)


def test_the_signal_is_named_and_the_logs_tail_follows() -> None:
    assert verdict(None, -11, log="double free").message == "the training process was killed by SIGSEGV\ndouble free"


def test_an_environment_that_held_the_interpreter_has_timed_out() -> None:
    found = verdict(None, 1, log="Timeout (0:01:10)!\nThread 0x1 (most recent call first)")
    assert (found.outcome, found.code) == (AttemptOutcome.FAILED, "env_timeout")
    assert found.message.startswith("CartPole-v1 held the interpreter")
