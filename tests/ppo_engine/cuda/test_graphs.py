"""What runs on a GPU alone: capture, replay, and that nobody waits."""

import numpy as np
import pytest
import torch

from ppo_engine.cuda.graphs import Replayed
from ppo_engine.schedules import Coefficients
from tests.ppo_engine.cuda.parts import NOW, Parts, numbers, parts_of

CUDA = torch.device("cuda")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def on_gpu(function):
    for mark in gpu:
        function = mark(function)
    return function


def two_as_on_cuda(env_id: str, **ppo) -> tuple[Parts, Parts]:
    """Equal parts with the activation that a CUDA device has; the CPU's is NumPy's."""
    first, second = (parts_of(env_id, **ppo) for _ in range(2))
    first.policy.hidden._activation = second.policy.hidden._activation = torch.tanh
    return first, second


def test_a_function_is_called_where_there_are_no_graphs() -> None:
    count = torch.zeros(1)
    replayed = Replayed(lambda: count.add_(1), torch.device("cpu"), changes=[count])
    replayed()
    replayed()
    assert count.item() == 2


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_step_is_one_graph_for_a_compiler(env_id: str) -> None:
    """`fullgraph` raises at the first branch on data, and at whatever else would split it."""
    traced, called = two_as_on_cuda(env_id)
    step = traced.backend.collector._step
    step._function = torch.compile(step._function, backend="eager", fullgraph=True)
    for parts in (traced, called):
        parts.backend.iterate(NOW)
    assert (numbers(traced.policy.flat) == numbers(called.policy.flat)).all()


def test_a_loss_is_one_graph_for_a_compiler() -> None:
    traced, called = two_as_on_cuda("CartPole-v1", clip_range_vf=0.2, ent_coef=0.01)
    learner = traced.backend.learner
    learner._loss = torch.compile(learner._loss, backend="eager", fullgraph=True)
    for parts in (traced, called):
        parts.backend.iterate(Coefficients(1e-3, 0.2, 0.2))
    assert (numbers(traced.policy.flat) == numbers(called.policy.flat)).all()


@on_gpu
def test_a_captured_function_runs_once_per_call_the_first_one_included() -> None:
    count = torch.zeros(1, device=CUDA)
    replayed = Replayed(lambda: count.add_(1), CUDA, changes=[count])
    counts = []
    for _ in range(3):
        replayed()
        counts.append(count.item())
    assert counts == [1, 2, 3]


@pytest.mark.law("T23")
@on_gpu
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_replays_give_what_calls_give(env_id: str) -> None:
    """The same iterations, once captured and once called, on the same device: the same kernels, the same bits."""
    captured, called = (parts_of(env_id, device="cuda", max_episode_steps=20, target_kl=0.02) for _ in range(2))
    backend = called.backend
    replayed = [
        *(backend.collector._step, backend.collector._finish, backend.statistics.take_in, backend._report.pack),
        *(backend.learner._prepare, backend.learner._whole_step, backend.learner._rest_step),
    ]
    for function in replayed:
        function._device = torch.device("cpu")
    for _ in range(3):
        ours, theirs = captured.backend.iterate(NOW)[1], backend.iterate(NOW)[1]
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(numbers(captured.policy.flat), numbers(called.policy.flat), atol=1e-6)


@on_gpu
def test_nobody_waits_for_the_device_inside_an_iteration() -> None:
    parts = parts_of(device="cuda", target_kl=0.02, batch_size=24)
    parts.backend.iterate(NOW)
    torch.cuda.synchronize()
    parts.backend.statistics.load()
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts.backend.launch(NOW)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert parts.backend._report.read()["learner/finite"] == 1.0


@on_gpu
def test_cuda_and_cpu_learn_alike_from_the_same_numbers() -> None:
    """The generators differ from device to device, so the first rollout's noise and starts are copied."""
    ours, theirs = parts_of(device="cuda"), parts_of(device="cpu")
    theirs.environment.physics.copy_(ours.environment.physics)
    for parts in (ours, theirs):
        parts.backend.statistics.load()
        parts.backend.collector.collect() if parts is ours else None
    theirs.backend.collector.noise.copy_(ours.backend.collector.noise)
    theirs.backend.collector.uniforms.copy_(ours.backend.collector.uniforms)
    theirs.backend.collector.run()
    for parts in (ours, theirs):
        parts.backend.statistics.take_in()
        parts.backend.learner.order.copy_(torch.arange(64).expand(2, 64))
        parts.backend.learner.run(NOW)
    np.testing.assert_allclose(numbers(ours.policy.flat), numbers(theirs.policy.flat), atol=1e-4)
