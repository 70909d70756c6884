"""Training throughput on a GPU: CartPole with 4096 environments, ours on the device itself, the peers' on the host.

Everything else is as in the throughput benchmark, whose contestants, order and figures these are. The limits of the
device are those that a large matrix product and a large copy reach, both in float32.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from benchmarks import peers
from benchmarks.record import machine, table, versions, with_own_kernels
from benchmarks.tasks import Task
from benchmarks.throughput import OWN_PACKAGES, PEER_PACKAGES, compare, header, present, rows, summary

TASK = Task("cuda", "CartPole-v1", 4096, 32, 4, 32_768, total_timesteps=524_288, device="cuda")
OBSERVATION, ACTIONS = 4, 2
CONTESTANTS = ("ours", "sb3", "cleanrl")
NO_DEVICE = "There is no CUDA device here: benchmarks.cuda has nothing to measure."
FLOAT = 4
"""Bytes."""
SCALARS = 6
"""Action, log-probability, value, reward, advantage, return."""


def flops_per_step(task: Task) -> int:
    """Multiplications and additions that one environment step costs at least, in matrix products.

    One forward pass of actor and critic to act, and in each epoch one more and a backward pass of twice its size.
    """
    widths = [OBSERVATION, *task.hidden_sizes]
    trunk = sum(inputs * outputs for inputs, outputs in pairwise(widths))
    forward = 2 * (2 * trunk + widths[-1] * (ACTIONS + 1))
    return forward * (1 + 3 * task.n_epochs)


def bytes_per_step(task: Task) -> int:
    """Bytes that one environment step moves at least: its row written once and read once in each epoch."""
    return FLOAT * (OBSERVATION + SCALARS) * (1 + task.n_epochs)


def limits() -> dict[str, float]:
    """What the device does per second: floating-point operations of a matrix product, bytes read and written."""
    import torch

    def seconds(work: Callable[[], object], rounds: int = 20) -> float:
        work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / rounds

    size = 8192
    left, right, out = (torch.rand(size, size, device="cuda") for _ in range(3))
    product = seconds(lambda: torch.mm(left, right, out=out))
    copy = seconds(lambda: out.copy_(left))
    return {"flops": 2 * size**3 / product, "bytes": 2 * FLOAT * size**2 / copy}


def shares(speed: float, task: Task, limit: dict[str, float]) -> dict[str, float]:
    """Which share of each limit a training takes that makes `speed` steps per second."""
    return {
        "flops": speed * flops_per_step(task) / limit["flops"],
        "bytes": speed * bytes_per_step(task) / limit["bytes"],
    }


def main() -> int:
    """Prints the table and our shares of the device's limits; status 2 where there is no device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(NO_DEVICE, file=sys.stderr)
        return 2
    with_own_kernels()
    device, limit = torch.cuda.get_device_name(), limits()
    taking_part, absences = present(CONTESTANTS, TASK, versions(*OWN_PACKAGES) | peers.installed(PEER_PACKAGES))
    with tempfile.TemporaryDirectory(prefix="ppo-bench-") as cache:
        records, failures = compare(TASK, taking_part, options.runs, cache=cache)
    for sentence in absences + failures:
        print(sentence, file=sys.stderr)
    answer: dict[str, Any] = summary(TASK, records)
    answer |= {"left_out": absences + failures, "device": device, "limits": limit}
    answer["shares"] = shares(answer["contestants"]["ours"]["median"], TASK, limit)
    if options.json:
        print(json.dumps({"machine": machine(), **answer}))
        return 0
    print(f"{device}; {machine()}; median (least to most) of {options.runs} runs")
    print(table(header(TASK), rows(answer)))
    print(
        f"ours takes {answer['shares']['flops']:.2%} of the products and {answer['shares']['bytes']:.2%} of the copies"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
