"""Actor and critic backwards: the gradients of all weights and biases."""

from typing import NamedTuple

import numpy as np

from ppo_engine.compiled import inlined, part_fast
from ppo_engine.fused.network import Activations, Floats, Network, Table

_ZERO, _ONE = np.float32(0), np.float32(1)


class Backward(NamedTuple):
    """Room for a backward pass of up to B rows."""

    outputs: Floats
    """[B, outputs]: the loss's gradient, to be filled by the caller."""
    values: Floats
    """[B, 1]: likewise."""
    features: Floats
    """[2, B · widest layer]: gradients of two neighbouring layers."""
    weights: Floats
    """As many numbers as the largest matrix of weights has."""


def backward_for(network: Network, rows: int) -> Backward:
    """Room for a backward pass of up to so many rows."""
    layers = [*network.hidden.reshape(-1, 4).tolist(), *network.heads.tolist()]
    widest = max(max(inputs, units) for _, _, inputs, units in layers)
    return Backward(
        outputs=np.zeros((rows, int(network.heads[0, 3])), np.float32),
        values=np.zeros((rows, 1), np.float32),
        features=np.zeros((2, rows * widest), np.float32),
        weights=np.zeros(max(inputs * units for _, _, inputs, units in layers), np.float32),
    )


@part_fast
def backward(
    network: Network, observations: Floats, activations: Activations, gradient: Backward, parameter_gradients: Floats
) -> None:
    """Adds the loss's gradient by all weights and biases to `parameter_gradients` [P], after a `forward` of B rows."""
    trunks, depth = network.hidden.shape[:2]
    rows = len(observations)
    if depth == 0:
        _linear_gradients(network.heads[0], observations, gradient.outputs, gradient.weights, parameter_gradients)
        _linear_gradients(network.heads[1], observations, gradient.values, gradient.weights, parameter_gradients)
        return
    units = network.heads[0, 2]
    trunk_size = 0
    for number in range(depth):
        trunk_size += rows * network.hidden[0, number, 3]
    for trunk in range(trunks):
        end = (trunk + 1) * trunk_size
        features = activations.hidden[end - rows * units : end].reshape(rows, units)
        delta = gradient.features[0][: rows * units].reshape(rows, units)
        if trunk == 0:
            _linear_gradients(network.heads[0], features, gradient.outputs, gradient.weights, parameter_gradients)
            np.dot(gradient.outputs, _weights(network, network.heads[0]), delta)
        if trunks == 1:
            other = gradient.features[1][: rows * units].reshape(rows, units)
            np.dot(gradient.values, _weights(network, network.heads[1]), other)
            for row in range(rows):
                for unit in range(units):
                    delta[row, unit] += other[row, unit]
        elif trunk == 1:
            np.dot(gradient.values, _weights(network, network.heads[1]), delta)
        if trunk == trunks - 1:
            _linear_gradients(network.heads[1], features, gradient.values, gradient.weights, parameter_gradients)
        _trunk_gradients(
            network, trunk, observations, activations.hidden[end - trunk_size : end], gradient, parameter_gradients
        )


@inlined
def _trunk_gradients(
    network: Network, trunk: int, observations: Floats, hidden: Floats, gradient: Backward, parameter_gradients: Floats
) -> None:
    """Gradients of one trunk's layers, from that of its last features, which stands in `gradient.features[0]`."""
    depth, rows, end = network.hidden.shape[1], len(observations), len(hidden)
    for reverse in range(depth):
        layer = network.hidden[trunk, depth - 1 - reverse]
        inputs, units = layer[2], layer[3]
        start = end - rows * units
        delta = gradient.features[reverse % 2][: rows * units].reshape(rows, units)
        _through_activation(delta.reshape(delta.size), hidden[start:end], network.relu)
        if reverse == depth - 1:
            _linear_gradients(layer, observations, delta, gradient.weights, parameter_gradients)
            return
        before = hidden[start - rows * inputs : start].reshape(rows, inputs)
        _linear_gradients(layer, before, delta, gradient.weights, parameter_gradients)
        np.dot(
            delta, _weights(network, layer), gradient.features[1 - reverse % 2][: rows * inputs].reshape(rows, inputs)
        )
        end = start


@part_fast
def _linear_gradients(
    layer: Table, features: Floats, delta: Floats, scratch: Floats, parameter_gradients: Floats
) -> None:
    """Adds the gradients of one linear layer's weights and biases, given `delta` [B, units], that of its result."""
    inputs, units = layer[2], layer[3]
    size = inputs * units
    np.dot(delta.T, features, scratch[:size].reshape(units, inputs))
    weights = parameter_gradients[layer[0] : layer[0] + size]
    for i in range(size):
        weights[i] += scratch[i]
    biases = parameter_gradients[layer[1] : layer[1] + units]
    for row in range(delta.shape[0]):
        for unit in range(units):
            biases[unit] += delta[row, unit]


@part_fast
def _through_activation(delta: Floats, features: Floats, relu: bool) -> None:
    """Multiplies `delta` by the activation's slope where it gave `features`."""
    if relu:
        for i in range(delta.size):
            delta[i] = delta[i] if features[i] > _ZERO else _ZERO
    else:
        for i in range(delta.size):
            delta[i] *= _ONE - features[i] * features[i]


@inlined
def _weights(network: Network, layer: Table) -> Floats:
    """The weights of a layer, [units, inputs]."""
    inputs, units = layer[2], layer[3]
    return network.parameters[layer[0] : layer[0] + inputs * units].reshape(units, inputs)
