import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ppo_engine.envs.spaces import ActionKind, ActionSpace
from ppo_engine.networks.activations import tanh_for
from ppo_engine.networks.initialization import orthogonal
from ppo_engine.policy import Policy
from ppo_engine.spec import InvalidSpec, PolicySpec

SPACES: dict[ActionKind, tuple[int, ...]] = {
    "discrete": (3,),
    "multi_discrete": (2, 3),
    "multi_binary": (2, 2, 2),
    "box": (2,),
}


def make_policy(kind: ActionKind = "discrete", *, seed: int = 0, **spec) -> Policy:
    space = ActionSpace(kind, SPACES[kind], (), np.dtype(np.float32 if kind == "box" else np.int64))
    return Policy(PolicySpec(**spec), 4, space, generator=np.random.default_rng(seed))


def observations(rows: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(9).normal(size=(rows, 4)).astype(np.float32))


def plain_forward(policy: Policy, x: torch.Tensor, network: str) -> torch.Tensor:
    """The network layer by layer, from the tensors that a checkpoint names."""
    tensors = policy.named_views(policy.flat)
    activation = torch.tanh if policy.spec.activation == "tanh" else torch.relu
    names = [name.removesuffix("/weight") for name in tensors if name.endswith("/weight")]
    layers = [name for name in names if name.startswith("trunk/")] + [n for n in names if n.startswith(f"{network}/")]
    for name in layers[:-1]:
        x = activation(F.linear(x, tensors[f"{name}/weight"], tensors[f"{name}/bias"]))
    return F.linear(x, tensors[f"{layers[-1]}/weight"], tensors[f"{layers[-1]}/bias"])


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("share_features", [False, True])
@pytest.mark.parametrize(("hidden_sizes", "activation"), [((64, 32), "tanh"), ((7,), "relu"), ((), "tanh")])
def test_the_stacked_networks_compute_what_their_single_layers_say(kind, share_features, hidden_sizes, activation):
    policy = make_policy(kind, share_features=share_features, hidden_sizes=hidden_sizes, activation=activation)
    outputs, values = policy(observations())
    assert torch.allclose(outputs, plain_forward(policy, observations(), "actor"), atol=1e-6)
    assert torch.allclose(values, plain_forward(policy, observations(), "critic").squeeze(1), atol=1e-6)
    assert torch.equal(policy.values(observations()), values)


def test_parameters_are_views_of_one_flat_buffer_without_gaps() -> None:
    policy = make_policy("box")
    assert sum(parameter.numel() for parameter in policy.parameters()) == policy.flat.numel()
    policy.flat.fill_(0.25)
    assert all((parameter == 0.25).all() for parameter in policy.parameters())
    assert sum(view.numel() for view in policy.named_views(policy.flat).values()) == policy.flat.numel()


def test_gradients_of_all_parameters_arrive_in_one_flat_buffer() -> None:
    policy = make_policy("box", hidden_sizes=(8, 8))
    actions = torch.zeros(5, 2)

    def loss() -> torch.Tensor:
        log_probs, entropies, values = policy.evaluate_actions(observations(), actions)
        return (log_probs + 0.1 * entropies + values).mean()

    expected = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss(), list(policy.parameters()))])
    loss().backward()
    assert torch.equal(policy.gradients, expected)
    assert (policy.gradients != 0).float().mean() > 0.9


def test_names_of_tensors_are_those_that_checkpoints_promise() -> None:
    separate = make_policy("box", hidden_sizes=(8, 6))
    assert {name: tuple(view.shape) for name, view in separate.named_views(separate.flat).items()} == {
        "actor/0/weight": (8, 4),
        "critic/0/weight": (8, 4),
        "actor/0/bias": (8,),
        "critic/0/bias": (8,),
        "actor/1/weight": (6, 8),
        "critic/1/weight": (6, 8),
        "actor/1/bias": (6,),
        "critic/1/bias": (6,),
        "actor/2/weight": (2, 6),
        "actor/2/bias": (2,),
        "critic/2/weight": (1, 6),
        "critic/2/bias": (1,),
        "log_std": (2,),
    }
    assert separate.layer_names() == ("actor/0", "actor/1", "actor/2")
    shared = make_policy(hidden_sizes=(8, 6), share_features=True)
    assert list(shared.named_views(shared.flat)) == [
        *("trunk/0/weight", "trunk/0/bias", "trunk/1/weight", "trunk/1/bias"),
        *("actor/0/weight", "actor/0/bias", "critic/0/weight", "critic/0/bias"),
    ]
    assert shared.layer_names() == ("trunk/0", "trunk/1", "actor/0")


@pytest.mark.law("T17")
@pytest.mark.parametrize("share_features", [False, True])
def test_initial_weights_are_orthogonal_with_their_layers_gain_and_biases_zero(share_features: bool) -> None:
    policy = make_policy("box", hidden_sizes=(64, 32), share_features=share_features, log_std_init=-0.5)
    last = policy.layer_names()[-1].split("/")[1]
    for name, view in policy.named_views(policy.flat).items():
        if name.endswith("/bias"):
            assert not view.any()
        elif name == "log_std":
            assert view.tolist() == [-0.5, -0.5]
        else:
            heads = {f"actor/{last}/weight": 0.01, f"critic/{last}/weight": 1.0}
            gain = heads.get(name, math.sqrt(2))
            weight = view.double() / gain
            small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
            assert torch.allclose(small, torch.eye(len(small), dtype=torch.float64), atol=1e-5)


