"""Writes the policy bundle beside `policy.safetensors`: manifest, ONNX graph, and vectors to test any loader with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ppo_engine.bundle import (
    ActionManifest,
    Actions,
    EnvironmentManifest,
    LoadedPolicy,
    PolicyManifest,
    bounds,
    environment_actions,
    is_integer,
    load_policy,
)
from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.errors import CheckpointCorrupt
from ppo_engine.spec import TrainingSpec
from ppo_engine.squashing import centre_and_reach

BUNDLE_FILES = ("policy.json", "policy.onnx", "vectors.json")
OPSET = 17
IR_VERSION = 8
"""The pair that ONNX runtimes since 2022 read."""
TOLERANCE = 1e-4
"""Between the trained policy and the one read back, relative to the larger of 1 and the heads' magnitude; choices that
are closer than this may differ."""


def write_bundle(
    directory: Path, manifest: PolicyManifest, *, observations: NDArray[np.float32], actions: Actions
) -> None:
    """Writes `BUNDLE_FILES` into a directory that holds `policy.safetensors` already, and checks them.

    Args:
        observations: [n, D], flat and encoded, to become the test vectors.
        actions: the deterministic action rows that the trained policy gave for them.
    Raises:
        CheckpointCorrupt: the policy read back from the files acts otherwise.
    """
    (directory / "policy.json").write_text(manifest.model_dump_json(indent=1) + "\n")
    policy = load_policy(directory)
    _check(policy, observations, actions)
    vectors = {
        "format": 1,
        "observations": observations.tolist(),
        "heads": policy.heads(observations).tolist(),
        "actions": environment_actions(policy.act(observations), manifest.action_space).tolist(),
    }
    (directory / "vectors.json").write_text(json.dumps(vectors, allow_nan=False) + "\n")
    (directory / "policy.onnx").write_bytes(onnx_model(policy).SerializeToString(deterministic=True))


def spec_sha256(spec: TrainingSpec) -> str:
    """A name for what a resolved spec trains: fields that change no weight (name, labels, retention) do not count."""
    trained = spec.model_dump(
        mode="json", include={"env", "policy", "ppo", "normalize", "seed", "device", "backend", "stop", "evaluation"}
    )
    if not spec.policy.squash_output:
        # The field is younger than the first of these names, which stay what they were.
        del trained["policy"]["squash_output"]
    return hashlib.sha256(json.dumps(trained, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def environment_manifest(spec: TrainingSpec) -> EnvironmentManifest:
    """The part of a spec that says which environment to evaluate the policy in."""
    return EnvironmentManifest(id=spec.env.id, kwargs=spec.env.kwargs, max_episode_steps=spec.env.max_episode_steps)


def action_manifest(space: ActionSpace) -> ActionManifest:
    """The engine's view of an action space, as JSON can hold it."""
    return ActionManifest(
        kind=space.kind,
        sizes=space.sizes,
        shape=space.shape,
        dtype=str(space.dtype),
        low=_finite(space.low),
        high=_finite(space.high),
        start=() if space.start is None else tuple(space.start.tolist()),
    )


def _finite(limits: NDArray[Any] | None) -> tuple[float | None, ...]:
    return () if limits is None else tuple(float(x) if np.isfinite(x) else None for x in limits)


def onnx_model(policy: LoadedPolicy) -> onnx.ModelProto:
    """`observations` float32 [n, D] → `actions` as the environment takes them, and `heads` (logits or means)."""
    graph = _Graph()
    heads = _actor_nodes(graph, policy)
    graph.node("Identity", [heads], "heads")
    space = policy.manifest.action_space
    _action_nodes(graph, policy.manifest)
    kind = TensorProto.FLOAT if space.kind == "box" else TensorProto.INT64
    outputs = policy.tensors[policy.manifest.layers[-1].bias].shape[0]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [helper.make_tensor_value_info("observations", TensorProto.FLOAT, ["n", policy.manifest.observation_size])],
            [
                helper.make_tensor_value_info("actions", kind, ["n", *space.shape]),
                helper.make_tensor_value_info("heads", TensorProto.FLOAT, ["n", outputs]),
            ],
            graph.constants,
        ),
        producer_name="ppo_engine",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
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


def _actor_nodes(graph: _Graph, policy: LoadedPolicy) -> str:
    x = _normalizer_nodes(graph, policy)
    activation = "Tanh" if policy.manifest.activation == "tanh" else "Relu"
    layers = policy.manifest.layers
    for depth, layer in enumerate(layers):
        weight = graph.constant(layer.weight, policy.tensors[layer.weight])
        bias = graph.constant(layer.bias, policy.tensors[layer.bias])
        x = graph.node("Gemm", [x, weight, bias], f"linear_{depth}", transB=1)
        if depth < len(layers) - 1:
            x = graph.node(activation, [x], f"hidden_{depth}")
    return x


