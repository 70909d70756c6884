"""Actor and critic forwards, on the flat memory of `ppo_engine.policy.Policy`. Matrix products are BLAS's."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_fast, inlined, part_fast
from ppo_engine.fused.functions import tanh
from ppo_engine.policy import Policy

Floats = NDArray[np.float32]
Masks = NDArray[np.bool_]
Table = NDArray[np.int64]

_ZERO = np.float32(0)


class Network(NamedTuple):
    """The parameters of a policy and where each lies; what the compiled functions know of a `Policy`."""

    parameters: Floats
    """[P]"""
    hidden: Table
    """[K, L, 4]: of each hidden layer of each trunk the offset of its weights, that of its biases, inputs, units."""
    heads: Table
    """[2, 4]: the same of the linear layers at the end of actor and critic."""
    log_std: int
    """Its offset; P where there is none."""
    relu: bool
    """tanh otherwise."""
    transposed: Floats
    """[P]: the weights once more, as [inputs, units], for forward passes: these products take 0.6 of the time."""


class Activations(NamedTuple):
    """What a forward pass of up to B rows leaves behind for a backward pass."""

    hidden: Floats
    """Room for the layers of one trunk after those of the other, each layer [B, units]."""
    outputs: Floats
    """[B, outputs] of the action head."""
    values: Floats
    """[B, 1]"""


def network_of(policy: Policy) -> Network:
    """The network that shares the policy's memory."""
    trunks, depth = policy.trunks, len(policy.spec.hidden_sizes)
    hidden = np.zeros((trunks, depth, 4), np.int64)
    heads = np.zeros((2, 4), np.int64)
    inputs, offset = policy.observation_size, 0
    for layer, units in enumerate(policy.spec.hidden_sizes):
        for trunk in range(trunks):
            weights = offset + trunk * units * inputs
            biases = offset + trunks * units * inputs + trunk * units
            hidden[trunk, layer] = weights, biases, inputs, units
        offset += trunks * units * (inputs + 1)
        inputs = units
    for head, outputs in enumerate((policy.distribution.outputs, 1)):
        heads[head] = offset, offset + outputs * inputs, inputs, outputs
        offset += outputs * (inputs + 1)
    parameters = policy.flat.numpy()
    return Network(parameters, hidden, heads, offset, policy.spec.activation == "relu", np.zeros_like(parameters))


def activations_for(network: Network, rows: int) -> Activations:
    """Room for a forward pass of up to so many rows."""
    return Activations(
        hidden=np.zeros(rows * int(network.hidden[:, :, 3].sum()), np.float32),
        outputs=np.zeros((rows, int(network.heads[0, 3])), np.float32),
        values=np.zeros((rows, 1), np.float32),
    )


@compiled_fast
def transpose(network: Network) -> None:
    """Brings `network.transposed` up to date: to be called when the parameters have changed, before `forward`."""
    for trunk in range(network.hidden.shape[0]):
        for layer in range(network.hidden.shape[1]):
            _transpose_layer(network, network.hidden[trunk, layer])
    for head in range(2):
        _transpose_layer(network, network.heads[head])


@inlined
def _transpose_layer(network: Network, layer: Table) -> None:
    offset, inputs, units = layer[0], layer[2], layer[3]
    size = inputs * units
    weights = network.parameters[offset : offset + size].reshape(units, inputs)
    transposed = network.transposed[offset : offset + size].reshape(inputs, units)
    for feature in range(inputs):
        for unit in range(units):
            transposed[feature, unit] = weights[unit, feature]


@part_fast
def forward(network: Network, observations: Floats, activations: Activations) -> None:
    """Outputs of the action head and values of normalised observations [B, D], into `activations` of B rows."""
    trunks, depth = network.hidden.shape[:2]
    rows, offset = len(observations), 0
    for trunk in range(trunks):
        features = observations
        for number in range(depth):
            layer = network.hidden[trunk, number]
            size = rows * layer[3]
            result = activations.hidden[offset : offset + size].reshape(rows, layer[3])
            multiply(network, layer, features, result)
            add_and_activate(biases_of(network, layer), network.relu, result)
            features = result
            offset += size
        if trunk == 0:
            multiply(network, network.heads[0], features, activations.outputs)
            add(biases_of(network, network.heads[0]), activations.outputs)
        if trunk == trunks - 1:
            multiply(network, network.heads[1], features, activations.values)
            add(biases_of(network, network.heads[1]), activations.values)


@compiled_fast
def write_head(network: Network, head: int, observations: Floats, activations: Activations, results: Floats) -> None:
    """What head 0, the actor's, or 1, the critic's, gives for normalised observations [B, D]: [B, outputs] or [B, 1].

    As many rows at a time as `activations` has memory for.
    """
    trunk, most = 0 if head == 0 else network.hidden.shape[0] - 1, len(activations.values)
    for start in range(0, len(observations), most):
        rows, offset = min(most, len(observations) - start), 0
        features = observations[start : start + rows]
        for number in range(network.hidden.shape[1]):
            layer = network.hidden[trunk, number]
            size = rows * layer[3]
            result = activations.hidden[offset : offset + size].reshape(rows, layer[3])
            multiply(network, layer, features, result)
            add_and_activate(biases_of(network, layer), network.relu, result)
            features = result
            offset += size
        result = results[start : start + rows]
        multiply(network, network.heads[head], features, result)
        add(biases_of(network, network.heads[head]), result)


@inlined
def copy(source: Floats, target: Floats) -> None:
    """Writes [B, n] into other memory. An assignment of slices would have numba compile what its errors say."""
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            target[row, column] = source[row, column]


@part_fast
def multiply(network: Network, layer: Table, features: Floats, result: Floats) -> None:
    """features [B, inputs] · weightsᵀ, into `result` [B, units]."""
    offset, inputs, units = layer[0], layer[2], layer[3]
    np.dot(features, network.transposed[offset : offset + inputs * units].reshape(inputs, units), result)


@inlined
def biases_of(network: Network, layer: Table) -> Floats:
    """[units]"""
    return network.parameters[layer[1] : layer[1] + layer[3]]


@part_fast
def add(biases: Floats, result: Floats) -> None:
    """Adds [units] to each row of [B, units]."""
    for row in range(result.shape[0]):
        for unit in range(result.shape[1]):
            result[row, unit] += biases[unit]


@part_fast
def add_and_activate(biases: Floats, relu: bool, result: Floats) -> None:
    """Adds [units] to each row of [B, units], and takes tanh or relu; what is not a number stays so."""
    if relu:
        for row in range(result.shape[0]):
            for unit in range(result.shape[1]):
                x = result[row, unit] + biases[unit]
                result[row, unit] = _ZERO if x < _ZERO else x
    else:
        for row in range(result.shape[0]):
            for unit in range(result.shape[1]):
                result[row, unit] = tanh(result[row, unit] + biases[unit])
