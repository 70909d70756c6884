"""Laws of the networks that make features of images and numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ppo_engine.convolutions import image_network
from ppo_engine.envs.spaces import ActionSpace, ObservationEncoder
from ppo_engine.images import Image
from ppo_engine.networks.extractors import Convolutions, pixels_of
from ppo_engine.networks.parameters import flatten_parameters, initialize
from ppo_engine.policy import Policy
from ppo_engine.spec import PolicySpec
from tests.ppo_engine.networks import references

CHOICES = ActionSpace("discrete", (3,), (), np.dtype(np.int64))
CPU = torch.device("cpu")


def image_space(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def policy_for(space: spaces.Space[Any], *, seed: int = 0, **spec: Any) -> Policy:
    encoder = ObservationEncoder(space)
    return Policy(
        PolicySpec(**spec), encoder.size, CHOICES, images=encoder.images, generator=np.random.default_rng(seed)
    )


def rows_of(space: spaces.Space[Any], rows: int = 3) -> torch.Tensor:
    space.seed(5)
    encoder = ObservationEncoder(space)
    return torch.from_numpy(np.stack([encoder.encode(space.sample()) for _ in range(rows)]))


def exact_tensors(policy: Policy) -> dict[str, references.Array]:
    return {name: array.astype(np.float64) for name, array in policy.arrays(policy.flat).items()}


def shaken(policy: Policy) -> Policy:
    """The policy with every parameter moved, so that biases, scales and shifts are numbers of their own."""
    policy.flat += 0.1 * torch.from_numpy(np.random.default_rng(3).normal(size=policy.flat.shape)).float()
    return policy


@pytest.mark.parametrize(
    ("network", "shape", "activation", "layer_norm"),
    [
        ("cnn", (36, 40, 2), "relu", False),
        ("cnn", (3, 44, 36), "gelu", True),
        ("cnn", (36, 36), "tanh", False),
        ("impala", (7, 6, 3), "relu", False),
        ("impala", (9, 5), "silu", True),
        ("impala", (2, 5, 5), "elu", False),
        ("impala", (1, 1), "leaky_relu", True),
    ],
)
def test_image_networks_compute_what_loops_over_windows_compute(
    network: str, shape: tuple[int, ...], activation: str, layer_norm: bool
) -> None:
    space = image_space(*shape)
    policy = shaken(policy_for(space, network=network, activation=activation, layer_norm=layer_norm))
    rows, [image] = rows_of(space, 2), policy.images
    for row, features in zip(rows.numpy(), policy.features(rows).detach().numpy(), strict=True):
        pixels = row.reshape(shape).astype(np.float64) / 255
        if not image.channels_first:
            pixels = pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1)
        reference = references.nature if network == "cnn" else references.impala
        expected = reference(pixels, exact_tensors(policy), activation, prefix="extractor/0", layer_norm=layer_norm)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("network", ["cnn", "impala"])
def test_an_image_is_the_same_with_its_channels_first_or_last(network: str, channels: int) -> None:
    last, first = image_space(40, 44, channels), image_space(channels, 40, 44)
    rows = rows_of(last)
    turned = rows.view(3, 40, 44, channels).permute(0, 3, 1, 2).reshape(3, -1)
    policies = [policy_for(space, network=network, activation="relu") for space in (last, first)]
    assert torch.equal(policies[0].flat, policies[1].flat)
    for given, expected in zip(policies[1](turned), policies[0](rows), strict=True):
        assert torch.equal(given, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels_first", [False, True])
def test_pixels_are_divided_by_255_once_and_stand_where_they_stood(dtype: torch.dtype, channels_first: bool) -> None:
    """51 / 255 = 0.2; the row begins with two numbers that belong to no image."""
    image = Image(2, height=2, width=3, channels=2, channels_first=channels_first)
    numbers = np.arange(12) * 5
    given = torch.tensor(np.concatenate([[7, 7], numbers, [9]])[None], dtype=dtype)
    expected = numbers.reshape(2, 2, 3) if channels_first else numbers.reshape(2, 3, 2).transpose(2, 0, 1)
    pixels = pixels_of(image, given)
    assert pixels.dtype == torch.float32
    np.testing.assert_array_equal(pixels[0].numpy(), expected.astype(np.float32) / np.float32(255))
    assert pixels_of(Image(0, 1, 1, 1, False), torch.tensor([[51]], dtype=dtype)).item() == pytest.approx(0.2)
    assert given[0].tolist() == [7, 7, *numbers.tolist(), 9]


MIXED = spaces.Dict(
    {
        "a": spaces.Box(-9, 9, (2,), np.float32),
        "b": image_space(36, 36, 1),
        "c": spaces.Tuple([spaces.Discrete(3), image_space(2, 37, 38)]),
        "d": spaces.Box(0, 255, (3,), np.uint8),
    }
)


def test_parts_of_a_dict_land_where_they_should() -> None:
    """512 features of each image in their order, then a, the choice and d: 2 + 3 + 3 numbers as they are."""
    policy = policy_for(MIXED, network="cnn", activation="relu")
    rows = rows_of(MIXED)
    features = policy.features(rows)
    image = 36 * 36
    assert features.shape == (3, 2 * 512 + 8)
    numbers = torch.cat([rows[:, :2], rows[:, 2 + image : 5 + image], rows[:, -3:]], dim=1)
    assert torch.equal(features[:, 1024:], numbers)
    assert [(each.offset, each.channels, each.channels_first) for each in policy.images] == [
        (2, 1, False),
        (5 + image, 2, True),
    ]
    # Each image moves its own features, and no others.
    for begin, end, moved in ((2, 2 + image, slice(0, 512)), (5 + image, rows.shape[1] - 3, slice(512, 1024))):
        other = rows.clone()
        other[:, begin:end] = 255 - other[:, begin:end]
        is_moved = (policy.features(other) != features).any(dim=0)
        assert is_moved[moved].any()
        is_moved[moved] = False
        assert not is_moved.any()


def test_what_is_no_image_to_the_network_is_numbers_to_it() -> None:
    """The 10 x 10 picture is too small for the convolutions of cnn, but not for those of impala."""
    space = spaces.Tuple([image_space(10, 10), image_space(36, 36)])
    assert [image.height for image in policy_for(space, network="cnn").images] == [36]
    assert policy_for(space, network="cnn").features(rows_of(space)).shape == (3, 512 + 100)
    assert [image.height for image in policy_for(space, network="impala").images] == [10, 36]
    numbers = policy_for(space, network="mlp")
    assert numbers.images == () and torch.equal(numbers.features(rows_of(space)), rows_of(space).float())


@pytest.mark.parametrize(("network", "shape"), [("impala", (5, 4)), ("cnn", (36, 36))])
def test_gradients_are_those_of_finite_differences(network: str, shape: tuple[int, int]) -> None:
    spec = PolicySpec(network=network, activation="silu", layer_norm=True)
    layers = image_network(spec.network, Image(0, *shape, 1, False), prefix="x", layer_norm=True)
    module = Convolutions(layers, spec, CPU)
    flat, _ = flatten_parameters(module, CPU)
    initialize(module, flat, np.random.default_rng(0))
    module.double()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 1, *shape, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, layers.shape[0], generator=generator, dtype=torch.float64)
    parameters = list(module.parameters())
    gradients = torch.autograd.grad((module(pixels) * weights).sum(), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            losses = []
            for step in (1e-6, -2e-6):
                parameter += step * direction
                losses.append((module(pixels) * weights).sum())
            parameter += 1e-6 * direction
            slope = (losses[0] - losses[1]) / 2e-6
            torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("network", ["cnn", "impala"])
def test_gradients_of_all_parameters_arrive_in_the_flat_buffer(network: str) -> None:
    policy = policy_for(image_space(36, 36, 3), network=network, activation="elu", layer_norm=True)
    rows = rows_of(image_space(36, 36, 3))

    def loss() -> torch.Tensor:
        outputs, values = policy(rows)
        return outputs.square().sum() + values.sum()

    used = [parameter for parameter in policy.parameters() if parameter.numel()]
    expected = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss(), used)])
    loss().backward()
    assert torch.equal(policy.gradients, expected)
    assert sum(view.numel() for view in policy.named_views(policy.flat).values()) == policy.flat.numel()


@pytest.mark.parametrize("network", ["cnn", "impala"])
def test_kernels_begin_orthogonal_with_the_gain_of_their_place(network: str) -> None:
    """√2 after an activation; 1 before a pool of IMPALA's; √2/√6 at the end of each of its six residuals."""
    policy = policy_for(image_space(36, 36, 3), network=network)
    tensors = exact_tensors(policy)
    gains = [math.sqrt(2)] * 4
    if network == "impala":
        gains = [1.0, *[math.sqrt(2), math.sqrt(1 / 3)] * 2] * 3 + [math.sqrt(2)]
    for layer, gain in enumerate(gains):
        weight = tensors[f"extractor/0/{layer}/weight"]
        rows = weight.reshape(len(weight), -1) / gain
        small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)
        assert not tensors[f"extractor/0/{layer}/bias"].any()


def test_bfloat16_computes_the_convolutions_of_training_and_nothing_that_is_exported() -> None:
    space = image_space(36, 36, 3)
    encoder, numbers = ObservationEncoder(space), ActionSpace("box", (2,), (2,), np.dtype(np.float32))
    plain, fast = (
        Policy(
            PolicySpec(network="cnn", activation="relu", autocast=mode),
            encoder.size,
            numbers,
            images=encoder.images,
            generator=np.random.default_rng(0),
        )
        for mode in ("off", "bf16")
    )
    rows = rows_of(space)
    exact, rounded = plain.features(rows).detach(), fast.features(rows).detach()
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    # bfloat16 has 8 bits: each of four layers is off by 2⁻⁹ of its numbers' size, or so.
    assert torch.allclose(exact, rounded, atol=0.05 * float(exact.abs().max()))
    assert np.array_equal(fast.deterministic_actions(rows.numpy()), plain.deterministic_actions(rows.numpy()))
    assert not torch.equal(fast(rows)[0], plain(rows)[0])
    assert all(parameter.dtype == torch.float32 for parameter in fast.parameters())
