"""Each cell against torch's own, step by step, in float64; and its compiled loops against that, in float32."""

import pytest
import torch
from torch import Tensor, nn

from ppo_engine.networks.parameters import flatten_parameters, initialize
from ppo_engine.recurrent.cells import GRU, LSTM, RETENTION, memory_of
from tests.ppo_engine.recurrent.policies import generator

INPUTS, UNITS, STEPS, ROWS = 3, 5, 7, 4
CELLS = ["lstm", "gru"]


def made(kind: str) -> LSTM | GRU:
    memory = memory_of(kind, INPUTS, UNITS)
    flat, _ = flatten_parameters(memory, torch.device("cpu"))
    initialize(memory, flat, generator(0))
    assert isinstance(memory, LSTM | GRU)
    # Not the initial biases, which are zero where an error would not be seen.
    memory.bias.data += torch.linspace(-0.5, 0.5, memory.bias.numel())
    if isinstance(memory, GRU):
        memory.recalled_bias.data += torch.linspace(0.3, -0.4, UNITS)
    return memory.double()


def torch_cell(memory: LSTM | GRU) -> nn.LSTMCell | nn.GRUCell:
    """torch's cell of the same parameters; its GRU has update and hidden weights in the same order, r, z, n."""
    cell = (nn.LSTMCell if isinstance(memory, LSTM) else nn.GRUCell)(INPUTS, UNITS, dtype=torch.float64)
    cell.weight_ih.data, cell.weight_hh.data = memory.input_weight.data, memory.hidden_weight.data
    cell.bias_ih.data = memory.bias.data
    cell.bias_hh.data.zero_()
    if isinstance(memory, GRU):
        cell.bias_hh.data[2 * UNITS :] = memory.recalled_bias.data
    return cell


def stepped(memory: LSTM | GRU, features: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Hidden states by torch's cell and autograd, and the gradients of the square sum's parameters."""
    cell = torch_cell(memory)
    hidden = []
    for x, start in zip(features, starts, strict=True):
        state = state * (~start)[:, None]
        state = torch.cat(cell(x, state.chunk(2, dim=1)), dim=1) if isinstance(memory, LSTM) else cell(x, state)
        hidden.append(state[:, :UNITS])
    stacked = torch.stack(hidden)
    (stacked * weights_of_loss()).sum().backward()
    gradients = [cell.weight_ih.grad, cell.weight_hh.grad, cell.bias_ih.grad]
    if isinstance(memory, GRU):
        gradients.append(cell.bias_hh.grad[2 * UNITS :])
    return stacked.detach(), [gradient for gradient in gradients if gradient is not None]


def weights_of_loss() -> Tensor:
    return torch.linspace(-1, 1, STEPS * ROWS * UNITS, dtype=torch.float64).view(STEPS, ROWS, UNITS)


def example(memory: LSTM | GRU) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(STEPS, ROWS, INPUTS, dtype=torch.float64, generator=draw, requires_grad=True)
    state = torch.randn(ROWS, memory.state_size, dtype=torch.float64, generator=draw)
    starts = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    starts[0, 1] = starts[3, 2] = starts[6, 0] = starts[3, 1] = starts[4, 1] = True
    return features, state, starts


@pytest.mark.parametrize("kind", CELLS)
def test_a_sequence_with_starts_within_equals_stepping_in_values_and_gradients(kind: str) -> None:
    memory = made(kind)
    features, state, starts = example(memory)
    hidden, after = memory(features, state, starts)
    (hidden * weights_of_loss()).sum().backward()
    of_features, features.grad = features.grad, None
    expected, gradients = stepped(memory, features, state, starts)
    assert torch.allclose(hidden, expected, atol=1e-12, rtol=0)
    assert torch.equal(after[:, :UNITS], hidden[-1])
    assert of_features is not None and features.grad is not None
    assert torch.allclose(of_features, features.grad, atol=1e-12, rtol=0)
    for parameter, gradient in zip(memory.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    memory = made(kind)
    features, state, starts = example(memory)

    def hidden(*_: Tensor) -> Tensor:
        output: Tensor = memory(features, state, starts)[0]
        return output

    assert torch.autograd.gradcheck(hidden, (features, *memory.parameters()))


@pytest.mark.parametrize("kind", CELLS)
def test_compiled_loops_compute_what_torch_does_in_values_and_gradients(kind: str) -> None:
    memory = made(kind)
    features, state, starts = example(memory)
    hidden, after = memory(features, state, starts)
    (hidden * weights_of_loss()).sum().backward()
    exact = [features.grad, *(parameter.grad for parameter in memory.parameters())]
    compiled = made(kind).float()
    rows = features.detach().float().requires_grad_()
    found, found_after = compiled(rows, state.float(), starts)
    assert found.grad_fn is not None and found.grad_fn.name() == {"lstm": "_LSTMBackward", "gru": "_GRUBackward"}[kind]
    (found * weights_of_loss().float()).sum().backward()
    assert torch.allclose(found.double(), hidden, atol=2e-6, rtol=0)
    assert torch.allclose(found_after.double(), after, atol=2e-6, rtol=0)
    for ours, theirs in zip([rows.grad, *(parameter.grad for parameter in compiled.parameters())], exact, strict=True):
        assert ours is not None and theirs is not None
        assert torch.allclose(ours.double(), theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CELLS)
def test_nothing_of_before_a_start_reaches_what_comes_after(kind: str, dtype: torch.dtype) -> None:
    memory = made(kind).to(dtype)
    features, state, _ = example(memory)
    features, state = features.detach().to(dtype).requires_grad_(), state.to(dtype)
    starts = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    starts[3] = True
    poisoned = features.detach().clone()
    poisoned[:3] = 1e6
    ours, _ = memory(features, state, starts)
    theirs, _ = memory(poisoned, state + 7, starts)
    assert torch.equal(ours[3:], theirs[3:])
    (gradient,) = torch.autograd.grad(ours[3:].sum(), features)
    assert torch.equal(gradient[:3], torch.zeros(3, ROWS, INPUTS, dtype=dtype))
    assert gradient[3:].abs().min() > 0


@pytest.mark.parametrize("kind", CELLS)
def test_weights_begin_orthogonal_gate_by_gate_and_gates_begin_to_retain(kind: str) -> None:
    memory = memory_of(kind, INPUTS, UNITS)
    flat, _ = flatten_parameters(memory, torch.device("cpu"))
    initialize(memory, flat, generator(0))
    assert isinstance(memory, LSTM | GRU)
    gates = 4 if kind == "lstm" else 3
    for block in memory.hidden_weight.detach().chunk(gates):
        assert torch.allclose(block @ block.t(), torch.eye(UNITS), atol=1e-6)
    for block in memory.input_weight.detach().chunk(gates):
        assert torch.allclose(block.t() @ block, torch.eye(INPUTS), atol=1e-6)
    expected = [RETENTION if gate == 1 else 0.0 for gate in range(gates) for _ in range(UNITS)]
    assert memory.bias.tolist() == expected
