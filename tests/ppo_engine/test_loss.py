import math

import pytest
import torch
from torch import Tensor

from ppo_engine.loss import LossTerms, mean, ppo_loss
from ppo_engine.minibatch import Minibatch


def batch_of(old_log_probs: Tensor, advantages: Tensor, *, old_values: Tensor | None = None, returns=None) -> Minibatch:
    nothing = torch.zeros_like(advantages)
    return Minibatch(
        observations=nothing,
        actions=nothing,
        log_probs=old_log_probs,
        values=nothing if old_values is None else old_values,
        advantages=advantages,
        returns=nothing if returns is None else returns,
    )


def policy_terms(ratios: list[float], advantages: list[float]) -> tuple[LossTerms, Tensor]:
    """Terms of a policy whose ratios are given, and the gradient by its log-probabilities."""
    old = torch.tensor([-0.7] * len(ratios), dtype=torch.float64)
    new = (old + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    batch = batch_of(old, torch.tensor(advantages, dtype=torch.float64))
    zeros = torch.zeros(len(ratios), dtype=torch.float64)
    terms = ppo_loss(new, zeros, zeros, batch, clip_range=0.2, vf_coef=0.0, ent_coef=0.0)
    (gradient,) = torch.autograd.grad(terms.loss, new)
    return terms, gradient


@pytest.mark.law("T1")
@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.3, 2.0, 0.0),  # A > 0 and r > 1 + ε: clipped
        (0.7, 2.0, -1.4),  # A > 0 and r < 1 - ε: the minimum is the unclipped term
        (0.7, -2.0, 0.0),  # A < 0 and r < 1 - ε: clipped
        (1.3, -2.0, 2.6),  # A < 0 and r > 1 + ε: the minimum is the unclipped term
        (1.1, 2.0, -2.2),
        (1.1, -2.0, 2.2),
        (1.3, 0.0, 0.0),
    ],
)
def test_the_gradient_by_the_log_prob_is_minus_ratio_times_advantage_unless_clipped(ratio, advantage, expected) -> None:
    _, gradient = policy_terms([ratio], [advantage])
    assert gradient.item() == pytest.approx(expected)


def test_policy_loss_and_diagnostics_in_numbers() -> None:
    """min terms: 1.3·2 → 1.2·2 = 2.4; 0.5·-1 → 0.8·-1 = -0.8; 1·3 = 3. Two of three ratios are outside 1 ± 0.2."""
    terms, _ = policy_terms([1.3, 0.5, 1.0], [2.0, -1.0, 3.0])
    assert terms.policy_loss.item() == pytest.approx(-(2.4 - 0.8 + 3.0) / 3)
    assert terms.clip_fraction.item() == pytest.approx(2 / 3)
    k3 = ((0.3 - math.log(1.3)) + (-0.5 - math.log(0.5)) + 0.0) / 3
    assert terms.approx_kl.item() == pytest.approx(k3)


@pytest.mark.law("T2")
def test_equal_policies_have_no_kl_and_no_clipping_and_the_vanilla_gradient() -> None:
    terms, gradient = policy_terms([1.0, 1.0, 1.0], [2.0, -1.0, 3.0])
    assert terms.approx_kl.item() == 0.0
    assert terms.clip_fraction.item() == 0.0
    assert gradient.tolist() == pytest.approx([-2 / 3, 1 / 3, -3 / 3])


@pytest.mark.law("T7")
def test_approx_kl_is_never_negative_where_k1_is() -> None:
    """Ratios above one have a negative mean of -log r; k3 stays above zero."""
    terms, _ = policy_terms([1.5, 1.2, 1.01], [1.0, 1.0, 1.0])
    assert terms.approx_kl.item() > 0


def test_ratios_beyond_every_float_give_finite_loss_and_gradient() -> None:
    old = torch.tensor([-1000.0, 0.0, 0.0])
    new = torch.tensor([0.0, 0.0, -1000.0], requires_grad=True)
    zeros = torch.zeros(3)
    batch = batch_of(old, torch.tensor([1.0, 1.0, -1.0]))
    terms = ppo_loss(new, zeros, zeros, batch, clip_range=0.2, vf_coef=0.0, ent_coef=0.0)
    (gradient,) = torch.autograd.grad(terms.loss, new)
    assert torch.isfinite(torch.stack(terms)).all()
    assert torch.isfinite(gradient).all()


def test_value_loss_is_the_mean_square_error_and_enters_by_its_coefficient() -> None:
    """Errors 1 and 3: (1 + 9) / 2 = 5, times 0.5."""
    zeros = torch.zeros(2)
    batch = batch_of(zeros, zeros, returns=torch.tensor([1.0, 5.0]))
    terms = ppo_loss(zeros, zeros, torch.tensor([2.0, 2.0]), batch, clip_range=0.2, vf_coef=0.5, ent_coef=0.0)
    assert terms.value_loss.item() == 5.0
    assert terms.loss.item() == 2.5


@pytest.mark.law("T10")
def test_value_clipping_takes_the_worse_of_clipped_and_unclipped_error() -> None:
    """Old value 0, clip 0.2. New 1 for return 2: unclipped 1, clipped (0.2 - 2)² = 3.24, the worse.
    New 1 for return -2: unclipped 9, clipped (0.2 + 2)² = 4.84: the unclipped is worse, and keeps its gradient."""
    zeros, values = torch.zeros(2), torch.ones(2, requires_grad=True)
    batch = batch_of(zeros, zeros, returns=torch.tensor([2.0, -2.0]))
    terms = ppo_loss(zeros, zeros, values, batch, clip_range=0.2, clip_range_vf=0.2, vf_coef=1.0, ent_coef=0.0)
    assert terms.value_loss.item() == pytest.approx((3.24 + 9) / 2)
    (gradient,) = torch.autograd.grad(terms.loss, values)
    assert gradient.tolist() == pytest.approx([0.0, 2 * 3 / 2])


def test_the_entropy_bonus_lowers_the_loss() -> None:
    zeros = torch.zeros(2)
    terms = ppo_loss(
        zeros, torch.tensor([1.0, 3.0]), zeros, batch_of(zeros, zeros), clip_range=0.2, vf_coef=0.0, ent_coef=0.1
    )
    assert terms.entropy.item() == 2.0
    assert terms.loss.item() == pytest.approx(-0.2)


def test_masked_rows_have_weight_zero_in_every_term_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, False])
    poisoned = columns.masked_fill(~mask, 1e6)

    def terms_of(columns: Tensor, mask: Tensor | None) -> tuple[LossTerms, list[Tensor]]:
        new, entropies, values, *old = (column.clone().requires_grad_() for column in columns)
        batch = Minibatch(*(column.detach() for column in (new, new, *old[:4])), mask=mask)
        terms = ppo_loss(new, entropies, values, batch, clip_range=0.2, clip_range_vf=0.3, vf_coef=0.5, ent_coef=0.1)
        return terms, list(torch.autograd.grad(terms.loss, (new, entropies, values)))

    expected, gradients = terms_of(columns[:, mask], None)
    found, masked_gradients = terms_of(poisoned, mask)
    assert torch.stack(found).tolist() == pytest.approx(torch.stack(expected).tolist())
    for gradient, masked in zip(gradients, masked_gradients, strict=True):
        assert masked[mask].tolist() == pytest.approx(gradient.tolist())
        assert masked[~mask].tolist() == [0.0, 0.0]


def test_the_mean_of_no_row_is_zero_whatever_the_rows_hold() -> None:
    assert mean(torch.tensor([math.nan, math.inf]), torch.tensor([False, False])).item() == 0.0
