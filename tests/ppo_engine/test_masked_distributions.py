import itertools
import math

import numpy as np
import pytest
import torch

from ppo_engine.distributions import Bernoulli, Distribution, MultiCategorical

NONE = torch.zeros(0)


def some_outputs(distribution: Distribution, rows: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(rows, distribution.outputs)))


@pytest.mark.law("T14")
def test_a_masked_choice_has_probability_zero_and_the_others_share_it_by_their_logits() -> None:
    """Logits log 1, log 2, log 5 without the second: 1/6, 0, 5/6."""
    distribution = MultiCategorical((3,), has_masks=True)
    logits = distribution.masked(torch.tensor([[1.0, 2.0, 5.0]]).log(), torch.tensor([[True, False, True]]))
    log_probs, entropies = distribution.log_probs_and_entropies(
        logits.expand(3, -1), NONE, torch.tensor([[0], [1], [2]])
    )
    assert log_probs.exp().tolist() == pytest.approx([1 / 6, 0, 5 / 6])
    assert log_probs.exp().tolist()[1] == 0.0
    entropy = -(1 / 6 * math.log(1 / 6) + 5 / 6 * math.log(5 / 6))
    assert entropies.tolist() == pytest.approx([entropy] * 3)


def test_a_masked_bit_is_bound_and_its_entropy_is_zero() -> None:
    """The first bit may not be 0, the second not be 1, the third both, with probability 3/4 of being 1."""
    distribution = Bernoulli(3, has_masks=True)
    masks = torch.tensor([[False, True, True, False, True, True]])
    outputs = distribution.masked(torch.tensor([[-5.0, 7.0, math.log(3)]]), masks)
    log_probs, entropies = distribution.log_probs_and_entropies(outputs, NONE, torch.tensor([[1, 0, 1]]))
    assert log_probs.item() == pytest.approx(math.log(3 / 4))
    assert entropies.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    impossible, _ = distribution.log_probs_and_entropies(outputs, NONE, torch.tensor([[0, 0, 1]]))
    assert impossible.exp().item() == 0.0
    assert distribution.mode(outputs).tolist() == [[1, 0, 1]]


MASKED = [
    (MultiCategorical((2, 3, 4), has_masks=True), [[1, 1], [0, 1, 1], [1, 0, 0, 1]]),
    (MultiCategorical((4, 2), has_masks=True), [[1, 0, 0, 0], [0, 1]]),
    (Bernoulli(3, has_masks=True), [[1, 1], [0, 1], [1, 0]]),
]


@pytest.mark.law("T13")
@pytest.mark.parametrize(("distribution", "heads"), MASKED)
def test_masked_heads_are_split_by_their_sizes_and_agree_with_the_sum_over_valid_actions(distribution, heads) -> None:
    masks = torch.tensor([list(itertools.chain(*heads))]).bool()
    outputs = distribution.masked(some_outputs(distribution), masks)
    actions = list(itertools.product(*[range(len(head)) for head in heads]))
    log_probs, entropies = distribution.log_probs_and_entropies(
        outputs.expand(len(actions), -1), NONE, torch.tensor(actions)
    )
    valid = torch.tensor([all(head[choice] for head, choice in zip(heads, action, strict=True)) for action in actions])
    assert (log_probs.exp() > 0).tolist() == valid.tolist()
    likely = log_probs[valid]
    assert float(likely.exp().sum()) == pytest.approx(1.0)
    assert float(-(likely.exp() * likely).sum()) == pytest.approx(float(entropies[0]), abs=1e-12)


@pytest.mark.law("T14")
@pytest.mark.parametrize(("distribution", "heads"), MASKED)
def test_the_gradient_of_a_masked_output_is_zero_to_the_bit(distribution, heads) -> None:
    masks = torch.tensor([list(itertools.chain(*heads))]).bool()
    raw, old = some_outputs(distribution).requires_grad_(), some_outputs(distribution).neg()
    outputs = distribution.masked(raw, masks)
    actions = distribution.mode(outputs)
    log_probs, entropies = distribution.log_probs_and_entropies(outputs, NONE, actions)
    kl = distribution.kl(distribution.masked(old, masks), NONE, outputs, NONE)
    (log_probs + 0.1 * entropies + kl).sum().backward()
    assert raw.grad is not None and torch.isfinite(raw.grad).all()
    free = [sum(head) > 1 and bool(choice) for head in heads for choice in head]
    if isinstance(distribution, Bernoulli):
        free = [all(bit) for bit in heads]
    # The same gradient says both: to the bit 0 where there is nothing to choose, and something where there is.
    assert (raw.grad[0] != 0).tolist() == free


