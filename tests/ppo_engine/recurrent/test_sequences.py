"""What recurrent policies act from and learn from; episodes of the scripted ramp are k = 0, 1, 2, ... in env n."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ppo_engine.advantages import normalized_advantages
from ppo_engine.recurrent.sequences import Sequences
from ppo_engine.schedules import coefficients
from tests.ppo_engine.recurrent.policies import collector_of, generator, learner_of, stepped_values
from tests.ppo_engine.scripted import POISON, Ramp


@pytest.mark.law("T15")
@pytest.mark.parametrize("memory", ["lstm", "gru"])
@pytest.mark.parametrize(("n_envs", "n_steps"), [(3, 8), (1, 8), (1, 11), (5, 3), (2, 1)])
def test_replaying_the_stored_sequences_reproduces_the_acting_policy(memory: str, n_envs: int, n_steps: int) -> None:
    """Over two rollouts, with episodes that end within sequences and go on across rollouts."""
    lengths, ends = [5, 3, 7, 2, 4][:n_envs], ["truncated", "terminated", "truncated", "terminated", "both"][:n_envs]
    collector = collector_of(Ramp(lengths, ends), n_steps=n_steps, memory=memory)
    learner = learner_of(collector, batch_size=4)
    for _ in range(2):
        rollout = collector.collect()
        batch = learner.batch(rollout, rollout.rewards)
        seen = 0
        for minibatch in learner.minibatches(batch):
            evaluated = learner.evaluate(minibatch)
            counted = slice(None) if minibatch.mask is None else minibatch.mask
            ratio = (evaluated.log_probs - minibatch.log_probs).exp()[counted]
            assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)
            assert torch.allclose(evaluated.values[counted], minibatch.values[counted], atol=1e-6, rtol=0)
            seen += len(ratio)
        assert seen == n_envs * n_steps


@pytest.mark.law("T2", "T15")
def test_with_as_many_sequences_as_environments_and_one_step_the_ratio_is_one_to_the_bit() -> None:
    """All matrices have the shapes that they had in acting."""
    collector = collector_of(Ramp([3] * 16, ["terminated"] * 16), n_steps=1, sequence_length=1)
    learner = learner_of(collector, batch_size=16)
    for _ in range(5):
        rollout = collector.collect()
        batch = learner.batch(rollout, rollout.rewards)
        evaluated = learner.evaluate(batch)
        assert torch.equal(evaluated.log_probs, batch.log_probs)
        assert torch.equal(evaluated.values, batch.values)


def test_values_are_those_of_episodes_stepped_from_their_start() -> None:
    """Episodes of 5 steps, observations (k, 0): two rollouts of 4 show k = 0 1 2 3 | 4 0 1 2."""
    collector = collector_of(Ramp([5], ["terminated"]), n_steps=4)
    expected = stepped_values(collector.policy, [[k, 0] for k in range(5)])
    first = collector.collect().values[:, 0].tolist()
    second = collector.collect().values[:, 0].tolist()
    assert first == pytest.approx(expected[:4], abs=1e-6)
    assert second == pytest.approx([expected[4], *expected[:3]], abs=1e-6)


@pytest.mark.law("T5", "T15")
def test_a_truncated_episode_ends_in_the_value_of_its_final_observation_after_its_last_state() -> None:
    """Environment 0 is cut off at k = 2 and stands at 0 again; environment 1 goes on to k = 3, 4."""
    collector = collector_of(Ramp([2, 9], ["truncated", "terminated"]), n_steps=3)
    rollout = collector.collect()
    cut_off = stepped_values(collector.policy, [[k, 0] for k in range(3)])
    goes_on = stepped_values(collector.policy, [[k, 1] for k in range(4)])
    assert rollout.next_values[:, 0].tolist() == pytest.approx([cut_off[1], cut_off[2], cut_off[1]], abs=1e-6)
    assert rollout.next_values[:, 1].tolist() == pytest.approx(goes_on[1:], abs=1e-6)


@pytest.mark.law("T5", "T15")
def test_episodes_that_are_cut_off_together_end_in_values_of_their_own_memories() -> None:
    """Environments 0 and 2 are cut off at k = 2 in one step, beside one that terminates then and one that goes on."""
    collector = collector_of(Ramp([2, 2, 2, 9], ["truncated", "both", "truncated", "truncated"]), n_steps=2)
    rollout = collector.collect()
    cut_off = [stepped_values(collector.policy, [[k, n] for k in range(3)])[2] for n in (0, 2)]
    assert rollout.next_values[1, [0, 2]].tolist() == pytest.approx(cut_off, abs=1e-6)
    assert abs(cut_off[0] - cut_off[1]) > 1e-3


@pytest.mark.law("T5", "T15")
def test_the_value_behind_the_last_step_does_not_advance_what_is_carried() -> None:
    """One rollout of 4 steps ends in the state that two of 2 steps end in."""
    long, short = (collector_of(Ramp([9, 3], ["truncated"] * 2), n_steps=n, memory="gru") for n in (4, 2))
    long.collect()
    short.collect()
    short.collect()
    assert torch.allclose(long.state, short.state, atol=1e-6)
    assert torch.equal(short.state, short.collect().states[0])


@pytest.mark.law("T15")
def test_what_is_carried_to_the_next_rollout_is_nothing_where_an_episode_starts() -> None:
    """Environment 0 ends with the rollout, environment 1 goes on."""
    collector = collector_of(Ramp([4, 9], ["terminated"] * 2), n_steps=4)
    collector.collect()
    assert torch.equal(collector.state[0], torch.zeros(12))
    assert collector.state[1].abs().min() > 0


def test_sequences_are_cut_environment_by_environment_and_padded_at_the_end() -> None:
    """T = 5, L = 4, N = 2: sequences are steps 0-3 and 4 of each environment, which shows n in its second column."""
    collector = collector_of(Ramp([9, 9], ["terminated"] * 2), n_steps=5)
    batch = learner_of(collector).batch(rollout := collector.collect(), rollout.rewards)
    assert batch.shape == (4, 4)
    steps = batch.observations.view(4, 4, 2)
    assert steps[:, :, 0].t().tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 0, 0, 0], [4, 0, 0, 0]]
    assert steps[0, :, 1].tolist() == [0, 1, 0, 1]
    assert batch.mask is not None
    assert batch.mask.view(4, 4).t().tolist() == [[True] * 4] * 2 + [[True, False, False, False]] * 2
    assert torch.equal(batch.states[:2], torch.zeros(2, 12))
    assert batch.states[2:].abs().min() > 0


@pytest.mark.law("T15")
def test_an_epoch_shows_every_sequence_once_and_never_shuffles_its_steps() -> None:
    """7 sequences of 4 steps in minibatches of 8 rows: 2, 2, 2, 1."""
    collector = collector_of(Ramp([9] * 7, ["terminated"] * 7), n_steps=4)
    learner = learner_of(collector, batch_size=8)
    batch = learner.batch(rollout := collector.collect(), rollout.rewards)
    seen: list[float] = []
    sizes = []
    for minibatch in learner.minibatches(batch):
        length, count = minibatch.shape
        steps = minibatch.observations.view(length, count, 2)
        assert steps[:, :, 0].t().tolist() == [[0, 1, 2, 3]] * count
        assert (steps[:, :, 1] == steps[0, :, 1]).all()
        seen += steps[0, :, 1].tolist()
        sizes.append(count)
    assert sizes == [2, 2, 2, 1]
    assert sorted(seen) == list(range(7)) and seen != list(range(7))


@pytest.mark.law("T9", "T15")
def test_advantages_are_normalized_over_the_steps_of_each_minibatch_of_sequences() -> None:
    """5 steps in sequences of 4: half of the sequences are padded, and padding does not count."""
    collector = collector_of(Ramp([9] * 6, ["terminated"] * 6), n_steps=5)
    rollout = collector.collect()
    learners = {mode: learner_of(collector, batch_size=24, normalize_advantage=mode) for mode in ("minibatch", "off")}
    batches = {mode: learner.batch(rollout, rollout.rewards) for mode, learner in learners.items()}
    parts = zip(*(learners[mode].minibatches(batches[mode]) for mode in learners), strict=True)
    for normalized, plain in parts:
        assert normalized.mask is not None and 1 < normalized.mask.sum() < len(normalized.mask)
        expected = normalized_advantages(plain.advantages[normalized.mask])
        torch.testing.assert_close(normalized.advantages[normalized.mask], expected)
        assert plain.advantages[normalized.mask].mean() > 1


@pytest.mark.law("T15")
@pytest.mark.parametrize("poison", [float("nan"), 1e6])
def test_padding_and_reset_rows_change_nothing_to_the_bit(poison: float) -> None:
    """5 steps in sequences of 4, of next-step environments: 3 rows of padding each, and rows of resets."""

    def trained(numbers: float | None) -> torch.Tensor:
        environment = Ramp([2, 9], ["truncated", "terminated"], next_step=True)
        collector = collector_of(environment, n_steps=5)
        learner = learner_of(collector, batch_size=8, n_epochs=3, ent_coef=0.01)
        rollout = collector.collect()
        rewards = np.where(rollout.valid, rollout.rewards, 0.0)
        assert rollout.rewards[~rollout.valid].tolist() == [POISON]
        batch = learner.batch(rollout, rewards)
        assert batch.mask is not None and int((~batch.mask).sum()) == 7
        if numbers is not None:
            batch = poisoned(batch, numbers)
        learner.update(batch, coefficients(learner.ppo, 0.0))
        return learner.policy.flat.clone()

    def poisoned(batch: Sequences, numbers: float) -> Sequences:
        assert batch.mask is not None
        out = ~batch.mask
        parts = ("observations", "log_probs", "values", "advantages", "returns")
        columns = {name: getattr(batch, name).clone() for name in parts}
        for column in columns.values():
            column[out] = numbers
        return replace(batch, **columns)

    plain = trained(None)
    assert torch.isfinite(plain).all()
    assert torch.equal(trained(poison), plain)


def test_next_step_environments_are_learned_from_as_those_that_reset_at_once() -> None:
    """Episodes of 3 steps: 12 steps hold four of them, 16 of the other kind the same four and 4 reset rows."""
    steps = {}
    for next_step, n_steps in ((False, 12), (True, 16)):
        environment = Ramp([3, 3], ["truncated", "terminated"], next_step=next_step)
        collector = collector_of(environment, n_steps=n_steps, sequence_length=5)
        rollout = collector.collect()
        rewards = np.where(rollout.valid, rollout.rewards, 0.0)
        learner = learner_of(collector)
        batch = learner.batch(rollout, rewards).cleared()
        values = learner.forward(batch)[1]
        counted = slice(None) if batch.mask is None else batch.mask
        assert torch.allclose(values[counted], batch.values[counted], atol=1e-6)
        columns = (batch.observations[counted].tolist(), batch.values[counted].tolist())
        advantages = batch.advantages[counted].tolist()
        steps[next_step] = {(*o, round(v, 4), round(a, 3)) for o, v, a in zip(*columns, advantages, strict=True)}
        assert len(values[counted]) == 24
    assert steps[False] == steps[True] and len(steps[True]) == 6


def test_a_step_of_learning_is_that_of_backpropagation_through_all_steps() -> None:
    """Within a sequence nothing is truncated: the gradient is that of stepping with autograd, in float64."""
    collector = collector_of(Ramp([3, 9], ["truncated"] * 2), n_steps=6, sequence_length=6)
    learner = learner_of(collector)
    batch = learner.batch(rollout := collector.collect(), rollout.rewards)
    policy = collector.policy.double()
    batch = replace(batch, states=batch.states.double(), observations=batch.observations.double())
    weights = torch.from_numpy(generator(5).normal(size=12))
    outputs, values = learner.forward(batch)
    parameters = [parameter for parameter in policy.parameters() if parameter.numel()]
    ours = torch.autograd.grad((values * weights).sum() + (outputs[:, 0] * weights).sum(), parameters)
    state, loss = batch.states, torch.zeros((), dtype=torch.float64)
    for t in range(6):
        state = state * ~batch.starts.view(6, 2)[t][:, None]
        inputs = batch.observations.view(6, 2, 2)[t] @ policy.memory.input_weight.t() + policy.memory.bias
        h, c = state.chunk(2, dim=1)
        i, f, g, o = (inputs + h @ policy.memory.hidden_weight.t()).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        state = torch.cat([h, c], dim=1)
        outputs, values = policy.readout(h)
        loss = loss + ((values + outputs[:, 0]) * weights.view(6, 2)[t]).sum()
    for our, expected in zip(ours, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(our, expected, atol=1e-10, rtol=0)