def _normalizer_nodes(graph: _Graph, policy: LoadedPolicy) -> str:
    normalizer = policy.manifest.normalizer
    if normalizer is None:
        return "observations"
    deviation = np.sqrt(policy.tensors[normalizer.variance] + normalizer.epsilon)
    mean = graph.constant("mean", policy.tensors[normalizer.mean].astype(np.float64))
    scale = graph.constant("deviation", deviation.astype(np.float64))
    limits = [
        graph.constant(name, np.array(sign * normalizer.clip, dtype=np.float64))
        for name, sign in (("least", -1), ("most", 1))
    ]
    exact = graph.node("Cast", ["observations"], "exact", to=TensorProto.DOUBLE)
    centred = graph.node("Sub", [exact, mean], "centred")
    scaled = graph.node("Div", [centred, scale], "scaled")
    clipped = graph.node("Clip", [scaled, *limits], "clipped")
    return graph.node("Cast", [clipped], "normalized", to=TensorProto.FLOAT)


def _action_nodes(graph: _Graph, manifest: PolicyManifest) -> None:
    space = manifest.action_space
    shape = graph.constant("action_shape", np.array([-1, *space.shape], dtype=np.int64))
    if space.kind == "box":
        low, high = bounds(space)
        numbers = _squashing_nodes(graph, space) if manifest.squash_output else "heads"
        numbers = graph.node("Round", [numbers], "rounded") if is_integer(space) else numbers
        raised = graph.node("Max", [numbers, graph.constant("low", low)], "raised")
        rows = graph.node("Min", [raised, graph.constant("high", high)], "bounded")
    elif space.kind == "multi_binary":
        positive = graph.node("Greater", ["heads", graph.constant("zero", np.array(0, dtype=np.float32))], "positive")
        rows = graph.node("Cast", [positive], "choices", to=TensorProto.INT64)
    else:
        rows = _choice_nodes(graph, space)
    graph.node("Reshape", [rows, shape], "actions")


def _squashing_nodes(graph: _Graph, space: ActionManifest) -> str:
    centre, reach = centre_and_reach(*bounds(space))
    between = graph.node("Tanh", ["heads"], "between")
    reached = graph.node("Mul", [between, graph.constant("reach", reach)], "reached")
    return graph.node("Add", [reached, graph.constant("centre", centre)], "squashed")


def _choice_nodes(graph: _Graph, space: ActionManifest) -> str:
    blocks = [f"block_{head}" for head in range(len(space.sizes))]
    sizes = graph.constant("sizes", np.array(space.sizes, dtype=np.int64))
    graph.nodes.append(helper.make_node("Split", ["heads", sizes], blocks, name="split", axis=1))
    choices = [graph.node("ArgMax", [block], f"{block}_choice", axis=1, keepdims=1) for block in blocks]
    joined = graph.node("Concat", choices, "choices", axis=1)
    start = graph.constant("start", np.array(space.start or [0] * len(space.sizes), dtype=np.int64))
    return graph.node("Add", [joined, start], "counted")


def _check(policy: LoadedPolicy, observations: NDArray[np.float32], actions: Actions) -> None:
    heads, space = policy.heads(observations), policy.manifest.action_space
    tolerance = TOLERANCE * max(1.0, float(np.abs(heads).max(initial=0.0)))
    if space.kind == "box":
        # The slope of tanh is 1 at most: an error of the heads grows by no more than the reach of the bounds.
        slope = centre_and_reach(*bounds(space))[1] if policy.manifest.squash_output else 1.0
        agree = bool(np.allclose(policy.act(observations), actions, rtol=1e-6, atol=tolerance * slope))
    elif space.kind == "multi_binary":
        agree = bool(np.all((np.abs(heads) <= tolerance) | ((heads > 0) == (actions > 0))))
    else:
        blocks, rows = np.split(heads, np.cumsum(space.sizes)[:-1], axis=1), actions.astype(np.int64)
        chosen = [np.take_along_axis(block, rows[:, [head]], axis=1)[:, 0] for head, block in enumerate(blocks)]
        lost = [block.max(axis=1) - score for block, score in zip(blocks, chosen, strict=True)]
        agree = bool(np.all(np.stack(lost) <= tolerance))
    if not agree:
        raise CheckpointCorrupt("policy.safetensors: read back, it acts otherwise than the policy that was trained")
