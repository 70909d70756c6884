"""The networks of actor and critic, whose parameters lie in one flat buffer."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppo_engine.distributions import (
    LOG_STD_BOUNDS,
    Bernoulli,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    SquashedGaussian,
)
from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.spec import InvalidSpec, PolicySpec, SpecFault
from ppo_engine.squashing import squashed

HIDDEN_GAIN, ACTOR_GAIN, CRITIC_GAIN = math.sqrt(2), 0.01, 1.0
"""Gains of the orthogonal initialisation. Source: Engstrom et al. 2020, arXiv:2005.12729."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a named tensor lies in the flat buffer."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def view(self, flat: Tensor) -> Tensor:
        return flat[self.offset : self.offset + self.size].view(self.shape)


class Policy(nn.Module):
    """Actor and critic: multilayer perceptrons, side by side or with one trunk.

    Both networks have the same hidden sizes, so a hidden layer of both is one stacked parameter [K, outputs, inputs]
    with K = 2, or K = 1 for a shared trunk, and one batched product computes it. `parameters()` are views of `flat`, in
    its order; `gradients` holds their gradients likewise. `named_views` gives the single layers their names:
    `actor/0/weight` and so on, or `trunk/0/weight` for the shared layers.
    """

    def __init__(
        self,
        spec: PolicySpec,
        observation_size: int,
        action_space: ActionSpace,
        *,
        generator: np.random.Generator,
        device: torch.device | None = None,
    ) -> None:
        """Draws the initial weights from `generator`, the actor's before the critic's in each layer.

        Raises: InvalidSpec where the spec asks for squashed actions and the action space has no finite bounds.
        """
        super().__init__()
        self.spec = spec
        self.observation_size = observation_size
        self.action_space = action_space
        self.distribution = distribution_of(action_space, squash_output=spec.squash_output)
        self.device = device or torch.device("cpu")
        self._activation = torch.relu if spec.activation == "relu" else tanh_for(self.device)
        self.trunks = 1 if spec.share_features else 2
        shapes = list(self._stacked_shapes())
        size = sum(math.prod(shape) for shape in shapes)
        self.flat = torch.zeros(size, device=self.device)
        self.gradients = torch.zeros(size, device=self.device)
        self._stacked = nn.ParameterList()
        offset = 0
        for shape in shapes:
            place = TensorPlace("", offset, shape)
            parameter = nn.Parameter(place.view(self.flat))
            parameter.grad = place.view(self.gradients)
            self._stacked.append(parameter)
            offset += place.size
        self.places = tuple(self._named_places())
        self._initialize(generator)
        # Tuples of the same parameters: an attribute would register each of them once more, in another order.
        depth = 2 * len(spec.hidden_sizes)
        parameters: tuple[Tensor, ...] = tuple(self._stacked)
        self._hidden = tuple(zip(parameters[:depth:2], parameters[1:depth:2], strict=True))
        self._heads = parameters[depth:]

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the action head [B, outputs] and values [B] of normalised observations [B, D]."""
        actor_features, critic_features = self._features(observations)
        actor_weight, actor_bias, critic_weight, critic_bias, _ = self._heads
        outputs = torch.addmm(actor_bias, actor_features, actor_weight.t())
        values = torch.addmm(critic_bias, critic_features, critic_weight.t())
        return outputs, values.squeeze(-1)

    @property
    def log_std(self) -> Tensor:
        """[A], or empty where actions are discrete."""
        return self._heads[-1]

    def values(self, observations: Tensor) -> Tensor:
        """V of normalised observations [B, D]: [B]."""
        values: Tensor = self.forward(observations)[1]
        return values

    def act(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled action rows [B, columns], outputs of the action head [B, outputs], and values [B]."""
        outputs, values = self.forward(observations)
        return self.distribution.sample(outputs, self.log_std, noise), outputs, values

    def evaluate_actions(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of given action rows, entropies, and values: [B] each."""
        outputs, values = self.forward(observations)
        log_probs, entropies = self.distribution.log_probs_and_entropies(outputs, self.log_std, actions)
        return log_probs, entropies, values

    @torch.no_grad()
    def deterministic_actions(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """The likeliest action rows [B, columns] of normalised observations [B, D], as environments take them."""
        outputs, _ = self.forward(torch.tensor(observations, device=self.device))
        return self.environment_rows(self.distribution.mode(outputs))

    def environment_rows(self, actions: Tensor) -> NDArray[Any]:
        """Action rows [B, columns] of the distribution as the environment takes them: squashed, if the spec says so."""
        rows: NDArray[Any] = actions.cpu().numpy()
        low, high = self.action_space.low, self.action_space.high
        if not self.spec.squash_output or low is None or high is None:
            return rows
        return squashed(rows, low, high)

    @torch.no_grad()
    def project(self) -> None:
        """Brings the log-std back into its bounds after a step; unlike a clamp in the loss, that kills no gradient."""
        if self.log_std.numel():
            self.log_std.clamp_(*LOG_STD_BOUNDS)

    def metrics(self) -> dict[str, float]:
        """What of the policy itself is worth watching."""
        return {"train/std": float(self.log_std.detach().exp().mean())} if self.log_std.numel() else {}

    def named_views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of `flat` [P], this policy's own or one laid out like it, by the names that files bear."""
        return {place.name: place.view(flat) for place in self.places}

    def arrays(self, flat: Tensor) -> dict[str, NDArray[Any]]:
        """`named_views` as NumPy arrays; on the CPU they share the tensor's memory."""
        return {name: view.detach().cpu().numpy() for name, view in self.named_views(flat).items()}

    def layer_names(self) -> tuple[str, ...]:
        """The actor's linear layers from observation to head, without `/weight` and `/bias`."""
        depth = len(self.spec.hidden_sizes)
        trunk = "trunk" if self.spec.share_features else "actor"
        return (*(f"{trunk}/{layer}" for layer in range(depth)), f"actor/{0 if self.spec.share_features else depth}")

    def _features(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features of actor and critic, [B, H] each."""
        if not self._hidden:
            return observations, observations
        features = observations.expand(self.trunks, *observations.shape)  # [K, B, D]
        for weight, bias in self._hidden:
            features = self._activation(torch.baddbmm(bias, features, weight.transpose(1, 2)))  # [K, B, H]
        networks = features.unbind()
        return networks[0], networks[-1]

    def _stacked_shapes(self) -> Iterator[tuple[int, ...]]:
        inputs = self.observation_size
        for hidden in self.spec.hidden_sizes:
            yield self.trunks, hidden, inputs
            yield self.trunks, 1, hidden
            inputs = hidden
        for outputs in (self.distribution.outputs, 1):
            yield outputs, inputs
            yield (outputs,)
        yield (self.distribution.columns if isinstance(self.distribution, DiagonalGaussian) else 0,)

    def _named_places(self) -> Iterator[TensorPlace]:
        networks = ("trunk",) if self.spec.share_features else ("actor", "critic")
        depth, inputs, offset = len(self.spec.hidden_sizes), self.observation_size, 0
        heads = 0 if self.spec.share_features else depth
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for layer, hidden in enumerate(self.spec.hidden_sizes):
            shapes += [(f"{network}/{layer}/weight", (hidden, inputs)) for network in networks]
            shapes += [(f"{network}/{layer}/bias", (hidden,)) for network in networks]
            inputs = hidden
        for network, outputs in (("actor", self.distribution.outputs), ("critic", 1)):
            shapes += [(f"{network}/{heads}/weight", (outputs, inputs)), (f"{network}/{heads}/bias", (outputs,))]
        if isinstance(self.distribution, DiagonalGaussian):
            shapes.append(("log_std", (self.distribution.columns,)))
        for name, shape in shapes:
            yield TensorPlace(name, offset, shape)
            offset += math.prod(shape)

    @torch.no_grad()
    def _initialize(self, generator: np.random.Generator) -> None:
        heads = {f"{self.layer_names()[-1]}/weight": ACTOR_GAIN}
        heads[f"critic/{0 if self.spec.share_features else len(self.spec.hidden_sizes)}/weight"] = CRITIC_GAIN
        for name, view in self.named_views(self.flat).items():
            if name == "log_std":
                view.fill_(self.spec.log_std_init)
            elif name.endswith("/weight"):
                weight = orthogonal(generator, (view.shape[0], view.shape[1]), heads.get(name, HIDDEN_GAIN))
                view.copy_(torch.from_numpy(weight))


class _NumpyTanh(torch.autograd.Function):
    """tanh on the CPU by NumPy, whose vectorised one took 9 µs for 256 × 128 numbers where torch's took 84."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # Into memory that torch aligned: where a matrix lies can change the last bit of a product.
        y = torch.empty_like(x)
        np.tanh(x.detach().numpy(), out=y.numpy())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.tanh_backward(gradients[0], y)
        return gradient


def tanh_for(device: torch.device) -> Callable[[Tensor], Tensor]:
    """The fastest tanh of a device."""
    fastest: Callable[[Tensor], Tensor] = _NumpyTanh.apply if device.type == "cpu" else torch.tanh
    return fastest


def distribution_of(action_space: ActionSpace, *, squash_output: bool = False) -> Distribution:
    """The distribution that fits an action space.

    Raises: InvalidSpec where actions cannot be squashed, since the space has no finite bounds.
    """
    if squash_output:
        if not action_space.is_bounded:
            raise InvalidSpec([SpecFault("/policy/squash_output", "needs Box actions with finite bounds")])
        return SquashedGaussian(action_space.columns)
    if action_space.kind == "box":
        return DiagonalGaussian(action_space.columns)
    if action_space.kind == "multi_binary":
        return Bernoulli(action_space.columns)
    return MultiCategorical(action_space.sizes)


def orthogonal(generator: np.random.Generator, shape: tuple[int, int], gain: float) -> NDArray[np.float32]:
    """A matrix with orthogonal rows or columns, whichever are fewer, of length `gain`.

    Source: Saxe et al. 2014, arXiv:1312.6120; uniform over orthogonal matrices by the sign of R's diagonal.
    """
    rows, columns = shape
    normal = generator.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))
    return (gain * (q if rows >= columns else q.T)).astype(np.float32)
