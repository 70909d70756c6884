"""A number that is not finite ends the training in the iteration in which it comes up, in the words of the torch path.

Compiled code is allowed to take sums in any order. It is not allowed to think that every number is finite.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppo_engine.errors import TrainingDiverged
from ppo_engine.fused.finite import all_finite
from ppo_engine.fused.functions import exp, tanh
from ppo_engine.rollout import Rollout
from ppo_engine.spec import KLAdaptiveRate, KLPenaltySpec
from tests.ppo_engine.fused.cases import (
    HEADS,
    Case,
    Script,
    as_fused,
    case_of,
    fused_collector,
    learners,
    older_rollout,
    torch_collector,
)


def messages_of_learners(case: Case, rollout: Rollout) -> tuple[str, str]:
    """What the torch and the fused learner die of."""
    answers = []
    for learner, given in zip(learners(case), (rollout, as_fused(rollout)), strict=True):
        with pytest.raises(TrainingDiverged) as caught:
            learner.learn(given, given.rewards, case.now)
        answers.append(str(caught.value))
    return answers[0], answers[1]


def messages_of_collectors(case: Case, *, tensor: str, poison: float) -> tuple[str, str]:
    """What both collectors die of when a number of a policy's tensor, its first, is `poison`."""
    answers = []
    for collector in (torch_collector(case), fused_collector(case)):
        collector.policy.named_views(collector.policy.flat)[tensor].view(-1)[0] = poison
        with pytest.raises(TrainingDiverged) as caught:
            collector.collect()
        answers.append(str(caught.value))
    return answers[0], answers[1]


@pytest.mark.parametrize("objective", ["clip", "dual_clip", "kl_penalty"])
@pytest.mark.parametrize(
    ("field", "poison"),
    [
        *(("rewards", math.nan), ("rewards", math.inf), ("rewards", -math.inf), ("rewards", 1e300)),
        *(("observations", math.nan), ("observations", math.inf), ("observations", -math.inf)),
        *(("values", math.nan), ("values", math.inf), ("values", -math.inf)),
        *(("next_values", math.nan), ("next_values", math.inf), ("next_values", -math.inf)),
        *(("log_probs", math.nan), ("log_probs", math.inf)),
    ],
)
def test_a_poisoned_rollout_is_named_alike(field: str, poison: float, objective: str) -> None:
    """1e300 is a reward that float64 can hold, and float32 cannot."""
    case = case_of(objective=objective, kl_penalty=KLPenaltySpec() if objective == "kl_penalty" else None)
    rollout = older_rollout(case)
    t, env = np.argwhere(~rollout.terminated)[17]
    poisoned = torch.as_tensor(getattr(rollout, field)).clone()
    poisoned[t, env] = poison
    column = poisoned.numpy() if field == "rewards" else poisoned
    theirs, ours = messages_of_learners(case, replace(rollout, **{field: column}))
    assert ours == theirs
    assert " of the update" in ours


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_penalty_that_is_not_finite_is_named_alike(head: str, poison: float) -> None:
    case = case_of(head, kl_penalty=KLPenaltySpec())
    theirs, ours = messages_of_learners(case, with_first_output(older_rollout(case), poison))
    assert ours == theirs
    assert ours.startswith(("loss is nan", "loss is inf"))


@pytest.mark.parametrize("head", HEADS)
def test_a_kl_that_is_not_finite_is_named_alike(head: str) -> None:
    """Nothing but the rate needs it, so that it is first looked at when the update is done."""
    case = case_of(head, learning_rate=KLAdaptiveRate(kind="kl_adaptive"))
    theirs, ours = messages_of_learners(case, with_first_output(older_rollout(case), math.nan))
    assert ours == theirs == "the KL between the policies before and after the update is nan"


def with_first_output(rollout: Rollout, number: float) -> Rollout:
    """The same rollout, of a policy that gave one such number."""
    outputs = rollout.outputs.clone()
    outputs[3, 1, 0] = number
    return replace(rollout, outputs=outputs)


@pytest.mark.parametrize("mode", ["minibatch", "batch", "off"])
def test_an_advantage_that_is_not_finite_is_named_alike_however_they_are_normalized(mode: str) -> None:
    case = case_of(normalize_advantage=mode)
    rollout = older_rollout(case)
    rollout.rewards[3, 2] = math.inf
    theirs, ours = messages_of_learners(case, rollout)
    assert ours == theirs


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("head", HEADS)
def test_a_weight_that_is_no_number_is_found_in_the_rollout(head: str, activation: str) -> None:
    case = case_of(head, activation=activation)
    for tensor in ("actor/0/weight", "actor/1/bias", "actor/2/weight", "critic/0/bias", "critic/2/weight"):
        theirs, ours = messages_of_collectors(case, tensor=tensor, poison=math.nan)
        assert ours == theirs
        part = "output of the policy" if tensor.startswith("actor") else "value"
        assert ours == f"{part} of environment 0 is not finite at step 0 of the rollout"


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_an_overflow_inside_a_layer_is_found_in_the_rollout(activation: str) -> None:
    """Sums of products with 3e38 are infinite; relu hands that on, and tanh gives the next layer 1 to do the same."""
    case = case_of(activation=activation)
    for collector in (torch_collector(case), fused_collector(case)):
        views = collector.policy.named_views(collector.policy.flat)
        for tensor in ("actor/0/weight", "actor/1/weight", "actor/2/weight"):
            views[tensor].mul_(3e38 / views[tensor].abs().max())
        with pytest.raises(TrainingDiverged, match=r"^output of the policy of environment . is not finite at step"):
            collector.collect()


