"""The policy bundle: what a user downloads, and a reader of it that needs NumPy and safetensors only.

policy.safetensors   weights `policy/...`, statistics `normalizer/...`
policy.json          the `PolicyManifest`: how to compute with them
policy.onnx          the same policy for any ONNX runtime: observations → actions, heads
vectors.json         observations with the actions that belong to them
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ppo_engine.actions import (
    ActionManifest,
    Actions,
    bounds,
    likeliest_actions,
    masked_heads,
    sampled_actions,
    squashed_actions,
)
from ppo_engine.convolutions import Layer, LayerNorm, tensor_names
from ppo_engine.deviations import LEAST_VARIANCE, within_bounds
from ppo_engine.images import Image, columns_beside
from ppo_engine.inference import Floats, activation_of, compute, linear, normalized, pixels_of
from ppo_engine.manifest_model import ManifestModel
from ppo_engine.recurrent.inference import MemoryManifest, remember
from ppo_engine.spec import ActivationName


class EnvironmentManifest(ManifestModel):
    """Where the policy was trained."""

    later = frozenset({"action_masks"})

    id: str
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    max_episode_steps: int | None = None
    frame_stack: int = 1
    """So many observations, the oldest first, are what the policy sees as one."""
    atari: dict[str, JsonValue] | None = None
    """How an Atari game is shown and started: `AtariSpec`, as JSON."""
    action_masks: bool = False
    """Whether the environment says which choices are valid."""


class LayerManifest(ManifestModel):
    """Names of one linear layer's tensors: y = x Wᵀ + b."""

    later = frozenset({"norm"})

    weight: str
    bias: str
    norm: LayerNorm | None = None
    """Computed on y, before the activation."""


class ImageManifest(ManifestModel):
    """An image of the observations, and the layers that make features of it."""

    image: Image
    """Where it lies in a flat observation; its pixels, divided by 255, are what the first layer takes, [C, H, W]."""
    layers: Annotated[tuple[Layer, ...], Field(strict=False)]


class NormalizerManifest(ManifestModel):
    """x → clip((x - mean) / sqrt(variance + epsilon)), computed in float64; tensors of D numbers, or of as many as are
    in no image."""

    mean: str
    variance: str
    epsilon: float
    clip: float


