import pytest
import torch

from benchmarks import cuda
from benchmarks.tasks import Task

TASK = Task("tiny", "CartPole-v1", 1, 1, 2, 1, total_timesteps=1, hidden_sizes=(8,))


def test_a_step_costs_a_forward_pass_and_three_in_each_epoch():
    # Actor and critic: 4x8 each, then 8x2 and 8x1; 88 products, two operations each, 1 + 3·2 times.
    assert cuda.flops_per_step(TASK) == 2 * 88 * 7


def test_a_row_is_written_once_and_read_in_each_epoch():
    assert cuda.bytes_per_step(TASK) == 4 * 10 * 3


def test_a_share_is_what_a_step_costs_times_the_speed_over_the_limit():
    shares = cuda.shares(1000.0, TASK, {"flops": 12_320_000.0, "bytes": 1_200_000.0})
    assert shares == {"flops": 0.1, "bytes": 0.1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_where_there_is_no_device_one_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks.cuda"])
    assert cuda.main() == 2
    assert capsys.readouterr().err == "There is no CUDA device here: benchmarks.cuda has nothing to measure.\n"
