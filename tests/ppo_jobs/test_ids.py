"""Identifiers sort by the time they were made."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

from ppo_jobs.ids import new_checkpoint_id, new_id, new_job_id


def test_later_ids_sort_after_earlier_ones_even_if_the_clock_goes_back(monkeypatch) -> None:
    ids = [new_job_id() for _ in range(1000)]
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    ids += [new_job_id() for _ in range(1000)]
    assert ids == sorted(ids)


def test_ids_of_parallel_threads_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_job_id(), range(4000)))
    assert len(set(ids)) == 4000


def test_an_id_names_its_kind_and_needs_no_quoting() -> None:
    assert re.fullmatch(r"job_[0-9a-hjkmnp-tv-z]{26}", new_job_id())
    assert re.fullmatch(r"ckpt_[0-9a-hjkmnp-tv-z]{26}", new_checkpoint_id())


def test_an_id_begins_with_its_time(monkeypatch) -> None:
    # 64 bits of nanoseconds and 64 random ones in 26 characters of 5 bits. Nanosecond 33 with the random bits all 0 is
    # 33 * 2**64. As 64 = 12 * 5 + 4, the last 12 characters are 0, and those before hold 33 * 16 = 16 * 32 + 16.
    monkeypatch.setattr("ppo_jobs.ids._newest_stamp", 0)
    monkeypatch.setattr(time, "time_ns", lambda: 33)
    monkeypatch.setattr("secrets.randbits", lambda bits: 0)
    assert new_id("x") == "x_" + "0" * 12 + "gg" + "0" * 12
