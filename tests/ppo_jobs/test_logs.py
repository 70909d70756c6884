"""Logs keep their head and their newest tail."""

import pytest
from sqlalchemy import func, select

from ppo_jobs import tables
from ppo_jobs.database import Database
from ppo_jobs.errors import AttemptNotFound
from ppo_jobs.repository import claims, logs
from ppo_jobs.schemas import LogChunk
from ppo_jobs.states import AttemptOutcome
from tests.ppo_jobs.builders import LOST, claim, running, submit


def _append(database: Database, owner: claims.Claim, *texts: str) -> None:
    for text in texts:
        with database.write() as session:
            logs.append_log(session, *owner.key, text)


def _read(database: Database, tenant: str, job_id: str, attempt: int | None = None) -> LogChunk:
    with database.read() as session:
        return logs.read_log(session, tenant, job_id, attempt=attempt)


def test_what_was_printed_is_read_back_in_order(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    _append(database, owner, "one\n", "", "zwei ü 🚀\n", "nul \0 and \ud800\n")
    read = _read(database, tenant, owner.job_id)
    assert (read.text, read.truncated, read.attempt) == ("one\nzwei ü 🚀\nnul \ufffd and ?\n", False, 1)


def test_a_long_log_loses_its_middle_and_says_so(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    _append(database, owner, "h" * (1024 * 1024 - 5), "head.", "m" * 300_000, "x" * 100_000, "the end")
    read = _read(database, tenant, owner.job_id)
    head, _, tail = read.text.partition("\n… ")
    left_out, _, tail = tail.partition(" characters left out …\n")
    assert read.truncated
    assert (len(head), head[-5:], tail[-7:]) == (1024 * 1024, "head.", "the end")
    assert 64 * 1024 <= len(tail) <= 64 * 1024 + 16 * 1024
    assert int(left_out) == 400_007 - len(tail)
    with database.read() as session:
        stored = session.execute(select(func.sum(func.length(tables.logs.c.text)))).scalar_one()
    assert stored == len(head) + len(tail)


def test_each_attempt_has_its_own_log_and_the_newest_is_the_default(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    _append(database, owner, "first")
    with database.write() as session:
        claims.requeue(session, *owner.key, outcome=AttemptOutcome.LOST, reason=LOST)
    _append(database, claim(database), "second")
    assert _read(database, tenant, owner.job_id).text == "second"
    assert _read(database, tenant, owner.job_id, 1).text == "first"
    for unknown in (0, -1, 3, 2**70):
        with pytest.raises(AttemptNotFound):
            _read(database, tenant, owner.job_id, unknown)


def test_a_job_that_never_ran_has_an_empty_log(database: Database, tenant: str) -> None:
    read = _read(database, tenant, submit(database, tenant).id)
    assert (read.text, read.attempt, read.truncated) == ("", 0, False)
