"""The gradient of a minibatch's loss, computed chunk by chunk."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import inlined
from ppo_engine.fused.backward import Backward, backward, backward_for
from ppo_engine.fused.divergences import add_kl_gradients, cost_and_slope, mean_kl
from ppo_engine.fused.head_gradients import output_gradients
from ppo_engine.fused.heads import Head, forbid, log_probs_and_entropies
from ppo_engine.fused.loss import LOSS, LossWeights, Rows, loss_and_derivatives
from ppo_engine.fused.network import Activations, Floats, Network, activations_for, forward, transpose
from ppo_engine.loss import LossTerms
from ppo_engine.policy import Policy

TERMS = len(LossTerms._fields)
SMALLEST_CHUNK = 64
"""Rows that go forwards and backwards together: few enough to stay in the cache, where products took half the time, but
no fewer than the widest layer has units, since each chunk adds to the gradients of all weights."""


class Workspace(NamedTuple):
    """Memory for a chunk of a minibatch, which the next one overwrites; [rows, ...] each."""

    activations: Activations
    gradient: Backward
    probabilities: Floats
    log_probs: Floats
    entropies: Floats
    by_log_prob: Floats


def rows_for(policy: Policy, rows: int, *, outputs: int = 0) -> Rows:
    """Memory for so many rows of a rollout, with so many columns of the outputs that it was acted by."""
    observations = np.zeros((rows, policy.observation_size), np.float32)
    actions = np.zeros((rows, policy.distribution.columns), np.float32)
    log_probs, values, advantages, returns = np.zeros((4, rows), np.float32)
    acted = np.zeros((rows, outputs), np.float32)
    masks = np.zeros((rows, policy.distribution.masks), np.bool_)
    return Rows(observations, actions, log_probs, values, advantages, returns, acted, masks)


def workspace_for(network: Network, batch_size: int) -> Workspace:
    """Memory for the chunks of minibatches of up to `batch_size` rows."""
    rows = min(batch_size, max([SMALLEST_CHUNK, *network.hidden[:, :, 3].ravel().tolist()]))
    return Workspace(
        activations_for(network, rows),
        backward_for(network, rows),
        np.zeros((rows, int(network.heads[0, 3])), np.float32),
        *np.zeros((3, rows), np.float32),
    )


@inlined
def compute_gradients(
    network: Network,
    head: Head,
    by: LossWeights,
    minibatch: Rows,
    workspace: Workspace,
    gradients: Floats,
    terms: NDArray[np.float64],
    is_penalised: bool,
) -> None:
    """Writes the terms of a minibatch's loss, and its gradient by all parameters [P].

    Args:
        is_penalised: whether the KL from the policy that acted costs; a constant where this is compiled.
    """
    transpose(network)
    terms[:TERMS] = 0.0
    gradients[:] = np.float32(0)
    rows = len(minibatch.values)
    share = np.float32(1 / rows)
    cost, slope = 0.0, 0.0
    if is_penalised:
        old, activations = minibatch.outputs, workspace.activations
        log_std = by.penalty.log_std
        kl = mean_kl(network, head, minibatch.observations, minibatch.masks, old, log_std, activations)
        cost, slope = cost_and_slope(by.penalty, kl)
    by_kl = np.float32(slope) * share
    chunk_rows = len(workspace.log_probs)
    for first in range(0, rows, chunk_rows):
        chunk = part(minibatch, first, min(first + chunk_rows, rows))
        work = first_rows(workspace, len(chunk.values))
        add_gradients(network, head, by, share, by_kl, chunk, work, gradients, terms, is_penalised)
    terms[LOSS] += np.float32(cost)


@inlined
def add_gradients(
    network: Network,
    head: Head,
    by: LossWeights,
    share: np.float32,
    by_kl: np.float32,
    chunk: Rows,
    work: Workspace,
    gradients: Floats,
    terms: NDArray[np.float64],
    is_penalised: bool,
) -> None:
    """Adds what some rows of a minibatch give to its loss and gradient.

    Args:
        share: what each row counts by.
        by_kl: the loss's derivative by the KL of each row from the policy that acted.
    """
    activations, gradient = work.activations, work.gradient
    outputs, log_std = activations.outputs, network.parameters[network.log_std :]
    forward(network, chunk.observations, activations)
    forbid(head, chunk.masks, outputs)
    log_probs_and_entropies(head, outputs, log_std, chunk.actions, work.log_probs, work.entropies, work.probabilities)
    values, by_value = activations.values.reshape(len(chunk.values)), gradient.values.reshape(len(chunk.values))
    loss_and_derivatives(work.log_probs, work.entropies, values, chunk, by, share, work.by_log_prob, by_value, terms)
    output_gradients(
        head,
        outputs,
        work.probabilities,
        log_std,
        chunk.actions,
        work.by_log_prob,
        -np.float32(by.ent_coef) * share,
        gradient.outputs,
        gradients[network.log_std :],
    )
    if is_penalised:
        add_kl_gradients(
            head,
            chunk.outputs,
            by.penalty.log_std,
            outputs,
            work.probabilities,
            log_std,
            by_kl,
            gradient.outputs,
            gradients[network.log_std :],
        )
    backward(network, chunk.observations, activations, gradient, gradients)


@inlined
def part(rows: Rows, first: int, last: int) -> Rows:
    """The rows from `first` up to `last`, in the same memory."""
    return Rows(
        rows.observations[first:last],
        rows.actions[first:last],
        rows.log_probs[first:last],
        rows.values[first:last],
        rows.advantages[first:last],
        rows.returns[first:last],
        rows.outputs[first:last],
        rows.masks[first:last],
    )


@inlined
def first_rows(workspace: Workspace, rows: int) -> Workspace:
    """The workspace of a chunk of so many rows, in the same memory."""
    activations, gradient = workspace.activations, workspace.gradient
    return Workspace(
        Activations(activations.hidden, activations.outputs[:rows], activations.values[:rows]),
        Backward(gradient.outputs[:rows], gradient.values[:rows], gradient.features, gradient.weights),
        workspace.probabilities[:rows],
        workspace.log_probs[:rows],
        workspace.entropies[:rows],
        workspace.by_log_prob[:rows],
    )


@inlined
def gather(batch: Rows, order: NDArray[np.int64], minibatch: Rows) -> None:
    """Copies the rows of a minibatch next to each other."""
    for row in range(len(order)):
        source = order[row]
        for feature in range(batch.observations.shape[1]):
            minibatch.observations[row, feature] = batch.observations[source, feature]
        for column in range(batch.actions.shape[1]):
            minibatch.actions[row, column] = batch.actions[source, column]
        for column in range(batch.outputs.shape[1]):
            minibatch.outputs[row, column] = batch.outputs[source, column]
        for column in range(batch.masks.shape[1]):
            minibatch.masks[row, column] = batch.masks[source, column]
        minibatch.log_probs[row] = batch.log_probs[source]
        minibatch.values[row] = batch.values[source]
        minibatch.advantages[row] = batch.advantages[source]
        minibatch.returns[row] = batch.returns[source]
