"""The policy bundle: what a user downloads, and a reader of it that needs NumPy and safetensors only.

policy.safetensors   weights `policy/...`, statistics `normalizer/...`
policy.json          the `PolicyManifest`: how to compute with them
policy.onnx          the same policy for any ONNX runtime: observations → actions, heads
vectors.json         observations with the actions that belong to them
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ppo_engine.squashing import squashed

Actions: TypeAlias = NDArray[np.float32] | NDArray[np.int64]
"""One row per observation: float32 [n, A] for Box, which only a squashing policy keeps within the bounds; int64
[n, heads] for the discrete kinds."""

Floats: TypeAlias = Annotated[tuple[float | None, ...], Field(strict=False)]
Integers: TypeAlias = Annotated[tuple[int, ...], Field(strict=False)]


class ManifestModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ActionManifest(ManifestModel):
    """What the environment takes as an action."""

    kind: Literal["discrete", "box", "multi_discrete", "multi_binary"]
    sizes: Integers
    """Choices of each head, 2 for each bit of MultiBinary; for Box the one number A."""
    shape: Integers
    """Shape of one action as the environment takes it; () for Discrete."""
    dtype: str
    low: Floats = ()
    """Bounds of Box, flat; null where there is none."""
    high: Floats = ()
    start: Integers = ()
    """The smallest choice of each discrete head, 0 if empty."""


class EnvironmentManifest(ManifestModel):
    """Where the policy was trained."""

    id: str
    kwargs: dict[str, JsonValue] = {}
    max_episode_steps: int | None = None


class LayerManifest(ManifestModel):
    """Names of one linear layer's tensors: y = x Wᵀ + b."""

    weight: str
    bias: str


class NormalizerManifest(ManifestModel):
    """x → clip((x - mean) / sqrt(variance + epsilon)), computed in float64; tensors of D numbers."""

    mean: str
    variance: str
    epsilon: float
    clip: float


