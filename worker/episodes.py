"""In the child: plays the episodes of an evaluation, a block at a time."""

from pathlib import Path

import torch

from ppo_engine.bundle import LoadedPolicy, load_policy
from ppo_engine.errors import CheckpointCorrupt
from ppo_engine.evaluate import Evaluation, Playing, cut_in_words, evaluate_blocks, joined
from ppo_engine.fingerprint import fingerprint
from ppo_engine.spec import EvaluationPlan
from ppo_engine.threads import limit_threads
from worker.attention import Attention, Interrupted
from worker.journal import JournalWriter
from worker.lifeline import Lifeline
from worker.protocol import (
    Assignment,
    EndRecord,
    EpisodesRecord,
    PlayingRecord,
    ResultRecord,
    RuntimeRecord,
    interrupted,
)


def play(plan: EvaluationPlan, assignment: Assignment, journal: JournalWriter, lifeline: Lifeline) -> EndRecord:
    """Play what is left of the plan, until a command ends it; each block is journaled when it is done.

    A block that a command ends is played again from its start: seeds are its own, and nothing of it was told.

    Raises: CheckpointCorrupt, and what `evaluate_blocks` raises.
    """
    limit_threads(assignment.threads)
    policy = read_policy(assignment)
    played = [Evaluation(block.returns, block.lengths, block.n_cut) for block in assignment.played]
    journal.append(
        RuntimeRecord(
            runtime=fingerprint(torch.device("cpu"), backend="bundle", threads=assignment.threads),
            resumed_iteration=len(played),
            resume=None,
            resume_reason=None,
        )
    )

    def tell(playing: Playing) -> None:
        timesteps = timesteps_of(played) + playing.timesteps
        journal.append(PlayingRecord(iteration=len(played), timesteps=timesteps))

    try:
        for block in evaluate_blocks(policy, plan, first=len(played), meanwhile=Attention(lifeline, tell)):
            played.append(block)
            journal.append(record_of(played))
    except Interrupted as interruption:
        return interrupted(interruption.command, timesteps_of(played))
    whole = joined(played)
    journal.append(ResultRecord(result=whole.statistics()))
    episodes = len(whole.returns)
    return EndRecord(
        outcome="succeeded",
        code="episodes_played",
        message=f"played {episodes} of {plan.n_episodes} episodes"
        + (f"; {cut_in_words(whole.n_cut)}" if whole.n_cut else ""),
        timesteps=timesteps_of(played),
        episodes=episodes,
    )


def read_policy(assignment: Assignment) -> LoadedPolicy:
    """The policy of the checkpoint's bundle. Raises CheckpointCorrupt."""
    assert assignment.resume_from is not None, "what is to be evaluated was fetched"
    try:
        return load_policy(Path(assignment.resume_from))
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"the policy cannot be read: {error}") from error


def record_of(played: list[Evaluation]) -> EpisodesRecord:
    """The newest block, and the mean of all so far."""
    block, sofar = played[-1], joined(played)
    return EpisodesRecord(
        iteration=len(played),
        timesteps=timesteps_of(played),
        metrics={"eval/n_episodes": float(len(sofar.returns)), "eval/mean_reward": sofar.mean_reward},
        returns=block.returns,
        lengths=block.lengths,
        n_cut=block.n_cut,
    )


def timesteps_of(played: list[Evaluation]) -> int:
    return sum(length for block in played for length in block.lengths)
