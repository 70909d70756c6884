"""The ledger's metrics as a table: one row per iteration, whatever happened in between."""

import pytest

from ppo_jobs.database import Database
from ppo_jobs.downsampling import representative_rows
from ppo_jobs.repository import events
from ppo_jobs.repository.claims import Entry
from ppo_jobs.schemas import MetricsTable
from ppo_jobs.states import EventType
from tests.ppo_jobs.builders import append, metrics, rewind, running


def _table(database: Database, tenant: str, job_id: str, **options: object) -> MetricsTable:
    with database.read() as session:
        return events.metrics_table(session, tenant, job_id, **options)  # type: ignore[arg-type]  # Options by name.


def test_metrics_become_columns_with_nulls_where_nothing_was_measured(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    evaluation = Entry(EventType.EVALUATION, 2, {"iteration": 2, "timesteps": 20, "metrics": {"eval/mean_reward": 7.0}})
    append(database, owner, metrics(1), metrics(2, ep_rew_mean=2.0), evaluation)
    assert _table(database, tenant, owner.job_id).columns == {
        "iteration": [1, 2],
        "timesteps": [10, 20],
        "eval/mean_reward": [None, 7.0],
        "rollout/ep_rew_mean": [None, 2.0],
    }


def test_only_the_wanted_columns_are_read(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, metrics(1, a=1.0, b=2.0))
    columns = _table(database, tenant, owner.job_id, keys=["rollout/b", "unknown"]).columns
    assert columns == {"iteration": [1], "timesteps": [10], "rollout/b": [2.0], "unknown": [None]}


def test_what_was_rewound_gives_way_to_what_came_after(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, *(metrics(i, r=float(i)) for i in range(1, 5)), rewind(2), metrics(3, r=30.0))
    assert _table(database, tenant, owner.job_id).columns["rollout/r"] == [1.0, 2.0, 30.0]
    append(database, owner, metrics(4, r=40.0))
    table = _table(database, tenant, owner.job_id)
    assert (table.columns["iteration"], table.columns["rollout/r"]) == ([1, 2, 3, 4], [1.0, 2.0, 30.0, 40.0])


def test_reading_on_from_the_last_seq_gives_only_what_is_newer(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, metrics(1), metrics(2))
    first = _table(database, tenant, owner.job_id)
    assert _table(database, tenant, owner.job_id, after=first.last_seq).columns == {"iteration": [], "timesteps": []}
    append(database, owner, metrics(3))
    later = _table(database, tenant, owner.job_id, after=first.last_seq)
    assert (later.columns["iteration"], later.last_seq) == ([3], first.last_seq + 1)


def test_events_are_read_in_pages_by_seq(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, *(metrics(i) for i in range(1, 6)))
    with database.read() as session:
        pages = [events.list_events(session, tenant, owner.job_id, after=seq, limit=3) for seq in (0, 3, 6, 7)]
    assert [[event.seq for event in page] for page in pages] == [[1, 2, 3], [4, 5, 6], [7], []]


def test_fewer_points_are_asked_for_than_there_are(database: Database, tenant: str) -> None:
    owner = running(database, tenant)
    append(database, owner, *(metrics(i, r=100.0 if i == 13 else 0.0) for i in range(1, 31)))
    columns = _table(database, tenant, owner.job_id, max_points=5).columns
    assert [len(column) for column in columns.values()] == [5, 5, 5]
    assert (columns["iteration"][0], columns["iteration"][-1]) == (1, 30)
    assert 13 in columns["iteration"]  # The only thing that happens.
    assert _table(database, tenant, owner.job_id, max_points=30).columns["iteration"] == list(range(1, 31))


def test_the_first_the_last_and_the_largest_triangles_are_kept() -> None:
    # One bucket of rows 1 to 3 between the ends. Twice the triangle (0, 0), (x, y), (4, 0) is 4 y: the peak at 2 wins.
    assert representative_rows([0, 1, 2, 3, 4], [[0.0, 1.0, 5.0, 2.0, 0.0]], 3) == [0, 2, 4]


def test_a_column_counts_by_its_shape_and_not_by_its_unit() -> None:
    # The second column's peak at 3 is a thousand times lower, but it is its whole range; the first column's bump at 1
    # is a thousandth of its own.
    large = [0.0, 1.0, 0.0, 0.0, 1000.0]
    small = [0.0, 0.0, 0.0, 0.9, 0.0]
    assert representative_rows([0, 1, 2, 3, 4], [large, small], 3) == [0, 3, 4]


def test_missing_values_and_constants_do_not_attract_points() -> None:
    assert representative_rows([0, 1, 2, 3], [[None, 4.0, None, None], [1.0, 1.0, 1.0, 1.0]], 3) == [0, 1, 3]


@pytest.mark.parametrize(("n", "count"), [(10, 1), (10, 2), (10, 3), (1000, 7), (11, 10), (4, 3), (5, 5), (0, 3)])
def test_as_many_rows_as_asked_for_come_back_in_order(n: int, count: int) -> None:
    rows = representative_rows(list(range(n)), [[float(i * 7919 % 101) for i in range(n)]], count)
    assert len(rows) == min(n, count)
    assert rows == sorted(set(rows))
