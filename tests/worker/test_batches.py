from ppo_jobs.states import EventType
from worker.batches import Comparison
from worker.protocol import (
    CheckpointRecord,
    DiagnosisRecord,
    EndRecord,
    EvaluationRecord,
    MetricsRecord,
    Record,
    RuntimeRecord,
)


def metrics(iteration: int, loss: float = 0.5, fps: float = 100.0) -> MetricsRecord:
    values = {"train/policy_loss": loss, "time/fps": fps}
    return MetricsRecord(iteration=iteration, timesteps=iteration * 8, metrics=values)


def started(resume: str | None = None, reason: str | None = None) -> RuntimeRecord:
    return RuntimeRecord.model_validate(
        {"runtime": {}, "resumed_iteration": 0, "resume": resume, "resume_reason": reason}
    )


def checkpoint(iteration: int) -> CheckpointRecord:
    return CheckpointRecord(
        iteration=iteration, timesteps=iteration * 8, directory="x", metrics={}, resume="exact", final=False
    )


def numbered(*records: Record) -> list[tuple[Record, int]]:
    return [(record, 100 * place) for place, record in enumerate(records, 1)]


def known(*records: MetricsRecord | EvaluationRecord | DiagnosisRecord):
    return {
        (EventType(record.type), record.iteration): record.model_dump(mode="json", exclude={"type"})
        for record in records
    }


def types(comparison: Comparison, *records: Record) -> list[tuple[str, int | None]]:
    return [(str(entry.type), entry.iteration) for entry in comparison.batch(numbered(*records)).entries]


def test_a_fresh_start_writes_everything() -> None:
    assert types(Comparison({}, 0), started(), metrics(1), metrics(2)) == [("metrics", 1), ("metrics", 2)]


def test_iterations_that_the_ledger_has_are_not_written_again_whatever_the_clock_said() -> None:
    comparison = Comparison(known(metrics(3, fps=90.0), metrics(4, fps=80.0)), 2)
    records = [started("exact"), metrics(3), metrics(4), metrics(5)]
    assert types(comparison, *records) == [("metrics", 5)]


def test_a_diagnosis_that_the_ledger_has_is_not_written_again_and_one_that_differs_rewinds() -> None:
    def diagnosis(kl: float) -> DiagnosisRecord:
        finding = {"code": "kl_blow_up", "evidence": {"train/approx_kl": kl}}
        return DiagnosisRecord(iteration=3, timesteps=24, findings=[finding])

    repeated = Comparison(known(metrics(3), diagnosis(0.25)), 2)
    assert types(repeated, started("exact"), metrics(3), diagnosis(0.25), metrics(4)) == [("metrics", 4)]
    changed = Comparison(known(metrics(3), diagnosis(0.25)), 2)
    assert types(changed, started("exact"), metrics(3), diagnosis(0.5)) == [("rewind", None), ("diagnosis", 3)]


def test_a_difference_is_told_by_a_rewind_to_the_last_iteration_that_agreed() -> None:
    comparison = Comparison(known(metrics(3), metrics(4), metrics(5)), 2)
    batch = comparison.batch(numbered(started("exact"), metrics(3), metrics(4, loss=0.25), metrics(5)))
    assert [(str(entry.type), entry.iteration) for entry in batch.entries] == [
        ("rewind", None),
        ("metrics", 4),
        ("metrics", 5),
    ]
    assert batch.entries[0].data == {"to_iteration": 3, "reason": "metrics of iteration 4 came out differently"}


def test_the_smallest_difference_counts() -> None:
    one_bit_more = 0.5 + 2**-53
    assert one_bit_more != 0.5
    assert types(Comparison(known(metrics(3)), 2), metrics(3, loss=one_bit_more))[0] == ("rewind", None)


def test_an_approximate_resume_rewinds_to_its_checkpoint_and_says_why() -> None:
    comparison = Comparison(known(metrics(3)), 2)
    batch = comparison.batch(numbered(started("approximate", "another CPU"), metrics(3)))
    assert batch.entries[0].data == {"to_iteration": 2, "reason": "another CPU"}
    assert [entry.iteration for entry in batch.entries] == [None, 3]


def test_evaluations_have_a_key_of_their_own() -> None:
    evaluation = EvaluationRecord(iteration=3, timesteps=24, metrics={"eval/mean_reward": 1.0})
    comparison = Comparison(known(metrics(3)), 2)
    assert types(comparison, metrics(3), evaluation) == [("evaluation", 3)]


def test_a_batch_ends_with_its_first_checkpoint_so_that_it_commits_after_the_metrics_before_it() -> None:
    comparison = Comparison({}, 0)
    records = numbered(metrics(1), checkpoint(1), metrics(2))
    batch = comparison.batch(records)
    assert (len(batch.entries), batch.checkpoint, batch.offset) == (1, checkpoint(1), 200)
    rest = comparison.batch(records[2:])
    assert (len(rest.entries), rest.checkpoint, rest.offset) == (1, None, 300)


def test_nothing_counts_behind_the_end() -> None:
    end = EndRecord(outcome="failed", code="env_timeout", message="hung", timesteps=None)
    batch = Comparison({}, 0).batch(numbered(metrics(1), end, metrics(2)))
    assert (len(batch.entries), batch.end) == (1, end)
