"""The state of a training between two iterations: with it and the policy, training goes on as if it never stopped."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from ppo_engine.checkpoint import FORMAT, POLICY, read_arrays, require_known_format, serialized
from ppo_engine.components import Components, lives_on_device
from ppo_engine.diagnosis import DiagnosisState
from ppo_engine.errors import CheckpointCorrupt, CheckpointMismatch
from ppo_engine.metrics import WindowState
from ppo_engine.recurrent.collector import RecurrentCollector
from ppo_engine.spec import TrainingSpec

ARRAYS_FILE = "state.safetensors"
VALUES_FILE = "state.json"

Arrays: TypeAlias = dict[str, NDArray[Any]]
StopReason: TypeAlias = Literal["total_timesteps", "stop_rule"]


class Unjudged(BaseModel):
    """What an iteration brought that has learnt, and whose policy is still being evaluated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: dict[str, float]
    timesteps: int
    """Of this iteration alone."""
    seconds: float


class Position(BaseModel):
    """How far a training has come."""

    model_config = ConfigDict(extra="forbid")

    iteration: int = 0
    timesteps: int = 0
    stop_reason: StopReason | None = None
    latest_metrics: dict[str, float] = {}
    unjudged: Unjudged | None = None
    """None between two iterations."""


class StateValues(BaseModel):
    """All of the state that is no array: the content of `state.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    spec: dict[str, JsonValue]
    fingerprint: dict[str, JsonValue]
    position: Position
    window: WindowState
    diagnosis: DiagnosisState = DiagnosisState()
    adam_steps: int
    adaptive: dict[str, float] = {}
    """Numbers of the learner that change from iteration to iteration: those of `Learner.scalars`."""
    random: dict[str, dict[str, JsonValue]]
    environment: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Arrays are named `adam/m/…`, `adam/v/…`, `episodes/…`, `rewards/…`, `values/…`, `environment/…`, `observations`
    and `memory`."""

    values: StateValues
    arrays: Arrays


def capture(
    components: Components, position: Position, *, spec: TrainingSpec, fingerprint: dict[str, JsonValue]
) -> TrainingState:
    """The state as it stands. Its arrays may be those of the components: write them before training goes on."""
    adam, policy, statistics = components.backend.learner.adam, components.policy, components.statistics
    environment = components.environment.state()
    arrays: Arrays = {"observations": components.backend.collector.last_observations}
    arrays |= _prefixed("adam/m", policy.arrays(adam.m)) | _prefixed("adam/v", policy.arrays(adam.v))
    arrays |= _prefixed("episodes", statistics.episodes.state())
    if isinstance(components.backend.collector, RecurrentCollector):
        arrays["memory"] = components.backend.collector.state.cpu().numpy()
    if statistics.reward_normalizer is not None:
        arrays |= _prefixed("rewards", statistics.reward_normalizer.state())
    if statistics.value_normalizer is not None:
        arrays |= _prefixed("values", statistics.value_normalizer.state())
    arrays |= {f"environment/{name}": part for name, part in environment.items() if isinstance(part, np.ndarray)}
    values = StateValues(
        spec=spec.model_dump(mode="json"),
        fingerprint=fingerprint,
        position=position,
        window=components.window.state(),
        diagnosis=components.diagnosis.state(),
        adam_steps=adam.steps,
        adaptive=components.backend.learner.scalars(),
        random=components.backend.random_state(),
        environment={name: part for name, part in environment.items() if not isinstance(part, np.ndarray)},
    )
    return TrainingState(values, arrays)


def restore(components: Components, state: TrainingState, policy_arrays: Arrays) -> None:
    """Brings fresh components to where the state was taken.

    Raises:
        CheckpointMismatch: they are of another shape.
        CheckpointCorrupt: the state lacks a part.
    """
    backend, policy, statistics, values = components.backend, components.policy, components.statistics, state.values
    adam = backend.learner.adam
    try:
        _load(policy.named_views(policy.flat), part(policy_arrays, "policy"))
        _load(policy.named_views(adam.m), part(state.arrays, "adam/m"))
        _load(policy.named_views(adam.v), part(state.arrays, "adam/v"))
        adam.steps = values.adam_steps
        backend.learner.restore_scalars(values.adaptive)
        if statistics.normalizer is not None:
            statistics.normalizer.restore(part(policy_arrays, "normalizer"))
        if statistics.reward_normalizer is not None:
            statistics.reward_normalizer.restore(part(state.arrays, "rewards"))
        if statistics.value_normalizer is not None:
            statistics.value_normalizer.restore(part(state.arrays, "values"))
        statistics.episodes.restore(part(state.arrays, "episodes"))
        components.window.restore(values.window)
        components.diagnosis.restore(values.diagnosis)
        backend.restore_random(values.random)
        environment = {**values.environment, **part(state.arrays, "environment")}
        observations = backend.collector.last_observations = components.environment.restore(environment)
        if isinstance(backend.collector, RecurrentCollector):
            # Nothing is remembered of an episode that could not be restored: another one was begun.
            goes_on = (observations == state.arrays["observations"]).all(axis=1)
            backend.collector.remember(np.where(goes_on[:, None], state.arrays["memory"], np.float32(0)))
    except KeyError as error:
        raise CheckpointCorrupt(f"the state has no {error}") from error


def write_state(directory: Path, state: TrainingState) -> None:
    """Writes the two files of a state; the same bytes for the same state."""
    (directory / ARRAYS_FILE).write_bytes(serialized(state.arrays))
    (directory / VALUES_FILE).write_text(state.values.model_dump_json(indent=1) + "\n")


def read_state(directory: Path) -> tuple[TrainingState, Arrays]:
    """The state as it was written, and the policy's arrays with it.

    Raises:
        CheckpointCorrupt: a file cannot be read.
        CheckpointMismatch: it is of a format that this version does not know.
    """
    require_known_format(directory / VALUES_FILE)
    try:
        values = StateValues.model_validate_json((directory / VALUES_FILE).read_bytes())
    except ValidationError as error:
        raise CheckpointCorrupt(f"{VALUES_FILE} cannot be read: {error}") from error
    return TrainingState(values, read_arrays(directory / ARRAYS_FILE)), read_arrays(directory / POLICY)


def require_same_training(saved: TrainingSpec, spec: TrainingSpec) -> None:
    """Raises CheckpointMismatch where the specs train differently.

    `total_timesteps` may differ, and whatever trains nothing; `sync` and `process` give equal bits.
    """
    for section in ("env", "policy", "ppo", "normalize", "seed", "device", "backend"):
        before, now = _what_trains(saved)[section], _what_trains(spec)[section]
        if before != now:
            raise CheckpointMismatch(f"the checkpoint is of another training: {section} was {before}, is {now}")


def part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """The arrays below a prefix, under the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in arrays.items() if name.startswith(f"{prefix}/")}


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _what_trains(spec: TrainingSpec) -> dict[str, Any]:
    dump = spec.model_dump(mode="json")
    del dump["ppo"]["total_timesteps"], dump["env"]["step_timeout_seconds"]
    chosen = spec.env.vectorization
    is_foreign = chosen in ("native", "envpool")
    dump["env"]["vectorization"] = chosen if is_foreign else "device" if lives_on_device(spec) else "own"
    return dump


@torch.no_grad()
def _load(views: dict[str, torch.Tensor], arrays: Arrays) -> None:
    if views.keys() != arrays.keys() or any(view.shape != arrays[name].shape for name, view in views.items()):
        raise CheckpointMismatch("the checkpoint is of a policy of another shape")
    for name, view in views.items():
        view.copy_(torch.from_numpy(arrays[name]))