@pytest.mark.law("T14")
@pytest.mark.parametrize(
    ("distribution", "masks"),
    [
        (MultiCategorical((3, 2), has_masks=True), [0, 1, 0, 1, 0]),
        (Bernoulli(2, has_masks=True), [0, 1, 1, 0]),
    ],
)
def test_with_one_valid_action_log_prob_entropy_and_divergence_are_zero_to_the_bit(distribution, masks) -> None:
    for scale in (1.0, 1e3):
        mask = torch.tensor([masks]).bool()
        outputs = distribution.masked(scale * some_outputs(distribution).float(), mask)
        other = distribution.masked(-scale * some_outputs(distribution).float(), mask)
        only = torch.tensor([[1, 0]])
        log_probs, entropies = distribution.log_probs_and_entropies(outputs, NONE, only)
        assert (log_probs.item(), entropies.item()) == (0.0, 0.0)
        assert distribution.kl(outputs, NONE, other, NONE).item() == 0.0
        noise = torch.from_numpy(distribution.noise(np.random.default_rng(0), (100,)))
        assert (distribution.sample(outputs.expand(100, -1), NONE, noise) == only).all()


def test_masked_choices_are_never_drawn_whatever_rounding_does_to_the_cumulative_distribution() -> None:
    """The sum of 5000 rounded probabilities may fall short of the largest uniform number, 1 - 2⁻²⁴."""
    K = 5000
    distribution = MultiCategorical((K,), has_masks=True)
    draw = np.random.default_rng(0)
    masks = torch.from_numpy(draw.random((300, K)) < 0.3)
    masks[:, -1] = masks[:, 0] = False
    outputs = distribution.masked(torch.from_numpy(draw.standard_normal((300, K), dtype=np.float32)), masks)
    for uniform in (0.0, 1 - 2**-24):
        noise = torch.full((300, 1), uniform)
        assert masks.gather(1, distribution.sample(outputs, NONE, noise)).all()
    noise = torch.from_numpy(distribution.noise(draw, (300,)))
    assert masks.gather(1, distribution.sample(outputs, NONE, noise)).all()


@pytest.mark.law("T14")
def test_masks_of_large_spaces_stay_finite_in_float32_and_agree_with_float64() -> None:
    K = 5000
    distribution = MultiCategorical((K,), has_masks=True)
    draw = np.random.default_rng(0)
    logits = torch.from_numpy(10 * draw.standard_normal((64, K)))
    masks = torch.from_numpy(draw.random((64, K)) < 0.5)
    exact = distribution.masked(logits, masks)
    actions = distribution.mode(exact)
    single = distribution.masked(logits.float().requires_grad_(), masks)
    expected = distribution.log_probs_and_entropies(exact, NONE, actions)
    found = distribution.log_probs_and_entropies(single, NONE, actions)
    for in_single, in_double in zip(found, expected, strict=True):
        torch.testing.assert_close(in_single.double(), in_double, rtol=1e-4, atol=1e-5)
    assert masks.gather(1, actions).all()
    assert distribution.kl(single, NONE, single, NONE).tolist() == [0.0] * 64


def test_masked_samples_have_the_frequencies_of_the_valid_choices() -> None:
    """60,000 samples of (1/6, 0, 5/6) and of (0, 1/2, 1/2, 0): five standard errors are at most 5 · ½/√60000."""
    distribution = MultiCategorical((3, 4), has_masks=True)
    logits = torch.tensor([[0.0, 9.0, math.log(5.0), 3.0, 1.0, 1.0, 9.0]])
    masks = torch.tensor([[1, 0, 1, 0, 1, 1, 0]]).bool()
    noise = torch.from_numpy(distribution.noise(np.random.default_rng(0), (60_000,)))
    samples = distribution.sample(distribution.masked(logits, masks).expand(60_000, -1), NONE, noise)
    for head, expected in ((0, [1 / 6, 0, 5 / 6]), (1, [0, 0.5, 0.5, 0])):
        shares = torch.bincount(samples[:, head], minlength=len(expected)).double() / 60_000
        assert shares.tolist() == pytest.approx(expected, abs=0.0103)
        assert all(share == 0 for share, wanted in zip(shares.tolist(), expected, strict=True) if wanted == 0)


def test_without_masks_sampling_possible_choices_is_sampling_choices() -> None:
    draw = np.random.default_rng(0)
    logits, uniforms = torch.from_numpy(draw.normal(size=(2000, 7))), torch.from_numpy(draw.random((2000, 1)))
    plain, possible = MultiCategorical((7,)), MultiCategorical((7,), has_masks=True)
    assert (plain.sample(logits, NONE, uniforms) == possible.sample(logits, NONE, uniforms)).all()
