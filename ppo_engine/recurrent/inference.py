"""One step of a memory in NumPy, in float32: what a reader of a bundle computes."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ppo_engine.manifest_model import ManifestModel


class MemoryManifest(ManifestModel):
    """The recurrent layer between the features x [n, F] and `layers`: it gives h [n, U] for x, and the next state.

    W, R, b are `input_weight` [G U, F], `hidden_weight` [G U, U] and `bias` [G U], in G blocks of U rows; σ is the
    logistic function. State and output are zero where an episode starts.

    lstm, blocks i, f, g, o and state (h, c) [n, 2 U]:
        i, f, g, o = σ, σ, tanh, σ of W x + R h + b;  c' = f c + i g;  h' = o tanh c'
    gru, blocks r, z, n and state h [n, U], with `recalled_bias` q [U]:
        r, z = σ of W x + R h + b;  n = tanh(W x + b + r (R h + q));  h' = (1 - z) n + z h
    """

    kind: Literal["lstm", "gru"]
    units: int
    input_weight: str
    hidden_weight: str
    bias: str
    recalled_bias: str | None = None

    @property
    def state_size(self) -> int:
        """Columns of the state (M)."""
        return self.units * (2 if self.kind == "lstm" else 1)

    def tensor_names(self) -> list[str]:
        names = [self.input_weight, self.hidden_weight, self.bias]
        return names if self.recalled_bias is None else [*names, self.recalled_bias]


def remember(
    memory: MemoryManifest,
    features: NDArray[np.float32],
    state: NDArray[np.float32],
    tensors: Mapping[str, NDArray[Any]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hidden state [n, U] and next state [n, M] of features [n, F] and a state [n, M]."""
    from_input = features @ tensors[memory.input_weight].T + tensors[memory.bias]
    h = state[:, : memory.units]
    from_state = h @ tensors[memory.hidden_weight].T
    if memory.kind == "lstm":
        i, f, g, o = np.split(from_input + from_state, 4, axis=1)
        c = _logistic(f) * state[:, memory.units :] + _logistic(i) * np.tanh(g)
        h = _logistic(o) * np.tanh(c)
        return h, np.concatenate([h, c], axis=1)
    gates = _logistic((from_input + from_state)[:, : 2 * memory.units])
    r, z = np.split(gates, 2, axis=1)
    recalled = from_state[:, 2 * memory.units :] + tensors[memory.recalled_bias or ""]
    n = np.tanh(from_input[:, 2 * memory.units :] + r * recalled)
    h = n + z * (h - n)
    return h, h


def _logistic(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """By way of tanh, which does not overflow."""
    y: NDArray[np.float32] = np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x)
    return y
