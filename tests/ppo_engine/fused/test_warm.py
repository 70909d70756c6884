"""What is compiled ahead, and what that must leave alone."""

from typing import Any

import pytest
import torch

from ppo_engine.fused import gru, lstm
from ppo_engine.fused.warm import warm
from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of

LOOPS: list[Any] = [lstm.lstm_forward, lstm.lstm_backward, gru.gru_forward, gru.gru_backward]


def test_warming_asks_nothing_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its first gradient torch starts a thread for each GPU, and a fork server with threads cannot fork."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a gradient was asked of torch")

    monkeypatch.setattr(torch.autograd, "backward", refuse)
    warm()


@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_a_training_with_memory_compiles_nothing_that_was_not_warmed(memory: str) -> None:
    warm()
    before = [list(loop.signatures) for loop in LOOPS]
    assert all(before)
    trainer = Trainer(spec_of(policy={"memory": memory, "memory_size": 3, "sequence_length": 8}))
    run(trainer, 2)
    trainer.close()
    assert [list(loop.signatures) for loop in LOOPS] == before
