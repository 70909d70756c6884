"""Laws of activations and layer norm, in torch and in NumPy."""

import numpy as np
import pytest
import torch

from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.inference import activation_of
from ppo_engine.networks.activations import activation_for
from ppo_engine.policy import Policy
from ppo_engine.spec import ActivationName, PolicySpec
from tests.ppo_engine.networks import references

ACTIVATIONS: tuple[ActivationName, ...] = ("tanh", "relu", "elu", "silu", "gelu", "leaky_relu")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_their_formulas_say(name: ActivationName) -> None:
    x = np.linspace(-90, 90, 3001, dtype=np.float32)
    expected = [references.activation(name)(float(number)) for number in x]
    computed = activation_for(name, torch.device("cpu"))(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=2e-6)
    in_numpy = activation_of(name)(x)
    assert in_numpy.dtype == np.float32
    np.testing.assert_allclose(in_numpy, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("share_features", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layer_norm_stands_between_each_hidden_layer_and_its_activation(
    name: ActivationName, share_features: bool
) -> None:
    spec = PolicySpec(hidden_sizes=(6, 5), activation=name, layer_norm=True, share_features=share_features)
    space = ActionSpace("discrete", (3,), (), np.dtype(np.int64))
    policy = Policy(spec, 4, space, generator=np.random.default_rng(0))
    policy.flat += 0.3 * torch.from_numpy(np.random.default_rng(1).normal(size=policy.flat.shape)).float()
    tensors = {key: array.astype(np.float64) for key, array in policy.arrays(policy.flat).items()}
    x = np.random.default_rng(2).normal(size=(5, 4))
    outputs, values = policy(torch.from_numpy(x.astype(np.float32)))
    activation = np.vectorize(references.activation(name))
    head = 0 if share_features else 2
    for network, given in (("actor", outputs), ("critic", values[:, None])):
        trunk = "trunk" if share_features else network
        for row, expected in zip(x, given.detach().numpy(), strict=True):
            features = row
            for layer in range(2):
                part = {kind: tensors[f"{trunk}/{layer}/{kind}"] for kind in ("weight", "bias", "scale", "shift")}
                features = part["weight"] @ features + part["bias"]
                features = activation(references.norm(features, part["scale"], part["shift"]))
            result = tensors[f"{network}/{head}/weight"] @ features + tensors[f"{network}/{head}/bias"]
            np.testing.assert_allclose(expected, result, rtol=1e-5, atol=1e-5)


def test_layer_norm_begins_as_the_identity_after_normalising() -> None:
    spec = PolicySpec(hidden_sizes=(6,), layer_norm=True)
    space = ActionSpace("discrete", (3,), (), np.dtype(np.int64))
    tensors = (policy := Policy(spec, 4, space, generator=np.random.default_rng(0))).named_views(policy.flat)
    assert tensors["actor/0/scale"].tolist() == [1.0] * 6 and tensors["critic/0/shift"].tolist() == [0.0] * 6
