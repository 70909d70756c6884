"""torch generators on a device, seeded from the named streams, whose state a checkpoint can hold."""

from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

KIND = "torch"


def device_generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """A generator at the start of its stream."""
    generator = torch.Generator(device)
    generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
    return generator


def generator_state(generator: torch.Generator) -> dict[str, JsonValue]:
    """Where the generator stands, as JSON: it can be restored on a device of the same kind only."""
    state = generator.get_state().numpy().tobytes().hex()
    return {"bit_generator": KIND, "device": generator.device.type, "state": state}


def restore_generator(generator: torch.Generator, state: dict[str, Any]) -> None:
    """Puts the generator where `generator_state` was taken.

    Raises:
        ValueError: the state is that of another kind of generator, or of another kind of device.
    """
    if (state.get("bit_generator"), state.get("device")) != (KIND, generator.device.type):
        raise ValueError(f"the state is not that of a torch generator on {generator.device.type}")
    generator.set_state(torch.frombuffer(bytearray.fromhex(state["state"]), dtype=torch.uint8))
