"""Writes the policy bundle beside `policy.safetensors`: manifest, ONNX graph, and vectors to test any loader with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from pydantic import JsonValue

from ppo_engine.actions import ActionManifest, Actions, bounds, by_leaf, environment_actions, masked_heads
from ppo_engine.bundle import (
    EnvironmentManifest,
    ImageManifest,
    LayerManifest,
    LoadedPolicy,
    PolicyManifest,
    load_policy,
)
from ppo_engine.convolutions import LayerNorm, image_networks
from ppo_engine.envs.spaces import ActionSpace, Rows
from ppo_engine.errors import CheckpointCorrupt
from ppo_engine.images import Image
from ppo_engine.inference import Floats
from ppo_engine.onnx_actions import action_nodes, action_outputs, mask_inputs
from ppo_engine.onnx_graph import Graph, actor_nodes
from ppo_engine.recurrent.inference import MemoryManifest
from ppo_engine.spec import PolicySpec, SpecModel, TrainingSpec
from ppo_engine.squashing import centre_and_reach

BUNDLE_FILES = ("policy.json", "policy.onnx", "vectors.json")
OPSET = 17
IR_VERSION = 8
"""The pair that ONNX runtimes since 2022 read."""
TOLERANCE = 1e-4
"""Between the trained policy and the one read back, relative to the larger of 1 and the heads' magnitude; choices that
are closer than this may differ."""

FIRST_FIELDS: Mapping[str, frozenset[str]] = {
    "env": frozenset({"id", "kwargs", "n_envs", "vectorization", "max_episode_steps", "step_timeout_seconds"}),
    "policy": frozenset({"network", "hidden_sizes", "activation", "share_features", "log_std_init"}),
    "ppo": frozenset({
        "total_timesteps", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "learning_rate", "clip_range",
        "clip_range_vf", "normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm", "target_kl",
    }),
    "normalize": frozenset({"observations", "rewards", "clip_observations", "clip_rewards"}),
    "evaluation": frozenset({"every_timesteps", "n_episodes", "deterministic"}),
    "stop": frozenset({"metric", "threshold"}),
    "seed": frozenset(),
    "device": frozenset(),
    "backend": frozenset(),
}  # fmt: skip
"""The parts of a spec that train, and the fields that they had when `spec_sha256` was first written down."""


class Example(NamedTuple):
    """What the trained policy did."""

    observations: Rows
    """[n, D], flat and encoded."""
    actions: Actions
    """The likeliest action rows."""
    masks: NDArray[np.bool_] | None = None
    """[n, masks], what was valid; None where the policy knows no masks."""


def write_bundle(directory: Path, manifest: PolicyManifest, *, examples: Sequence[Example]) -> None:
    """Writes `BUNDLE_FILES` into a directory that holds `policy.safetensors` already, and checks them.

    Args:
        examples: to become the test vectors; several ones are consecutive steps of a policy with memory.
    Raises:
        CheckpointCorrupt: the policy read back from the files acts otherwise.
    """
    (directory / "policy.json").write_text(manifest.model_dump_json(indent=1) + "\n")
    policy = load_policy(directory)
    steps = _replayed(policy, examples)
    vectors = steps[0] if manifest.memory is None else {"steps": steps}
    document = {"format": 1 if manifest.memory is None else 2, **vectors}
    (directory / "vectors.json").write_text(json.dumps(document, allow_nan=False) + "\n")
    (directory / "policy.onnx").write_bytes(onnx_model(policy).SerializeToString(deterministic=True))


def _replayed(policy: LoadedPolicy, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """What the policy makes of each example; raises CheckpointCorrupt where its actions are others."""
    space = policy.manifest.action_space
    state = np.zeros((len(examples[0].observations), policy.state_size), np.float32)
    steps = []
    for example in examples:
        heads = policy.heads(example.observations, state)
        rows, after = policy.step(example.observations, state, example.masks)
        _check(policy.manifest, heads, rows, example)
        step = {
            "observations": example.observations.tolist(),
            "heads": heads.tolist(),
            "actions": _listed(environment_actions(rows, space)),
        }
        if example.masks is not None:
            step["action_masks"] = example.masks.tolist()
        if policy.state_size:
            step |= {"state": state.tolist(), "next_state": after.tolist()}
        steps.append(step)
        state = after
    return steps


def _listed(actions: Any) -> JsonValue:
    """A batch of actions as JSON."""
    if isinstance(actions, dict):
        return {key: _listed(part) for key, part in actions.items()}
    if isinstance(actions, tuple):
        return [_listed(part) for part in actions]
    numbers: JsonValue = actions.tolist()
    return numbers


def memory_manifest(policy: PolicySpec) -> MemoryManifest | None:
    """The memory of a policy; None where it has none."""
    if policy.memory == "none":
        return None
    return MemoryManifest(
        kind=policy.memory,
        units=policy.memory_size,
        input_weight="policy/memory/input/weight",
        hidden_weight="policy/memory/hidden/weight",
        bias="policy/memory/bias",
        recalled_bias="policy/memory/recalled/bias" if policy.memory == "gru" else None,
    )


def spec_sha256(spec: TrainingSpec) -> str:
    """A name for what a resolved spec trains: fields that change no weight (name, labels, retention) do not count.

    A field that is younger than the first of these names counts where it differs from its default, so that they stay
    what they were.
    """
    trained = spec.model_dump(mode="json", include=set(FIRST_FIELDS))
    for name, first in FIRST_FIELDS.items():
        section = getattr(spec, name)
        if isinstance(section, SpecModel):
            for field, described in type(section).model_fields.items():
                if field not in first and getattr(section, field) == described.get_default(call_default_factory=True):
                    del trained[name][field]
    return hashlib.sha256(json.dumps(trained, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def environment_manifest(spec: TrainingSpec) -> EnvironmentManifest:
    """The part of a spec that says which environment to evaluate the policy in."""
    env = spec.env
    return EnvironmentManifest(
        id=env.id,
        kwargs=env.kwargs,
        max_episode_steps=env.max_episode_steps,
        frame_stack=env.frame_stack,
        atari=None if env.atari is None else env.atari.model_dump(mode="json"),
        action_masks=env.action_masks,
    )


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
        parts=tuple(map(action_manifest, space.parts)),
        keys=space.keys,
    )


def image_manifests(policy: PolicySpec, images: tuple[Image, ...]) -> tuple[ImageManifest, ...]:
    """The images that a policy sees as such, with their layers."""
    networks = image_networks(policy.network, images, prefix="policy/extractor", layer_norm=policy.layer_norm)
    pairs = zip(images, networks, strict=True)
    return tuple(ImageManifest(image=image, layers=tuple(network.layers)) for image, network in pairs)


def layer_manifests(names: Sequence[str], *, has_norms: bool) -> tuple[LayerManifest, ...]:
    """The linear layers of those names; with a layer norm after each but the last, if there are any."""
    *hidden, last = names
    return (*(layer_manifest(name, has_norm=has_norms) for name in hidden), layer_manifest(last))


def layer_manifest(name: str, *, has_norm: bool = False) -> LayerManifest:
    """A linear layer, by the name that the policy has for it."""
    tensor = f"policy/{name}"
    norm = LayerNorm(scale=f"{tensor}/scale", shift=f"{tensor}/shift") if has_norm else None
    return LayerManifest(weight=f"{tensor}/weight", bias=f"{tensor}/bias", norm=norm)


def _finite(limits: NDArray[Any] | None) -> tuple[float | None, ...]:
    return () if limits is None else tuple(float(x) if np.isfinite(x) else None for x in limits)


def onnx_model(policy: LoadedPolicy) -> onnx.ModelProto:
    """`observations` [n, D] → `actions` as the environment takes them, and `heads` (logits or means).

    Observations are of float32 or of bytes, as the manifest says. A policy that was trained with action masks also
    takes `action_masks` bool [n, masks], all true where all is valid. For Dict and Tuple each part is an output:
    `actions/move`, `actions/arm/0`.
    A policy with memory takes `state` [n, M] as well, zero where an episode starts, and gives `next_state` [n, M].
    """
    graph = Graph()
    heads = actor_nodes(graph, policy)
    graph.node("Identity", [heads], "heads")
    space = policy.manifest.action_space
    action_nodes(graph, policy.manifest)
    rows = TensorProto.UINT8 if policy.manifest.observation_dtype == "uint8" else TensorProto.FLOAT
    width = policy.tensors[policy.manifest.layers[-1].bias].shape[0]
    inputs = [
        helper.make_tensor_value_info("observations", rows, ["n", policy.manifest.observation_size]),
        *mask_inputs(policy.manifest),
    ]
    outputs = [
        *action_outputs(space),
        helper.make_tensor_value_info("heads", TensorProto.FLOAT, ["n", width]),
    ]
    if policy.state_size:
        for name, side in (("state", inputs), ("next_state", outputs)):
            side.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", policy.state_size]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            inputs,
            outputs,
            graph.constants,
        ),
        producer_name="ppo_engine",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _check(manifest: PolicyManifest, heads: Floats, read_back: Actions, example: Example) -> None:
    """Raises CheckpointCorrupt where the rows that were read back are others than those of the trained policy."""
    leaves = manifest.action_space.leaves
    columns = [leaf.columns for leaf in leaves]
    tolerance = TOLERANCE * max(1.0, float(np.abs(heads).max(initial=0.0)))
    rows = zip(
        leaves,
        by_leaf(masked_heads(heads, example.masks, manifest.action_space), [leaf.heads for leaf in leaves]),
        by_leaf(read_back, columns),
        by_leaf(example.actions, columns),
        strict=True,
    )
    if not all(
        _agree(leaf, own, (read, trained), tolerance=tolerance, is_squashed=manifest.squash_output)
        for leaf, own, read, trained in rows
    ):
        raise CheckpointCorrupt("policy.safetensors: read back, it acts otherwise than the policy that was trained")


def _agree(
    space: ActionManifest, heads: Floats, actions: tuple[Actions, Actions], *, tolerance: float, is_squashed: bool
) -> bool:
    """Whether the actions of a space without parts, as read back and as trained, are the same but for rounding."""
    read, trained = actions
    if space.kind == "box":
        # The slope of tanh is 1 at most: an error of the heads grows by no more than the reach of the bounds.
        slope = centre_and_reach(*bounds(space))[1] if is_squashed else 1.0
        return bool(np.allclose(read, trained, rtol=1e-6, atol=tolerance * slope))
    if space.kind == "multi_binary":
        return bool(np.all((np.abs(heads) <= tolerance) | ((heads > 0) == (trained > 0))))
    blocks, rows = by_leaf(heads, space.sizes), trained.astype(np.int64)
    chosen = [np.take_along_axis(block, rows[:, [head]], axis=1)[:, 0] for head, block in enumerate(blocks)]
    lost = [block.max(axis=1) - score for block, score in zip(blocks, chosen, strict=True)]
    return bool(np.all(np.stack(lost) <= tolerance))
