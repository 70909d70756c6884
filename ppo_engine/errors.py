"""Everything that the engine raises for a caller to answer; each kind has a stable `code`, and all of them pickle.

EngineError
├── TrainingError
│   └── TrainingDiverged
├── EnvironmentFault
│   ├── EnvironmentFailed
│   ├── EnvironmentTimedOut
│   ├── EnvironmentWorkerDied
│   └── InvalidObservation
├── UnknownEnvironment
├── UnsupportedSpace
├── DeviceUnavailable
└── CheckpointError
    ├── CheckpointCorrupt
    └── CheckpointMismatch
"""

from dataclasses import dataclass
from typing import ClassVar


class EngineError(Exception):
    """Training cannot go on."""

    code: ClassVar[str] = "engine_error"


class TrainingError(EngineError):
    """The training itself went wrong."""

    code: ClassVar[str] = "training_error"


class TrainingDiverged(TrainingError):
    """A number of the training is NaN or infinite; the message names the tensor."""

    code: ClassVar[str] = "non_finite"


@dataclass(frozen=True, slots=True)
class EnvironmentPlace:
    """Where in its life an environment was; episodes and steps count from 0, step 0 being the reset."""

    env_id: str
    env_index: int
    episode: int
    step: int

    def __str__(self) -> str:
        return f"{self.env_id}, environment {self.env_index}, episode {self.episode}, step {self.step}"


class EnvironmentFault(EngineError):
    """An environment did what it must not; the message says which one, in which episode, at which step."""

    code: ClassVar[str] = "env_fault"

    def __init__(self, fault: str, place: EnvironmentPlace, traceback_text: str = "") -> None:
        super().__init__(fault, place, traceback_text)
        self.fault = fault
        self.place = place
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}"


class EnvironmentFailed(EnvironmentFault):
    """It raised; `traceback_text` is its traceback."""

    code: ClassVar[str] = "env_error"


class EnvironmentTimedOut(EnvironmentFault):
    """A reset or a step took longer than `step_timeout_seconds`."""

    code: ClassVar[str] = "env_timeout"


class EnvironmentWorkerDied(EnvironmentFault):
    """The process that stepped it is gone."""

    code: ClassVar[str] = "env_worker_died"


class InvalidObservation(EnvironmentFault):
    """It returned a reward or observation that is not finite, or an observation that is not of its space."""

    code: ClassVar[str] = "env_invalid_output"


class UnknownEnvironment(EngineError):
    """No environment of that id is installed or registered as a plugin."""

    code: ClassVar[str] = "unknown_environment"


class UnsupportedSpace(EngineError):
    """The environment's observation or action space is of a kind that the engine cannot train on."""

    code: ClassVar[str] = "unsupported_space"


class DeviceUnavailable(EngineError):
    """The spec asks for a device that this machine has not."""

    code: ClassVar[str] = "device_unavailable"


class CheckpointError(EngineError):
    """A checkpoint cannot be used."""

    code: ClassVar[str] = "checkpoint_error"


class CheckpointCorrupt(CheckpointError):
    """A file of it is missing, damaged or unreadable; the message names the file."""

    code: ClassVar[str] = "checkpoint_corrupt"


class CheckpointMismatch(CheckpointError):
    """It is whole, but belongs to another training: another environment, network or spec, or a newer format."""

    code: ClassVar[str] = "checkpoint_mismatch"