class PolicyManifest(ManifestModel):
    """Everything that one must know to compute with `policy.safetensors`; it holds no time and no path."""

    format: Literal[1] = 1
    env: EnvironmentManifest
    spec_sha256: str
    observation_size: int
    """Features of one flat, encoded observation (D)."""
    observation_space: dict[str, JsonValue]
    """Flattened part by part: Box and MultiBinary in C order, Discrete and MultiDiscrete as one-hot."""
    action_space: ActionManifest
    normalizer: NormalizerManifest | None
    activation: Literal["tanh", "relu"]
    layers: Annotated[tuple[LayerManifest, ...], Field(strict=False)]
    """The actor, from observation to heads; the activation follows every layer but the last."""
    log_std: str | None = None
    """Tensor of A logarithms of standard deviations, for Box."""
    squash_output: bool = False
    """The actor's outputs, and samples around them, become actions by (low + high)/2 + (high - low)/2 · tanh."""


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that acts without torch."""

    manifest: PolicyManifest
    tensors: dict[str, NDArray[Any]]

    def heads(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, or means of Box actions before any squashing, [n, outputs], of flat encoded observations [n, D]."""
        activation = np.tanh if self.manifest.activation == "tanh" else _relu
        x = self._normalized(np.asarray(observations, dtype=np.float32))
        for layer in self.manifest.layers[:-1]:
            x = activation(x @ self.tensors[layer.weight].T + self.tensors[layer.bias])
        last = self.manifest.layers[-1]
        heads: NDArray[np.float32] = x @ self.tensors[last.weight].T + self.tensors[last.bias]
        return heads

    def act(
        self,
        observations: NDArray[np.float32],
        *,
        deterministic: bool = True,
        generator: np.random.Generator | None = None,
    ) -> Actions:
        """Action rows of flat encoded observations [n, D]: the likeliest ones, or samples drawn from `generator`."""
        heads, space = self.heads(observations), self.manifest.action_space
        if deterministic:
            rows = likeliest_actions(heads, space)
        elif generator is None:
            raise ValueError("sampling actions needs a generator")
        else:
            rows = self._sample(heads, generator)
        return squashed(rows, *bounds(space)) if self.manifest.squash_output else rows

    def _normalized(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        normalizer = self.manifest.normalizer
        if normalizer is None:
            return observations
        mean, variance = self.tensors[normalizer.mean], self.tensors[normalizer.variance]
        scaled: NDArray[np.float64] = (observations.astype(np.float64) - mean) / np.sqrt(variance + normalizer.epsilon)
        return np.clip(scaled, -normalizer.clip, normalizer.clip).astype(np.float32)

    def _sample(self, heads: NDArray[np.float32], generator: np.random.Generator) -> Actions:
        space = self.manifest.action_space
        if space.kind == "box":
            std: NDArray[np.float32] = np.exp(self.tensors[self.manifest.log_std or ""])
            return heads + std * generator.standard_normal(heads.shape, dtype=np.float32)
        if space.kind == "multi_binary":
            return (generator.random(heads.shape) < 1.0 / (1.0 + np.exp(-heads))).astype(np.int64)
        gumbel = generator.gumbel(size=heads.shape)
        return likeliest_actions((heads + gumbel).astype(np.float32), space)


def load_policy(directory: Path) -> LoadedPolicy:
    """The policy of a downloaded bundle.

    Raises:
        FileNotFoundError: the directory holds no bundle.
        ValueError: the bundle is of another format, damaged, or its files do not fit together.
    """
    manifest = PolicyManifest.model_validate_json((directory / "policy.json").read_bytes())
    try:
        tensors: dict[str, NDArray[Any]] = load_file(directory / "policy.safetensors")
    except SafetensorError as error:
        raise ValueError(f"policy.safetensors is damaged: {error}") from error
    named = [name for layer in manifest.layers for name in (layer.weight, layer.bias)]
    if manifest.normalizer is not None:
        named += [manifest.normalizer.mean, manifest.normalizer.variance]
    if manifest.log_std is not None:
        named.append(manifest.log_std)
    missing = [name for name in named if name not in tensors]
    if missing:
        raise ValueError(f"policy.safetensors lacks {', '.join(missing)}")
    space = manifest.action_space
    if manifest.squash_output and not (space.kind == "box" and np.isfinite(bounds(space)).all()):
        raise ValueError("policy.json squashes actions that have no finite bounds")
    return LoadedPolicy(manifest, {name: tensors[name] for name in named})


def likeliest_actions(heads: NDArray[np.float32], space: ActionManifest) -> Actions:
    """The mode of each row's distribution, as action rows."""
    if space.kind == "box":
        return heads
    if space.kind == "multi_binary":
        return (heads > 0).astype(np.int64)
    blocks = np.split(heads, np.cumsum(space.sizes)[:-1], axis=1)
    return np.stack([block.argmax(axis=1) for block in blocks], axis=1)


def environment_actions(rows: Actions, space: ActionManifest) -> NDArray[Any]:
    """Action rows as the environment takes them, [n, *shape]: clipped to the bounds, or counted from `start`."""
    if space.kind == "box":
        low, high = bounds(space)
        numbers = np.rint(rows) if is_integer(space) else rows
        return np.clip(numbers, low, high).reshape(-1, *space.shape).astype(space.dtype)
    offsets = np.asarray(space.start or [0], dtype=np.int64)
    return (rows + offsets).reshape(-1, *space.shape).astype(space.dtype)


def bounds(space: ActionManifest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The bounds of Box, infinite where the manifest has null."""
    low = np.array([-np.inf if bound is None else bound for bound in space.low], dtype=np.float32)
    high = np.array([np.inf if bound is None else bound for bound in space.high], dtype=np.float32)
    return low, high


def is_integer(space: ActionManifest) -> bool:
    """Whether the environment takes integers, so that numbers of a Box are rounded first."""
    return np.dtype(space.dtype).kind in "iu"


def _relu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(x, np.float32(0))