def test_environments_are_given_what_is_no_number_as_it_is() -> None:
    case = case_of("squashed_gaussian")
    for collector in (torch_collector(case), fused_collector(case)):
        collector.policy.flat.fill_(math.nan)
        with pytest.raises(TrainingDiverged):
            collector.collect()
        assert np.isnan(collector.environment.actions[0]).all()


@pytest.mark.parametrize(
    ("name", "poison"), [("observations", math.nan), ("observations", math.inf), ("rewards", -math.inf)]
)
def test_what_environments_must_not_give_is_found_in_the_rollout(name: str, poison: float) -> None:
    answers = []
    for collector in (torch_collector(case_of()), fused_collector(case_of())):
        script: Script = collector.environment
        getattr(script, name)[9, 2] = poison
        with pytest.raises(TrainingDiverged) as caught:
            collector.collect()
        answers.append(str(caught.value))
    named = name.removesuffix("s")
    assert answers == [f"{named} of environment 2 is not finite at step 9 of the rollout"] * 2


def test_the_values_after_the_last_step_and_of_final_observations_are_looked_at() -> None:
    """10 times 1e38 is infinite."""
    case = case_of(activation="relu", hidden_sizes=(5,))
    t, env = np.argwhere((Script(case).truncated & ~Script(case).terminated)[:16])[0]
    for collector in (torch_collector(case), fused_collector(case)):
        views = collector.policy.named_views(collector.policy.flat)
        views["critic/0/weight"].fill_(10.0)
        collector.environment.finals[t, env] = 1e38
        with pytest.raises(TrainingDiverged, match=rf"^value of a final observation of environment {env} .* step {t} "):
            collector.collect()
    for collector in (torch_collector(case), fused_collector(case)):
        views = collector.policy.named_views(collector.policy.flat)
        views["critic/0/weight"].fill_(10.0)
        collector.environment.observations[16, 1] = 1e38
        with pytest.raises(TrainingDiverged, match=r"^(output of the policy|value) of environment 1 .* step 16 "):
            collector.collect()


@pytest.mark.parametrize("n_epochs", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [24, 48])
def test_a_gradient_whose_norm_overflows_is_found_in_its_minibatch(n_epochs: int, batch_size: int) -> None:
    """An error of 1e19 has a square that float32 can hold; times a feature of 1000 the gradient's has none.

    Be it in the last minibatch of an epoch that is not the last one.
    """
    case = case_of(hidden_sizes=(), n_epochs=n_epochs, batch_size=batch_size, gamma=0.0, vf_coef=1.0)
    rollout = older_rollout(case)
    assert isinstance(rollout.observations, torch.Tensor)
    observations = rollout.observations.clone()
    observations[5, 1] = 1000.0
    rollout.rewards[5, 1] = 1e19
    theirs, ours = messages_of_learners(case, replace(rollout, observations=observations))
    assert ours == theirs
    assert ours.startswith("the gradient's norm is inf in minibatch")


@pytest.mark.parametrize("tensor", ["actor/0/weight", "critic/2/bias"])
def test_a_weight_that_a_step_made_infinite_is_named(tensor: str) -> None:
    case = case_of(n_epochs=1, batch_size=48)
    rollout = older_rollout(case)
    answers = []
    for learner, given in zip(learners(case), (rollout, as_fused(rollout)), strict=True):
        learner.policy.named_views(learner.adam.m)[tensor].view(-1)[0] = math.inf
        with pytest.raises(TrainingDiverged) as caught:
            learner.learn(given, given.rewards, case.now)
        answers.append(str(caught.value))
    assert answers == [f"policy/{tensor} is not finite after the update"] * 2


def test_approx_kl_that_is_not_finite_is_no_early_stop() -> None:
    """An action that had been as good as impossible: exp(-inf) is a ratio of 0, and log 0 a divergence of infinity."""
    case = case_of(target_kl=0.01)
    rollout = older_rollout(case)
    assert isinstance(rollout.log_probs, torch.Tensor)
    log_probs = rollout.log_probs.clone()
    log_probs[2, 2] = math.inf
    theirs, ours = messages_of_learners(case, replace(rollout, log_probs=log_probs))
    assert ours == theirs
    assert ours.startswith("approx_kl is inf in minibatch")


@pytest.mark.parametrize("position", range(0, 70, 3))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(position: int, dtype: type) -> None:
    numbers = np.full(70, np.finfo(dtype).max, dtype)
    assert all_finite(numbers)
    for poison in (math.nan, math.inf, -math.inf):
        numbers[position] = poison
        assert not all_finite(numbers)


def test_elementary_functions_are_exact_to_some_units_in_the_last_place() -> None:
    numbers = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 80, 500)]).astype(np.float32)
    assert max(abs(tanh(x) - math.tanh(x)) for x in numbers) < 4e-7
    exponents = numbers[np.abs(numbers) < 80]
    assert max(abs(exp(x) / math.exp(x) - 1) for x in exponents) < 3e-7


def test_elementary_functions_at_the_edges() -> None:
    assert np.isnan(tanh(np.float32(math.nan))) and np.isnan(exp(np.float32(math.nan)))
    assert tanh(np.float32(math.inf)) == pytest.approx(1.0) and tanh(np.float32(-math.inf)) == pytest.approx(-1.0)
    assert 0 <= exp(np.float32(-math.inf)) < 1e-37 and exp(np.float32(math.inf)) > 1e38
