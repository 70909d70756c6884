"""The layers of a policy as nodes of an ONNX graph, from observations to heads."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ppo_engine.bundle import LoadedPolicy
from ppo_engine.convolutions import Activation, Convolution, Flatten, Layer, LayerNorm, Linear, MaxPool, Residual
from ppo_engine.images import Image
from ppo_engine.inference import GELU_CUBE, GELU_SCALE, LEAK, WHITE
from ppo_engine.recurrent.inference import MemoryManifest
from ppo_engine.spec import ActivationName


class Graph:
    """Nodes and constants of an ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def next(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node whose output is named by its number."""
        return self.node(operator, inputs, f"{operator.lower()}_{len(self.nodes)}", **attributes)

    def number(self, value: float) -> str:
        """A float32 constant."""
        return self.constant(f"number_{len(self.constants)}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(f"integers_{len(self.constants)}", np.array(values, np.int64))


def actor_nodes(graph: Graph, policy: LoadedPolicy) -> str:
    """From `observations` to the outputs of the action head; with a memory, from `state` to `next_state`, too."""
    x = _feature_nodes(graph, policy)
    if policy.manifest.memory is not None:
        x = _memory_nodes(graph, policy.manifest.memory, x, policy)
    for depth, layer in enumerate(policy.manifest.layers):
        weight = graph.constant(layer.weight, policy.tensors[layer.weight])
        bias = graph.constant(layer.bias, policy.tensors[layer.bias])
        x = graph.node("Gemm", [x, weight, bias], f"linear_{depth}", transB=1)
        if depth < len(policy.manifest.layers) - 1:
            if layer.norm is not None:
                x = _norm_node(graph, layer.norm, x, policy)
            x = activation_nodes(graph, policy.manifest.activation, x)
    return x


def _memory_nodes(graph: Graph, memory: MemoryManifest, x: str, policy: LoadedPolicy) -> str:
    """As `ppo_engine.recurrent.inference.remember`."""
    units = memory.units
    weight, bias, hidden_weight = _tensors(graph, policy, memory.input_weight, memory.bias, memory.hidden_weight)
    given = graph.next("Gemm", [x, weight, bias], transB=1)
    h = _slice(graph, "state", 0, units)
    recalled = graph.next("MatMul", [h, graph.next("Transpose", [hidden_weight], perm=[1, 0])])

    def gate(operator: str, number: int, x: str) -> str:
        return graph.next(operator, [_slice(graph, x, number * units, (number + 1) * units)])

    if memory.kind == "lstm":
        both = graph.next("Add", [given, recalled])
        i, f, g, o = (gate(operator, n, both) for n, operator in enumerate(("Sigmoid", "Sigmoid", "Tanh", "Sigmoid")))
        kept = graph.next("Mul", [f, _slice(graph, "state", units, 2 * units)])
        c = graph.next("Add", [kept, graph.next("Mul", [i, g])])
        h = graph.next("Mul", [o, graph.next("Tanh", [c])])
        graph.node("Concat", [h, c], "next_state", axis=1)
        return h
    both = graph.next("Add", [given, recalled])
    r, z = gate("Sigmoid", 0, both), gate("Sigmoid", 1, both)
    recalled_bias = _tensors(graph, policy, memory.recalled_bias or "")
    biased = graph.next("Add", [_slice(graph, recalled, 2 * units, 3 * units), *recalled_bias])
    inner = graph.next("Add", [_slice(graph, given, 2 * units, 3 * units), graph.next("Mul", [r, biased])])
    n = graph.next("Tanh", [inner])
    h = graph.next("Add", [n, graph.next("Mul", [z, graph.next("Sub", [h, n])])])
    graph.node("Identity", [h], "next_state")
    return h


def activation_nodes(graph: Graph, name: ActivationName, x: str) -> str:
    """An activation of `policy.activation`."""
    match name:
        case "tanh":
            return graph.next("Tanh", [x])
        case "relu":
            return graph.next("Relu", [x])
        case "elu":
            return graph.next("Elu", [x], alpha=1.0)
        case "leaky_relu":
            return graph.next("LeakyRelu", [x], alpha=LEAK)
        case "silu":
            return graph.next("Mul", [x, graph.next("Sigmoid", [x])])
        case "gelu":
            cube = graph.next("Mul", [graph.next("Mul", [graph.next("Mul", [x, x]), x]), graph.number(GELU_CUBE)])
            inner = graph.next("Mul", [graph.next("Add", [x, cube]), graph.number(GELU_SCALE)])
            share = graph.next("Add", [graph.next("Tanh", [inner]), graph.number(1.0)])
            return graph.next("Mul", [graph.next("Mul", [x, graph.number(0.5)]), share])


def _feature_nodes(graph: Graph, policy: LoadedPolicy) -> str:
    manifest = policy.manifest
    if not manifest.images:
        return _normalizer_nodes(graph, policy, _as_floats(graph, policy, "observations"))
    parts = [
        _layer_nodes(graph, part.layers, _pixel_nodes(graph, part.image, policy), policy) for part in manifest.images
    ]
    borders = policy.number_borders()
    if borders:
        numbers = [_slice(graph, "observations", begin, end) for begin, end in borders]
        joined = numbers[0] if len(numbers) == 1 else graph.next("Concat", numbers, axis=1)
        parts.append(_normalizer_nodes(graph, policy, _as_floats(graph, policy, joined)))
    return parts[0] if len(parts) == 1 else graph.next("Concat", parts, axis=1)


def _pixel_nodes(graph: Graph, image: Image, policy: LoadedPolicy) -> str:
    flat = _as_floats(graph, policy, _slice(graph, "observations", image.offset, image.offset + image.size))
    sides = (image.height, image.width)
    axes = (image.channels, *sides) if image.channels_first else (*sides, image.channels)
    planes = graph.next("Reshape", [flat, graph.integers(-1, *axes)])
    if not image.channels_first:
        planes = graph.next("Transpose", [planes], perm=[0, 3, 1, 2])
    return graph.next("Div", [planes, graph.number(float(WHITE))])


def _layer_nodes(graph: Graph, layers: Iterable[Layer], x: str, policy: LoadedPolicy) -> str:
    for layer in layers:
        x = _nodes_of(graph, layer, x, policy)
    return x


def _nodes_of(graph: Graph, layer: Layer, x: str, policy: LoadedPolicy) -> str:
    match layer:
        case Convolution():
            sides = _window(layer.size, layer.stride, layer.padding)
            return graph.next("Conv", [x, *_tensors(graph, policy, layer.weight, layer.bias)], **sides)
        case MaxPool():
            return graph.next("MaxPool", [x], **_window(layer.size, layer.stride, layer.padding))
        case Activation():
            return activation_nodes(graph, policy.manifest.activation, x)
        case Residual():
            return graph.next("Add", [x, _layer_nodes(graph, layer.layers, x, policy)])
        case Flatten():
            return graph.next("Flatten", [x], axis=1)
        case Linear():
            return graph.next("Gemm", [x, *_tensors(graph, policy, layer.weight, layer.bias)], transB=1)
        case LayerNorm():
            return _norm_node(graph, layer, x, policy)


def _norm_node(graph: Graph, layer: LayerNorm, x: str, policy: LoadedPolicy) -> str:
    inputs = [x, *_tensors(graph, policy, layer.scale, layer.shift)]
    return graph.next("LayerNormalization", inputs, axis=-1, epsilon=layer.epsilon)


def _tensors(graph: Graph, policy: LoadedPolicy, *names: str) -> list[str]:
    return [graph.constant(name, policy.tensors[name]) for name in names]


def _window(size: int, stride: int, padding: int) -> dict[str, list[int]]:
    return {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [padding] * 4}


def _slice(graph: Graph, x: str, begin: int, end: int) -> str:
    """Columns `begin` to `end` of rows."""
    return graph.next("Slice", [x, graph.integers(begin), graph.integers(end), graph.integers(1)])


def _as_floats(graph: Graph, policy: LoadedPolicy, x: str) -> str:
    if policy.manifest.observation_dtype == "float32":
        return x
    return graph.next("Cast", [x], to=TensorProto.FLOAT)


def _normalizer_nodes(graph: Graph, policy: LoadedPolicy, x: str) -> str:
    normalizer = policy.manifest.normalizer
    if normalizer is None:
        return x
    deviation = np.sqrt(policy.tensors[normalizer.variance] + normalizer.epsilon)
    mean = graph.constant("mean", policy.tensors[normalizer.mean].astype(np.float64))
    scale = graph.constant("deviation", deviation.astype(np.float64))
    limits = [
        graph.constant(name, np.array(sign * normalizer.clip, dtype=np.float64))
        for name, sign in (("least", -1), ("most", 1))
    ]
    exact = graph.node("Cast", [x], "exact", to=TensorProto.DOUBLE)
    centred = graph.node("Sub", [exact, mean], "centred")
    scaled = graph.node("Div", [centred, scale], "scaled")
    clipped = graph.node("Clip", [scaled, *limits], "clipped")
    return graph.node("Cast", [clipped], "normalized", to=TensorProto.FLOAT)
