"""An optimiser of the critic's own: its rate, its epochs, and what it leaves alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppo_engine.adam import Adam, PartedAdam
from ppo_engine.critic import critic_parameters
from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.policy import Policy
from ppo_engine.schedules import coefficients
from ppo_engine.spec import InvalidSpec, PolicySpec, PPOSpec
from ppo_engine.update import Learner
from tests.ppo_engine.learning import batch_for, learner_of


def parts_of(learner: Learner, flat: Tensor) -> tuple[list[float], list[float]]:
    """The actor's numbers and the critic's."""
    is_critic = critic_parameters(learner.policy)
    return flat[~is_critic].tolist(), flat[is_critic].tolist()


def test_each_part_steps_as_an_adam_of_its_own() -> None:
    """Three steps of one part and one of the other, beside torch's Adam on each part alone."""
    is_critic = torch.tensor([False, True, False, True, True])
    flat, draw = torch.linspace(-1, 1, 5), torch.Generator().manual_seed(0)
    adam = PartedAdam(flat, is_critic)
    actor, critic = (flat[part].clone().requires_grad_() for part in (~is_critic, is_critic))
    theirs = [torch.optim.Adam([part], lr=rate, eps=1e-5) for part, rate in ((actor, 0.1), (critic, 0.3))]
    for step in range(3):
        gradients = torch.randn(5, generator=draw)
        adam.step_actor(gradients, 0.1)
        actor.grad = gradients[~is_critic]
        theirs[0].step()
        if step == 1:
            adam.step_critic(gradients, 0.3)
            critic.grad = gradients[is_critic]
            theirs[1].step()
    assert (adam.steps, adam.critic_steps) == (3, 1)
    torch.testing.assert_close(flat[~is_critic], actor.detach())
    torch.testing.assert_close(flat[is_critic], critic.detach())


def test_a_critic_with_the_actors_rate_and_epochs_learns_what_it_learns_without_an_optimiser_of_its_own() -> None:
    flats = []
    for critic in ({}, {"learning_rate": 3e-4}, {"n_epochs": 4}):
        learner = learner_of(batch_size=20, n_epochs=4, critic=critic)
        learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
        assert type(learner.adam) is (PartedAdam if critic else Adam)
        flats.append(learner.policy.flat.clone())
    torch.testing.assert_close(flats[1], flats[0], atol=1e-7, rtol=1e-6)
    assert torch.equal(flats[1], flats[2])


def test_the_rate_of_the_critic_moves_the_critic_alone() -> None:
    """Adam's first step has the length of the rate, whatever the gradient: ten times as long for the critic."""
    learner = learner_of(batch_size=48, n_epochs=1, critic={"learning_rate": 3e-3})
    before = [np.array(part) for part in parts_of(learner, learner.policy.flat)]
    metrics = learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
    after = [np.array(part) for part in parts_of(learner, learner.policy.flat)]
    actor, critic = (np.abs(new - old).max() for new, old in zip(after, before, strict=True))
    assert actor == pytest.approx(3e-4, rel=0.05) and critic == pytest.approx(3e-3, rel=0.05)
    assert metrics["train/critic_learning_rate"] == 3e-3


@pytest.mark.parametrize(
    ("critic_epochs", "actor_steps", "critic_steps"), [(5, 2 * 3, 5 * 3), (1, 2 * 3, 1 * 3), (2, 2 * 3, 2 * 3)]
)
def test_the_critic_learns_for_its_own_number_of_epochs(
    critic_epochs: int, actor_steps: int, critic_steps: int
) -> None:
    """Three minibatches each, two epochs of the actor. Epochs that are not its own leave a part to the bit."""
    learner = learner_of(batch_size=16, n_epochs=2, critic={"n_epochs": critic_epochs})
    adam = learner.adam
    assert isinstance(adam, PartedAdam)
    metrics = learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
    assert (adam.steps, adam.critic_steps) == (actor_steps, critic_steps)
    assert learner.scalars() == {"critic_steps": critic_steps}
    assert metrics["train/value_loss"] > 0


@pytest.mark.parametrize(("critic_epochs", "part"), [(1, 1), (6, 0)])
def test_epochs_of_one_part_leave_the_other_to_the_bit(critic_epochs: int, part: int) -> None:
    """Two epochs of both, or of one: what the critic does after its first, or the actor after its second, is nothing.

    Reset to the same order of rows, the part that stops has then learned from exactly the same.
    """
    learners = [learner_of(batch_size=16, n_epochs=2, critic={"n_epochs": epochs}) for epochs in (critic_epochs, 2)]
    if part == 1:
        learners[1] = learner_of(batch_size=16, n_epochs=1, critic={"n_epochs": 1})
    for learner in learners:
        learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
    first, second = (parts_of(learner, learner.policy.flat) for learner in learners)
    assert first[part] == second[part] and first[1 - part] != second[1 - part]


def test_target_kl_ends_the_actors_epochs_and_not_those_that_the_critic_has_for_itself() -> None:
    settings: dict[str, Any] = {"batch_size": 48, "n_epochs": 3, "learning_rate": 0.1, "target_kl": 1e-4}
    learner = learner_of(**settings, critic={"n_epochs": 5})
    learner.update(batch_for(learner), coefficients(learner.ppo, 0.0))
    assert isinstance(learner.adam, PartedAdam)
    assert (learner.adam.steps, learner.adam.critic_steps) == (1, 1 + 3)


def test_a_critic_that_shares_layers_has_no_optimiser_of_its_own() -> None:
    space = ActionSpace("discrete", (2,), (), np.dtype(np.int64))
    policy = Policy(PolicySpec(share_features=True), 3, space, generator=np.random.default_rng(0))
    ppo = PPOSpec.model_validate({"critic": {"n_epochs": 3}})
    with pytest.raises(InvalidSpec, match="/ppo/critic: one step moves trunk/0/weight"):
        Learner(policy, ppo, np.random.default_rng(0))
