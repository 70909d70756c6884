"""The hidden layers of actor and critic: multilayer perceptrons, side by side or one for both."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppo_engine.convolutions import NORM_EPSILON
from ppo_engine.networks.activations import activation_for
from ppo_engine.networks.initialization import HIDDEN_GAIN
from ppo_engine.networks.parameters import NamedModule, NamedTensor
from ppo_engine.spec import PolicySpec


class Trunks(NamedModule):
    """K multilayer perceptrons of the same sizes: K = 2 for actor and critic, K = 1 for a trunk that they share.

    A layer of both is one stacked parameter [K, outputs, inputs], and one batched product computes it. The single
    layers are named `actor/0/weight` and so on, or `trunk/0/weight` where they are shared. With layer norm, each has
    `scale` and `shift` too, which come before the activation.
    """

    def __init__(self, spec: PolicySpec, inputs: int, device: torch.device) -> None:
        super().__init__()
        self.names = ("trunk",) if spec.share_features else ("actor", "critic")
        self._activation = activation_for(spec.activation, device)
        # Tuples of parameters, which registers none of them; the list does, in their order.
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._norms: list[tuple[Tensor, Tensor]] = []
        self._stacked = nn.ParameterList()
        for layer, units in enumerate(spec.hidden_sizes):
            self._layers.append(self._linear(layer, inputs, units))
            if spec.layer_norm:
                self._norms.append(self._norm(layer, units))
            inputs = units
        self.outputs = inputs
        """Features that each perceptron ends in (H)."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What actor and critic make of the features [B, F] that both are given: [B, H] each."""
        if not self._layers:
            return features, features
        x = features.expand(len(self.names), *features.shape)  # [K, B, F]
        for layer, (weight, bias) in enumerate(self._layers):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))  # [K, B, H]
            if self._norms:
                scale, shift = self._norms[layer]
                x = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON), scale)
            x = self._activation(x)
        networks = x.unbind()
        return networks[0], networks[-1]

    def _linear(self, layer: int, inputs: int, units: int) -> tuple[Tensor, Tensor]:
        """Stacked weights [K, units, inputs] and biases [K, 1, units]."""
        weights = [NamedTensor(f"{name}/{layer}/weight", (units, inputs), HIDDEN_GAIN) for name in self.names]
        biases = [NamedTensor(f"{name}/{layer}/bias", (units,)) for name in self.names]
        return self._stack(weights, (units, inputs)), self._stack(biases, (1, units))

    def _norm(self, layer: int, units: int) -> tuple[Tensor, Tensor]:
        """Stacked scales and shifts, [K, 1, units] each."""
        scales = [NamedTensor(f"{name}/{layer}/scale", (units,), fill=1.0) for name in self.names]
        shifts = [NamedTensor(f"{name}/{layer}/shift", (units,)) for name in self.names]
        return self._stack(scales, (1, units)), self._stack(shifts, (1, units))

    def _stack(self, tensors: list[NamedTensor], shape: tuple[int, ...]) -> Tensor:
        parameter = self.parameter(*tensors, shape=(len(self.names), *shape))
        self._stacked.append(parameter)
        return parameter
