import math

import pytest
import torch

from ppo_engine.adam import Adam, clip_gradients


def test_the_first_step_in_numbers() -> None:
    """m̂ = g, v̂ = g², so the step is lr · g / (|g| + 1e-5)."""
    parameters = torch.tensor([1.0, 1.0], dtype=torch.float64)
    Adam(parameters).step(torch.tensor([0.5, -2.0], dtype=torch.float64), 0.1)
    expected = [1 - 0.1 * 0.5 / (0.5 + 1e-5), 1 + 0.1 * 2.0 / (2.0 + 1e-5)]
    assert parameters.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.law("T17")
def test_the_flat_optimiser_equals_torch_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(501, generator=generator)
    ours, theirs = start.clone(), torch.nn.Parameter(start.clone())
    adam = Adam(ours)
    reference = torch.optim.Adam([theirs], lr=3e-4, eps=1e-5, foreach=False)
    for step in range(50):
        gradients = torch.randn(501, generator=generator)
        learning_rate = 3e-4 * (1 - step / 50)
        adam.step(gradients, learning_rate)
        reference.param_groups[0]["lr"] = learning_rate
        theirs.grad = gradients.clone()
        reference.step()
    assert adam.steps == 50
    assert torch.equal(ours, theirs)
    assert torch.equal(adam.m, reference.state[theirs]["exp_avg"])
    assert torch.equal(adam.v, reference.state[theirs]["exp_avg_sq"])


@pytest.mark.law("T17")
def test_gradients_are_scaled_by_one_norm_over_all_parameters() -> None:
    gradients = torch.tensor([3.0, 4.0])
    assert clip_gradients(gradients, 0.5).item() == 5.0
    assert gradients.tolist() == pytest.approx([0.3, 0.4], rel=1e-6)


def test_gradients_below_the_limit_stay_as_they_are() -> None:
    gradients = torch.tensor([0.3, 0.4])
    assert clip_gradients(gradients, 0.6).item() == pytest.approx(0.5)
    assert gradients.tolist() == pytest.approx([0.3, 0.4])


def test_clipping_equals_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(100))
    parameter.grad = torch.randn(100, generator=torch.Generator().manual_seed(1))
    ours = parameter.grad.clone()
    norm = clip_gradients(ours, 0.5)
    assert torch.nn.utils.clip_grad_norm_([parameter], 0.5).item() == norm.item()
    assert torch.equal(parameter.grad, ours)
    assert math.isclose(float(torch.linalg.vector_norm(ours)), 0.5, rel_tol=1e-5)
