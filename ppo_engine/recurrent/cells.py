"""What a policy remembers by: LSTM, GRU, or nothing, over sequences in which episodes may start anywhere."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ppo_engine.fused.gru import GRU_ROOM, gru_backward, gru_forward
from ppo_engine.fused.lstm import LSTM_ROOM, Flags, Floats, lstm_backward, lstm_forward
from ppo_engine.networks.parameters import NamedModule, NamedTensor

GAIN = 1.0
"""Of the orthogonal weights, gate by gate: neither the observations nor the hidden state grow or shrink."""
RETENTION = 1.0
"""Initial bias of the gates that keep what is remembered: the forget gate of the LSTM, the update gate of the GRU. A
fresh cell then keeps 73 % of a step, and not half. Source: Jozefowicz et al. 2015, "An Empirical Exploration of
Recurrent Network Architectures", which found it to matter more than the choice of the cell."""

MemoryKind = Literal["none", "lstm", "gru"]


class NoMemory(nn.Module):
    """Features pass through; the state has no columns."""

    state_size = 0

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.outputs = inputs

    def forward(self, features: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        return features, state


class LSTM(NamedModule):
    """Its state is the hidden state, then the cell state: [S, 2U]."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.outputs, self.state_size = units, 2 * units
        self.input_weight = self.parameter(NamedTensor("memory/input/weight", (4 * units, inputs), GAIN, blocks=4))
        self.hidden_weight = self.parameter(NamedTensor("memory/hidden/weight", (4 * units, units), GAIN, blocks=4))
        self.bias = self.parameter(NamedTensor("memory/bias", (4 * units,), fill=(0.0, RETENTION, 0.0, 0.0), blocks=4))

    def forward(self, features: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hidden states [L, S, U] of features [L, S, F], and the state [S, 2U] after the last step.

        Args:
            state: [S, 2U] that the first step begins with, but where an episode starts there.
            starts: [L, S] bool; the state is zeroed before such a step. None: before none.
        """
        inputs = _through(features, self.input_weight, self.bias)
        steps = _lstm if _is_compiled(inputs) else lstm_steps
        return steps(inputs, self.hidden_weight, state, starts)


class GRU(NamedModule):
    """Its state is the hidden state: [S, U]."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.outputs = self.state_size = units
        self.input_weight = self.parameter(NamedTensor("memory/input/weight", (3 * units, inputs), GAIN, blocks=3))
        self.hidden_weight = self.parameter(NamedTensor("memory/hidden/weight", (3 * units, units), GAIN, blocks=3))
        self.bias = self.parameter(NamedTensor("memory/bias", (3 * units,), fill=(0.0, RETENTION, 0.0), blocks=3))
        self.recalled_bias = self.parameter(NamedTensor("memory/recalled/bias", (units,)))

    def forward(self, features: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `LSTM.forward`, with a state [S, U]."""
        inputs = _through(features, self.input_weight, self.bias)
        steps = _gru if _is_compiled(inputs) else gru_steps
        return steps(inputs, self.hidden_weight, self.recalled_bias, state, starts)


def memory_of(kind: MemoryKind, inputs: int, units: int) -> NoMemory | LSTM | GRU:
    """What remembers, of so many units, behind an extractor of so many features."""
    if kind == "none":
        return NoMemory(inputs)
    return LSTM(inputs, units) if kind == "lstm" else GRU(inputs, units)


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, state: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        hidden, after, *ctx.loop = _lstm_forward(inputs, weight, state, starts)
        ctx.mark_non_differentiable(after)
        return hidden, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (left, weight, starts) = _array(gradients[0]), ctx.loop
        steps, rows, units = gradient.shape
        d_inputs, d_weight = torch.empty(steps, rows, 4 * units), torch.empty(weight.shape)
        lstm_backward(left, weight, starts, gradient, _room(2, rows, units), d_inputs.numpy(), d_weight.numpy())
        return d_inputs, d_weight, None, None


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, state: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        hidden, after, *ctx.loop = _gru_forward(inputs, weight, bias, state, starts)
        ctx.mark_non_differentiable(after)
        return hidden, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (left, weight, starts) = _array(gradients[0]), ctx.loop
        steps, rows, units = gradient.shape
        room, d_products = _room(2, rows, units), _room(steps, rows, 3 * units)
        answers = torch.empty(steps, rows, 3 * units), torch.empty(weight.shape), torch.empty(units)
        changes = [answer.numpy() for answer in answers]
        gru_backward(left, weight, starts, gradient, room, d_products, *changes)
        return *answers, None, None


def _is_compiled(inputs: Tensor) -> bool:
    """Whether there are compiled loops for these numbers."""
    return inputs.device.type == "cpu" and inputs.dtype == torch.float32


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().contiguous().numpy()
    return array


def _room(*shape: int) -> Floats:
    """Room for numbers, which torch aligns: where a matrix lies can change the last bit of a product."""
    room: Floats = torch.empty(shape).numpy()
    return room


def _flags(starts: Tensor | None, steps: int, rows: int) -> Flags:
    flags: Flags = np.zeros((steps, rows), np.bool_) if starts is None else starts.contiguous().numpy()
    return flags


def _lstm_forward(
    inputs: Tensor, weight: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor, Floats, Floats, Flags]:
    """Hidden states, the state after them, and what the backward pass takes: what is left, weight, and starts."""
    steps, rows, units = *inputs.shape[:2], weight.shape[1]
    hidden, after, left = torch.empty(steps, rows, units), state.clone(), _room(steps * rows * units * LSTM_ROOM)
    weights, flags = _array(weight), _flags(starts, steps, rows)
    lstm_forward(_array(inputs), weights, flags, after.numpy(), hidden.numpy(), left)
    return hidden, after, left, weights, flags


def _gru_forward(
    inputs: Tensor, weight: Tensor, bias: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor, Floats, Floats, Flags]:
    """As `_lstm_forward`."""
    steps, rows, units = *inputs.shape[:2], weight.shape[1]
    hidden, after, left = torch.empty(steps, rows, units), state.clone(), _room(steps * rows * units * GRU_ROOM)
    weights, flags = _array(weight), _flags(starts, steps, rows)
    gru_forward(_array(inputs), weights, _array(bias), flags, after.numpy(), hidden.numpy(), left)
    return hidden, after, left, weights, flags


# Typed, which `apply` is not.
_differentiable_lstm: Callable[..., tuple[Tensor, Tensor]] = _LSTM.apply
_differentiable_gru: Callable[..., tuple[Tensor, Tensor]] = _GRU.apply


def _lstm(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Acting needs no gradient, nor what torch does to prepare for one."""
    return _differentiable_lstm(*inputs) if torch.is_grad_enabled() else _lstm_forward(*inputs)[:2]


def _gru(*inputs: Any) -> tuple[Tensor, Tensor]:
    return _differentiable_gru(*inputs) if torch.is_grad_enabled() else _gru_forward(*inputs)[:2]


def lstm_steps(inputs: Tensor, weight: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """What `_LSTM` computes, by torch, for other devices and numbers."""
    h, c = state.chunk(2, dim=1)
    hidden = []
    for t, row in enumerate(inputs):
        if starts is not None:
            h, c = (part.masked_fill(starts[t, :, None], 0.0) for part in (h, c))
        gates = torch.addmm(row, h, weight.t())
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
    return torch.stack(hidden), torch.cat([h, c], dim=1).detach()


def gru_steps(
    inputs: Tensor, weight: Tensor, bias: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What `_GRU` computes, by torch, for other devices and numbers."""
    h, units = state, state.shape[1]
    hidden = []
    for t, row in enumerate(inputs):
        if starts is not None:
            h = h.masked_fill(starts[t, :, None], 0.0)
        product = h @ weight.t()
        r, z = (row[:, : 2 * units] + product[:, : 2 * units]).sigmoid().chunk(2, dim=1)
        n = (row[:, 2 * units :] + r * (product[:, 2 * units :] + bias)).tanh()
        h = n + z * (h - n)
        hidden.append(h)
    return torch.stack(hidden), h.detach()


def _through(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer [L, S, F] → [L, S, outputs]: one matrix product for all steps."""
    flat = torch.addmm(bias, features.flatten(0, 1), weight.t())
    return flat.view(*features.shape[:2], -1)
