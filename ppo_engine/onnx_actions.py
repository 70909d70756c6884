"""What the heads of a policy mean as actions, as nodes of an ONNX graph."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from ppo_engine.actions import IMPOSSIBLE, ActionManifest, bounds, is_integer, named_leaves
from ppo_engine.bundle import PolicyManifest
from ppo_engine.onnx_graph import Graph
from ppo_engine.squashing import centre_and_reach


def mask_inputs(manifest: PolicyManifest) -> list[onnx.ValueInfoProto]:
    """The second input of a policy that was trained with action masks.

    It has no default: there are runtimes that drop inputs which have one.
    """
    if not manifest.action_masks:
        return []
    return [helper.make_tensor_value_info("action_masks", TensorProto.BOOL, ["n", manifest.action_masks])]


def action_outputs(space: ActionManifest) -> list[onnx.ValueInfoProto]:
    """`actions`; for Dict and Tuple one output for each part, `actions/arm/0`."""
    return [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT if leaf.kind == "box" else TensorProto.INT64, ["n", *leaf.shape]
        )
        for name, leaf in named_leaves(space)
    ]


def action_nodes(graph: Graph, manifest: PolicyManifest) -> None:
    """From `heads`, and `action_masks` if there are any, to the outputs of actions."""
    space = manifest.action_space
    masks = "action_masks" if manifest.action_masks else ""
    if space.kind not in ("dict", "tuple"):
        _leaf_nodes(graph, manifest, space, ("actions", "heads", masks), prefix="")
        return
    first_head, first_mask = 0, 0
    for name, leaf in named_leaves(space):
        heads = _columns(graph, "heads", first_head, leaf.heads, f"{name}/heads")
        own = _columns(graph, masks, first_mask, leaf.masks, f"{name}/masks") if masks and leaf.masks else ""
        _leaf_nodes(graph, manifest, leaf, (name, heads, own), prefix=f"{name}/")
        first_head, first_mask = first_head + leaf.heads, first_mask + leaf.masks


def _columns(graph: Graph, rows: str, first: int, count: int, name: str) -> str:
    """So many columns of rows, from the `first` on."""
    columns = graph.constant(f"{name}_columns", np.arange(first, first + count))
    return graph.node("Gather", [rows, columns], name, axis=1)


def _leaf_nodes(
    graph: Graph, manifest: PolicyManifest, space: ActionManifest, names: tuple[str, str, str], *, prefix: str
) -> None:
    """Nodes for a space without parts; `names` are those of its actions, its heads and its masks."""
    actions, heads, masks = names
    if not space.columns:
        _empty_nodes(graph, space, names, prefix)
        return
    shape = graph.constant(f"{prefix}action_shape", np.array([-1, *space.shape], dtype=np.int64))
    if masks:
        heads = _masking_nodes(graph, space, heads, masks, prefix)
    if space.kind == "box":
        low, high = bounds(space)
        numbers = _squashing_nodes(graph, space, heads, prefix) if manifest.squash_output else heads
        numbers = graph.node("Round", [numbers], f"{prefix}rounded") if is_integer(space) else numbers
        raised = graph.node("Max", [numbers, graph.constant(f"{prefix}low", low)], f"{prefix}raised")
        rows = graph.node("Min", [raised, graph.constant(f"{prefix}high", high)], f"{prefix}bounded")
    elif space.kind == "multi_binary":
        zero = graph.constant(f"{prefix}zero", np.array(0, dtype=np.float32))
        positive = graph.node("Greater", [heads, zero], f"{prefix}positive")
        rows = graph.node("Cast", [positive], f"{prefix}choices", to=TensorProto.INT64)
    else:
        rows = _choice_nodes(graph, space, heads, prefix)
    graph.node("Reshape", [rows, shape], actions)


def _empty_nodes(graph: Graph, space: ActionManifest, names: tuple[str, str, str], prefix: str) -> None:
    """Arrays of no numbers, which Reshape cannot make of others: to it, 0 is another dimension's size."""
    actions, heads, _ = names
    rows = graph.node("Shape", [heads], f"{prefix}rows", end=1)
    own = graph.constant(f"{prefix}action_shape", np.array(space.shape, dtype=np.int64))
    graph.node("ConstantOfShape", [graph.node("Concat", [rows, own], f"{prefix}empty", axis=0)], actions)


def _masking_nodes(graph: Graph, space: ActionManifest, heads: str, masks: str, prefix: str) -> str:
    """The name of the heads under which what is not valid is never chosen."""
    never = graph.constant(f"{prefix}never", np.array(IMPOSSIBLE, dtype=np.float32))
    if space.kind != "multi_binary":
        return graph.node("Where", [masks, heads, never], f"{prefix}masked")
    always = graph.constant(f"{prefix}always", np.array(-IMPOSSIBLE, dtype=np.float32))
    columns = np.arange(space.masks).reshape(-1, 2)
    zero, one = (graph.constant(f"{prefix}{bit}_columns", columns[:, i]) for i, bit in enumerate(("zero", "one")))
    may_be_zero = graph.node("Gather", [masks, zero], f"{prefix}may_be_zero", axis=1)
    may_be_one = graph.node("Gather", [masks, one], f"{prefix}may_be_one", axis=1)
    limited = graph.node("Where", [may_be_one, heads, never], f"{prefix}limited")
    return graph.node("Where", [may_be_zero, limited, always], f"{prefix}masked")


def _squashing_nodes(graph: Graph, space: ActionManifest, heads: str, prefix: str) -> str:
    centre, reach = centre_and_reach(*bounds(space))
    between = graph.node("Tanh", [heads], f"{prefix}between")
    reached = graph.node("Mul", [between, graph.constant(f"{prefix}reach", reach)], f"{prefix}reached")
    return graph.node("Add", [reached, graph.constant(f"{prefix}centre", centre)], f"{prefix}squashed")


def _choice_nodes(graph: Graph, space: ActionManifest, heads: str, prefix: str) -> str:
    blocks = [f"{prefix}block_{head}" for head in range(len(space.sizes))]
    sizes = graph.constant(f"{prefix}sizes", np.array(space.sizes, dtype=np.int64))
    graph.nodes.append(helper.make_node("Split", [heads, sizes], blocks, name=f"{prefix}split", axis=1))
    choices = [graph.node("ArgMax", [block], f"{block}_choice", axis=1, keepdims=1) for block in blocks]
    joined = graph.node("Concat", choices, f"{prefix}choices", axis=1)
    start = graph.constant(f"{prefix}start", np.array(space.start or [0] * len(space.sizes), dtype=np.int64))
    return graph.node("Add", [joined, start], f"{prefix}counted")