def test_orthogonal_matrices_are_spread_over_both_signs() -> None:
    """A bare QR decomposition would give the first column a negative first entry most of the time."""
    entries = [orthogonal(np.random.default_rng(seed), (3, 3), 1.0)[0, 0] for seed in range(400)]
    assert np.mean(np.array(entries) > 0) == pytest.approx(0.5, abs=0.1)


def test_the_same_stream_gives_the_same_weights_and_another_gives_others() -> None:
    assert torch.equal(make_policy(seed=3).flat, make_policy(seed=3).flat)
    assert not torch.equal(make_policy(seed=3).flat, make_policy(seed=4).flat)


@pytest.mark.parametrize("kind", SPACES)
def test_acting_and_evaluating_agree_on_the_log_prob_of_an_action(kind: ActionKind) -> None:
    policy = make_policy(kind)
    noise = torch.from_numpy(policy.distribution.noise(np.random.default_rng(0), (5,)))
    actions, outputs, values = policy.act(observations(), noise)
    log_probs, entropies, again = policy.evaluate_actions(observations(), actions)
    expected, _ = policy.distribution.log_probs_and_entropies(outputs, policy.log_std, actions)
    assert actions.shape == (5, policy.distribution.columns)
    assert log_probs.shape == entropies.shape == values.shape == (5,)
    assert torch.equal(log_probs, expected) and torch.equal(values, again)


@pytest.mark.parametrize("kind", SPACES)
def test_deterministic_actions_are_the_likeliest(kind: ActionKind) -> None:
    policy = make_policy(kind)
    policy.flat.mul_(5.0)
    rows = policy.deterministic_actions(observations().numpy())
    best, _, _ = policy.evaluate_actions(observations(), torch.from_numpy(rows))
    for seed in range(20):
        noise = torch.from_numpy(policy.distribution.noise(np.random.default_rng(seed), (5,)))
        other, _, _ = policy.evaluate_actions(observations(), policy.act(observations(), noise)[0])
        assert (best >= other - 1e-6).all()


ASYMMETRIC = ActionSpace("box", (2,), (2,), np.dtype(np.float32), np.float32([-3, 0]), np.float32([1, 10]))


def squashing_policy(space: ActionSpace = ASYMMETRIC, *, squash_output: bool = True) -> Policy:
    spec = PolicySpec(squash_output=squash_output)
    return Policy(spec, 4, space, generator=np.random.default_rng(0))


def test_a_squashing_policy_hands_out_tanh_of_its_numbers_scaled_to_the_bounds() -> None:
    """Bounds -3 to 1 and 0 to 10: -1 + 2 tanh u and 5 + 5 tanh u. The mean's is the deterministic action."""
    policy, plain = squashing_policy(), squashing_policy(squash_output=False)
    assert torch.equal(policy.flat, plain.flat)
    u = torch.tensor([[0.5, -2.0], [30.0, -30.0]])
    expected = [[-1 + 2 * math.tanh(0.5), 5 + 5 * math.tanh(-2)], [1.0, 0.0]]
    assert policy.environment_rows(u) == pytest.approx(np.array(expected), abs=1e-6)
    assert plain.environment_rows(u).tolist() == u.tolist()
    means = plain.deterministic_actions(observations().numpy())
    assert policy.deterministic_actions(observations().numpy()) == pytest.approx(
        np.array([-1, 5]) + np.array([2, 5]) * np.tanh(means), abs=1e-6
    )


def test_a_squashing_policy_samples_the_same_numbers_and_knows_how_likely_their_tanh_is() -> None:
    policy, plain = squashing_policy(), squashing_policy(squash_output=False)
    noise = torch.from_numpy(policy.distribution.noise(np.random.default_rng(0), (5,)))
    u, _, _ = policy.act(observations(), noise)
    assert torch.equal(u, plain.act(observations(), noise)[0])
    log_probs, _, _ = policy.evaluate_actions(observations(), u)
    unsquashed, _, _ = plain.evaluate_actions(observations(), u)
    assert torch.allclose(log_probs, unsquashed - torch.log(1 - torch.tanh(u) ** 2).sum(1), atol=1e-5)


@pytest.mark.parametrize(
    "space",
    [
        ActionSpace("discrete", (3,), (), np.dtype(np.int64)),
        ActionSpace("box", (1,), (1,), np.dtype(np.float32), np.float32([0]), np.float32([np.inf])),
    ],
)
def test_squashing_what_has_no_finite_bounds_is_refused(space: ActionSpace) -> None:
    with pytest.raises(InvalidSpec) as refused:
        squashing_policy(space)
    assert [fault.pointer for fault in refused.value.faults] == ["/policy/squash_output"]


def test_tanh_and_its_gradient_are_those_of_torch() -> None:
    x = torch.linspace(-12, 12, 1001, requires_grad=True)
    ours, theirs = tanh_for(torch.device("cpu"))(x), torch.tanh(x)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)