class PolicyManifest(ManifestModel):
    """Everything that one must know to compute with `policy.safetensors`; it holds no time and no path."""

    later = frozenset({"images", "observation_dtype", "memory", "log_std_layer", "use_sde", "action_masks"})

    format: Literal[1, 2, 3] = 1
    """2 where `images`, a `memory`, a `norm` or another activation than tanh and relu is there: format 1 knows none. 3
    where `action_masks` is an input of policy.onnx that must be given; before, it had a default."""
    env: EnvironmentManifest
    spec_sha256: str
    observation_size: int
    """Features of one flat, encoded observation (D)."""
    observation_space: dict[str, JsonValue]
    """Flattened part by part: Box and MultiBinary in C order, Discrete and MultiDiscrete as one-hot."""
    observation_dtype: Literal["float32", "uint8"] = "float32"
    """Of flat observations; bytes where they are made of images alone."""
    images: Annotated[tuple[ImageManifest, ...], Field(strict=False)] = ()
    """The actor's first layer takes the features of these, and then the rest of the observation, normalised."""
    memory: MemoryManifest | None = None
    """What the actor's first layer is given the output of, instead of the features themselves."""
    action_space: ActionManifest
    normalizer: NormalizerManifest | None
    activation: ActivationName
    """gelu is x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))); leaky_relu has the slope 0.01."""
    layers: Annotated[tuple[LayerManifest, ...], Field(strict=False)]
    """The actor, from observation or features to heads; the activation follows every layer but the last."""
    log_std: str | None = None
    """Tensor of A logarithms of standard deviations, for Box; with `use_sde` of [H, A]."""
    log_std_layer: LayerManifest | None = None
    """What gives those logarithms for each observation instead, of the same features as the last of `layers`, and
    brought into bounds by `ppo_engine.deviations`."""
    use_sde: bool = False
    """The variance of an action is Σ φ² exp(2 `log_std`) + 1e-6, with φ [H] what the last of `layers` is given."""
    action_masks: int = 0
    """Columns of the masks that the policy was trained with: one per choice of each head, 2 per bit; 0 for none."""
    squash_output: bool = False
    """The actor's outputs, and samples around them, become actions by (low + high)/2 + (high - low)/2 · tanh."""


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that acts without torch."""

    manifest: PolicyManifest
    tensors: dict[str, NDArray[Any]]

    @property
    def state_size(self) -> int:
        """Columns of the state (M) of a policy with memory; 0 without one."""
        return 0 if self.manifest.memory is None else self.manifest.memory.state_size

    def heads(self, observations: NDArray[Any], state: Floats | None = None) -> Floats:
        """Logits, or means of Box actions before any squashing, [n, outputs], of flat encoded observations [n, D].

        Args:
            state: [n, M], of a policy with memory; zero where an episode starts.
        """
        return self._linear(self.manifest.layers[-1], self._features(self._inputs(observations, state)[0]))

    def log_stds(self, observations: NDArray[Any], state: Floats | None = None) -> Floats:
        """Logarithms of the standard deviations of Box actions before any squashing, [n, A]; A = 0 without any."""
        return self._log_stds(self._features(self._inputs(observations, state)[0]))

    def act(
        self,
        observations: NDArray[Any],
        masks: NDArray[np.bool_] | None = None,
        *,
        deterministic: bool = True,
        generator: np.random.Generator | None = None,
    ) -> Actions:
        """Action rows of flat encoded observations [n, D]: the likeliest ones, or samples drawn from `generator`.

        Args:
            masks: [n, action_masks], False where a choice is not valid; None: all are.
        Raises: ValueError where the policy has a memory; see `step`.
        """
        return self._chosen(self._inputs(observations, None)[0], masks, deterministic, generator)

    def step(
        self,
        observations: NDArray[Any],
        state: Floats,
        masks: NDArray[np.bool_] | None = None,
        *,
        deterministic: bool = True,
        generator: np.random.Generator | None = None,
    ) -> tuple[Actions, Floats]:
        """Like `act`, for policies with memory and without: action rows, and the state [n, M] for the next step.

        Args:
            state: [n, M], M = `state_size`: what the last step gave; zero where an episode starts.
        """
        inputs, after = self._inputs(observations, state)
        return self._chosen(inputs, masks, deterministic, generator), after

    def number_borders(self) -> list[tuple[int, int]]:
        """Where a flat observation holds no image, from begin to end each."""
        return columns_beside([part.image for part in self.manifest.images], self.manifest.observation_size)

    def _inputs(self, observations: NDArray[Any], state: Floats | None) -> tuple[Floats, Floats]:
        """What the actor's first layer is given, [n, F], and the next state [n, M]."""
        features, memory = self._extracted(np.asarray(observations)), self.manifest.memory
        if memory is None:
            return features, np.zeros((len(features), 0), np.float32)
        if state is None:
            raise ValueError("this policy has a memory: it needs a state, and gives the next one by `step`")
        return remember(memory, features, np.asarray(state, np.float32), self.tensors)

    def _extracted(self, observations: NDArray[Any]) -> Floats:
        """The features of images, and the normalised rest, [n, F]."""
        activation = activation_of(self.manifest.activation)
        features = [
            compute(part.layers, pixels_of(part.image, observations), self.tensors, activation)
            for part in self.manifest.images
        ]
        borders = self.number_borders()
        if borders:
            numbers = np.concatenate([observations[:, begin:end] for begin, end in borders], axis=1)
            features.append(self._normalized(numbers.astype(np.float32)))
        return np.concatenate(features, axis=1)

    def _normalized(self, observations: Floats) -> Floats:
        normalizer = self.manifest.normalizer
        if normalizer is None:
            return observations
        mean, variance = self.tensors[normalizer.mean], self.tensors[normalizer.variance]
        scaled: NDArray[np.float64] = (observations.astype(np.float64) - mean) / np.sqrt(variance + normalizer.epsilon)
        return np.clip(scaled, -normalizer.clip, normalizer.clip).astype(np.float32)

    def _features(self, x: Floats) -> Floats:
        """What the last layer is given, [n, H], where the first one is given x [n, F]."""
        activation = activation_of(self.manifest.activation)
        for layer in self.manifest.layers[:-1]:
            x = self._linear(layer, x)
            x = activation(x if layer.norm is None else normalized(x, layer.norm, self.tensors))
        return x

    def _linear(self, layer: LayerManifest, x: Floats) -> Floats:
        return linear(x, self.tensors[layer.weight], self.tensors[layer.bias])

    def _log_stds(self, features: Floats) -> Floats:
        manifest = self.manifest
        if manifest.log_std_layer is not None:
            return within_bounds(self._linear(manifest.log_std_layer, features))
        if manifest.log_std is None:
            return np.zeros((len(features), 0), np.float32)
        log_std: Floats = self.tensors[manifest.log_std]
        if manifest.use_sde:
            variances = np.square(features) @ np.exp(2 * log_std) + np.float32(LEAST_VARIANCE)
            return (0.5 * np.log(variances)).astype(np.float32)
        return np.tile(log_std, (len(features), 1))

    def _chosen(
        self,
        inputs: Floats,
        masks: NDArray[np.bool_] | None,
        deterministic: bool,
        generator: np.random.Generator | None,
    ) -> Actions:
        features, space = self._features(inputs), self.manifest.action_space
        heads = masked_heads(self._linear(self.manifest.layers[-1], features), masks, space)
        if deterministic:
            rows = likeliest_actions(heads, space)
        elif generator is None:
            raise ValueError("sampling actions needs a generator")
        else:
            # With `use_sde`, too, every row is drawn by itself: what it has in common with others is training's affair.
            rows = sampled_actions(heads, self._log_stds(features), space, generator)
        return squashed_actions(rows, space) if self.manifest.squash_output else rows


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
    named = [name for part in manifest.images for name in tensor_names(part.layers)]
    for layer in [*manifest.layers, *filter(None, [manifest.log_std_layer])]:
        named += [layer.weight, layer.bias, *tensor_names(() if layer.norm is None else (layer.norm,))]
    if manifest.memory is not None:
        named += manifest.memory.tensor_names()
    if manifest.normalizer is not None:
        named += [manifest.normalizer.mean, manifest.normalizer.variance]
    if manifest.log_std is not None:
        named.append(manifest.log_std)
    missing = [name for name in named if name not in tensors]
    if missing:
        raise ValueError(f"policy.safetensors lacks {', '.join(missing)}")
    space = manifest.action_space
    boxes = [leaf for leaf in space.leaves if leaf.kind == "box"]
    if manifest.squash_output and not (boxes and all(np.isfinite(bounds(box)).all() for box in boxes)):
        raise ValueError("policy.json squashes actions that have no finite bounds")
    return LoadedPolicy(manifest, {name: tensors[name] for name in named})
