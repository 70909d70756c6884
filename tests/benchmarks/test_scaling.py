import pytest

from benchmarks.laps import Mark, speed
from benchmarks.profile import BOOKKEEPING, ROLLOUT, UPDATE, split
from benchmarks.scaling import cells, rows, task_of
from benchmarks.two_jobs import shares


@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 1024), (16, 64), (64, 16), (1024, 16)])
def test_a_rollout_has_at_least_1024_rows_and_16_steps(n_envs, n_steps):
    task = task_of(n_envs, 64)
    assert (task.n_steps, task.rows, task.rows // task.batch_size) == (n_steps, n_envs * n_steps, 4)


def test_the_backends_of_a_cell_are_measured_next_to_each_other():
    assert list(cells([1, 4], [32])) == [(1, 32, "fused"), (1, 32, "torch"), (4, 32, "fused"), (4, 32, "torch")]


def test_a_star_marks_what_auto_picks():
    speeds = {(8, 64, "fused"): 200_000.0, (8, 64, "torch"): 30_000.0}
    assert rows(speeds, [8], [64]) == [["8", "200,000* / 30,000"]]


def test_a_job_keeps_what_its_median_is_of_the_median_alone():
    alone = [[{"speed": 90.0}], [{"speed": 100.0}], [{"speed": 110.0}]]
    both = [[{"speed": 90.0}, {"speed": 80.0}], [{"speed": 99.0}, {"speed": 85.0}], [{"speed": 95.0}, {"speed": 95.0}]]
    assert shares(alone, both, lambda job: job["speed"]) == [0.95, 0.85]


def test_what_is_not_known_of_a_rollout_and_of_an_update_is_what_remains():
    known = {"collect": 5.0, "learn": 10.0, ROLLOUT[0]: 2.0, ROLLOUT[1]: 1.0, UPDATE[0]: 0.5, UPDATE[2]: 1.5}
    phases = split(16.0, known)
    assert phases[ROLLOUT[2]] == 2.0
    assert phases[UPDATE[1]] == 8.0
    assert phases[BOOKKEEPING] == 1.0
    assert sum(phases.values()) == 16.0


def test_a_piece_that_took_longer_alone_leaves_nothing_negative():
    known = {"collect": 1.0, "learn": 1.0, ROLLOUT[0]: 1.5, ROLLOUT[1]: 0.0, UPDATE[0]: 0.0, UPDATE[2]: 2.0}
    phases = split(2.0, known)
    assert min(phases.values()) == 0.0


def test_a_stretch_that_had_half_a_core_says_so():
    assert speed(100, Mark(wall=1.0, cpu=1.0), Mark(wall=5.0, cpu=3.0)) == {
        "steps_per_second": 25.0,
        "steps": 100,
        "core_share": 0.5,
    }
