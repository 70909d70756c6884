"""How big a training is, and how big it may be."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ppo_engine.convolutions import ImageNetwork, image_networks
from ppo_engine.images import Image, images_of, network_for, seen_as_images
from ppo_engine.spec import EnvironmentDescription, SpecFault, TrainingSpec

MAX_ROLLOUT_VALUES = 2**29
"""Numbers of one rollout (2 GiB in float32): `n_envs * n_steps` rows of observation, final observation and scalars."""
MAX_PARAMETERS = 100_000_000
"""Weights of one policy; gradients and Adam's moments take three times as much again."""
MAX_MINIBATCH_VALUES = 2**30
"""Numbers that the layers for images give for one minibatch (4 GiB), all of which its gradient needs."""
BYTES_PER_VALUE = 4
SCALARS_PER_STEP = 8
"""Reward, value, next value, log-probability, advantage, return and the two ends of a step."""


def budget_faults(spec: TrainingSpec, environment: EnvironmentDescription | None) -> list[SpecFault]:
    """What of a spec is too big: its rollout or its policy."""
    observation_size = spec.env.frame_stack * environment.observation_size if environment else 1
    action_size = environment.action_size if environment else 1
    images = _stacked_images(spec, environment) if environment else ()
    faults = []
    row = _row_values(spec, observation_size, images)
    values = spec.env.n_envs * spec.ppo.n_steps * (2 * row + action_size + SCALARS_PER_STEP)
    if spec.policy.use_sde:
        values += _noise_values(spec, _trunk_widths(spec, observation_size, images)[-1], action_size)
    values += _state_values(spec)
    if values > MAX_ROLLOUT_VALUES:
        faults.append(
            SpecFault("/ppo/n_steps", f"a rollout of {values} numbers is beyond the budget of {MAX_ROLLOUT_VALUES}")
        )
    activations = spec.ppo.batch_size * sum(network.activations for network in _image_networks(spec, images))
    if activations > MAX_MINIBATCH_VALUES:
        message = f"{activations} numbers of a minibatch's layers are beyond the budget of {MAX_MINIBATCH_VALUES}"
        faults.append(SpecFault("/ppo/batch_size", message))
    parameters = parameter_count(spec, observation_size, action_size, images)
    if parameters > MAX_PARAMETERS:
        faults.append(
            SpecFault("/policy/hidden_sizes", f"{parameters} parameters are beyond the budget of {MAX_PARAMETERS}")
        )
    return faults


def parameter_count(spec: TrainingSpec, observation_size: int, action_size: int, images: Sequence[Image] = ()) -> int:
    """Weights and biases of actor and critic, for observations with these images."""
    widths = _trunk_widths(spec, observation_size, images)
    norms = 2 * sum(spec.policy.hidden_sizes) if spec.policy.layer_norm else 0
    trunk = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths)) + norms
    outputs = action_size * (2 if spec.policy.state_dependent_std else 1)
    heads = (widths[-1] + 1) * (outputs + 1) + (widths[-1] * action_size if spec.policy.use_sde else 0)
    extractor = sum(network.parameters for network in _image_networks(spec, images))
    extractor += _memory_parameters(spec, _features(spec, observation_size, images))
    return extractor + trunk * (1 if spec.policy.share_features else 2) + heads


def _stacked_images(spec: TrainingSpec, environment: EnvironmentDescription) -> tuple[Image, ...]:
    """The images of `env.frame_stack` observations, which are joined along their channels."""
    images, k = images_of(environment.observation_space), spec.env.frame_stack
    return tuple(replace(image, offset=k * image.offset, channels=k * image.channels) for image in images)


def _trunk_widths(spec: TrainingSpec, observation_size: int, images: Sequence[Image]) -> list[int]:
    """Features that the trunks are given, and the units of their layers."""
    policy = spec.policy
    given = _features(spec, observation_size, images) if policy.memory == "none" else policy.memory_size
    return [given, *policy.hidden_sizes]


def _features(spec: TrainingSpec, observation_size: int, images: Sequence[Image]) -> int:
    """Features that come out of the extractor."""
    seen = seen_as_images(network_for(spec.policy.network, images), images)
    features = sum(network.shape[0] for network in _image_networks(spec, images))
    return observation_size - sum(image.size for image in seen) + features


def _memory_parameters(spec: TrainingSpec, features: int) -> int:
    units = spec.policy.memory_size
    match spec.policy.memory:
        case "none":
            return 0
        case "lstm":
            return 4 * units * (features + units + 1)
        case "gru":
            return 3 * units * (features + units + 1) + units


def _state_values(spec: TrainingSpec) -> int:
    """Numbers of the states that the sequences of a rollout begin with."""
    policy = spec.policy
    if policy.memory == "none":
        return 0
    size = policy.memory_size * (2 if policy.memory == "lstm" else 1)
    return spec.env.n_envs * math.ceil(spec.ppo.n_steps / policy.sequence_length) * size


def _noise_values(spec: TrainingSpec, features: int, action_size: int) -> int:
    """Numbers of a rollout for the noise of `use_sde`: features, and the matrices that these are multiplied by."""
    steps = spec.ppo.n_steps
    matrices = math.ceil(steps / (spec.policy.sde_sample_freq or steps))
    return spec.env.n_envs * (steps * features + matrices * (features + 1) * action_size)


def _image_networks(spec: TrainingSpec, images: Sequence[Image]) -> list[ImageNetwork]:
    network = network_for(spec.policy.network, images)
    seen = seen_as_images(network, images)
    return image_networks(network, seen, prefix="", layer_norm=spec.policy.layer_norm)


def _row_values(spec: TrainingSpec, observation_size: int, images: Sequence[Image]) -> int:
    """What one observation takes in a rollout, in numbers of float32: a quarter where it is made of bytes."""
    seen = seen_as_images(network_for(spec.policy.network, images), images)
    has_bytes_alone = sum(image.size for image in seen) == observation_size
    return math.ceil(observation_size / BYTES_PER_VALUE) if has_bytes_alone else observation_size
