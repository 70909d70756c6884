"""Training: rollouts and updates in turn, resumable at every iteration."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.numpy import load

from ppo_engine import checkpoint as checkpoints
from ppo_engine.bundle import LoadedPolicy, PolicyManifest
from ppo_engine.bundles.vectors import telling_inputs
from ppo_engine.checkpoint import CheckpointManifest
from ppo_engine.components import Components, build, observation_space_of
from ppo_engine.diagnosis import Finding
from ppo_engine.envs.catalogue import describe_with_arguments
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.state.surroundings import isolated
from ppo_engine.envs.vector import EXACT, Resumability
from ppo_engine.evaluate import CUTS, Acts, Evaluation, Meanwhile, evaluate, unwatched
from ppo_engine.export import Example, write_bundle
from ppo_engine.fingerprint import differences, fingerprint
from ppo_engine.fused.compile import require
from ppo_engine.fused.parts import parts_of
from ppo_engine.presets import resolve
from ppo_engine.presets.backends import choose_backend
from ppo_engine.random import seed_sequence, stream
from ppo_engine.schedules import coefficients
from ppo_engine.spec import TrainingSpec
from ppo_engine.state import (
    Position,
    StopReason,
    TrainingState,
    Unjudged,
    capture,
    read_state,
    require_same_training,
    restore,
    write_state,
)
from ppo_engine.threads import blas_kernels, limit_threads


@dataclass(frozen=True, slots=True)
class Progress:
    """What one iteration brought."""

    iteration: int
    """Iterations done, this one included."""
    timesteps: int
    metrics: dict[str, float] | None
    """Means over the window that ends here; None inside one."""
    evaluation: Evaluation | None
    findings: tuple[Finding, ...]
    """What the training found wrong with itself in this iteration."""
    finished: bool
    stop_reason: StopReason | None


class Trainer:
    """One training, from its start or from a checkpoint.

    Attributes:
        spec: resolved, the seed too.
        runtime: what was decided when it started: device, backend, vectorization, threads, versions, CPU.
        resumed: whether it goes on exactly where the checkpoint was taken; None for a fresh start.
    """

    _before_evaluation: TrainingState | None
    """Where an evaluation is under way, or has not ended."""

    def __init__(self, spec: TrainingSpec, *, threads: int = 1, environment_cores: int | None = None) -> None:
        """Starts afresh; a spec that is not resolved is resolved, a missing seed drawn.

        Args:
            threads: those that the libraries of this process may compute with.
            environment_cores: CPU cores that environments may be stepped on where the spec leaves it to be chosen;
                None: all that this process may run on, which is too many where other trainings share them.
        Raises: InvalidSpec, UnknownEnvironment, UnsupportedSpace, DeviceUnavailable, EnvironmentFault.
        """
        self._prepare(spec, threads=threads, environment_cores=environment_cores)
        self._components.backend.collector.last_observations = self._components.environment.reset()

    @classmethod
    def resume(
        cls, spec: TrainingSpec, checkpoint: Path, *, threads: int = 1, environment_cores: int | None = None
    ) -> Self:
        """Goes on from a checkpoint of the same spec; `total_timesteps` and what trains nothing may differ.

        Raises:
            CheckpointCorrupt: a file is missing or damaged.
            CheckpointMismatch: the checkpoint is of another spec or of an unknown format.
        """
        checkpoints.verify(checkpoint)
        state, policy_arrays = read_state(checkpoint)
        trainer = cls.__new__(cls)
        trainer._prepare(spec, threads=threads, environment_cores=environment_cores)
        try:
            saved = TrainingSpec.model_validate(state.values.spec)
            require_same_training(saved, trainer.spec)
            restore(trainer._components, state, policy_arrays)
        except BaseException:
            trainer.close()
            raise
        trainer._position = trainer._reopened(state.values.position, saved)
        trainer.resumed = trainer._resumability(state)
        return trainer

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self._position.iteration

    @property
    def timesteps(self) -> int:
        """Environment steps done, all environments together."""
        return self._position.timesteps

    def iterations(self, meanwhile: Meanwhile = unwatched) -> Iterator[Progress]:
        """Trains, yielding after each iteration, when `save` may be called.

        A training that is finished already yields once, says so, and trains nothing.

        Args:
            meanwhile: called between the steps of evaluations. It may call `save`, and end the iterations by raising
                what it likes; whoever goes on, here or from that checkpoint, begins with that evaluation again.
        """
        position = self._position
        if position.stop_reason is not None:
            yield Progress(position.iteration, position.timesteps, None, None, (), True, position.stop_reason)
        while position.stop_reason is None:
            done = position.unjudged or self._learn()
            position.unjudged = done
            evaluation = self._evaluation(position.timesteps - done.timesteps, meanwhile)
            position.unjudged, self._before_evaluation = None, None
            yield self._judged(done, evaluation)

    def save(self, directory: Path) -> CheckpointManifest:
        """Writes a checkpoint; until its manifest is there, last of all, the directory is none."""
        checkpoints.begin(directory)
        weights = self._components.policy_bytes()
        (directory / checkpoints.POLICY).write_bytes(weights)
        manifest = self._components.policy_manifest(self.spec, self._observation_space)
        write_bundle(directory, manifest, examples=self._examples(manifest, weights))
        write_state(directory, self.state())
        resume = self._components.environment.foreseen
        return checkpoints.seal(
            directory,
            iteration=self.iteration,
            timesteps=self.timesteps,
            resume=(resume.kind, resume.reason),
            fingerprint=self._fingerprint,
            metrics=self._position.latest_metrics,
        )

    def state(self) -> TrainingState:
        """Everything but the policy that is needed to go on exactly.

        Within an evaluation, or after one that did not end, it is as it was before that: the evaluation's environments
        may have changed what the training's refer to as well, such as global generators, and are to do so once.
        """
        return self._before_evaluation or capture(
            self._components, self._position, spec=self.spec, fingerprint=self._fingerprint
        )

    def act(self, observations: Rows, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """The likeliest action rows of flat encoded observations [n, D], as they come from the environment.

        A policy with memory acts by `acting`, since it needs to know what came before; here it raises RuntimeError.

        Args:
            masks: [n, masks], what is valid; None: all that there is.
        """
        return self._components.likeliest_actions(observations, masks)

    def acting(self) -> Acts:
        """What gives the likeliest action rows in environments of its own, as `evaluate` takes it."""
        return self._components.acting()

    def _examples(self, manifest: PolicyManifest, weights: bytes) -> list[Example]:
        """What becomes the test vectors: inputs that tell, with the likeliest actions."""
        observations, masks = self._components.backend.collector.last_observations, self._components.action_masks()
        inputs = telling_inputs(LoadedPolicy(manifest, load(weights)), observations, masks)
        act = self.acting()
        return [Example(rows, act(rows, valid), valid) for rows, valid in inputs]

    def policy_hash(self) -> str:
        """The sha256 of `policy.safetensors` as `save` would write it."""
        return hashlib.sha256(self._components.policy_bytes()).hexdigest()

    def close(self) -> None:
        """Ends the environments. May be called again."""
        self._components.environment.close()

    def _prepare(self, spec: TrainingSpec, *, threads: int, environment_cores: int | None) -> None:
        limit_threads(threads)
        with isolated():
            self.spec = resolve(spec, describe_with_arguments(spec.env), draw_seed=True)
        assert self.spec.seed is not None
        backend, reason = choose_backend(self.spec)
        require(parts_of(self.spec))
        self._components: Components = build(self.spec, self.spec.seed, environment_cores=environment_cores)
        with isolated():
            self._observation_space = observation_space_of(self.spec.env)
        self._position = Position()
        self._before_evaluation = None
        self.resumed: Resumability | None = None
        environment = self._components.environment
        self._fingerprint = fingerprint(self._components.policy.device, backend=backend, threads=threads)
        self.runtime: dict[str, JsonValue] = {
            **self._fingerprint,
            "backend_reason": reason,
            "blas": blas_kernels(),
            "vectorization": environment.vectorization,
            "vectorization_reason": environment.vectorization_reason,
        }

    def _learn(self) -> Unjudged:
        """Most of an iteration: collect, estimate advantages, update."""
        began = time.monotonic()
        position, ppo = self._position, self.spec.ppo
        now = coefficients(ppo, position.timesteps / ppo.total_timesteps)
        steps, metrics = self._components.backend.iterate(now)
        position.iteration += 1
        position.timesteps += steps
        return Unjudged(metrics=metrics, timesteps=steps, seconds=time.monotonic() - began)

    def _judged(self, done: Unjudged, evaluation: Evaluation | None) -> Progress:
        """The rest of an iteration: what it came to, and whether it was the last."""
        parts, position, metrics = self._components, self._position, dict(done.metrics)
        if evaluation is not None:
            metrics |= {"eval/mean_reward": evaluation.mean_reward, "eval/mean_ep_length": evaluation.mean_length}
            metrics |= evaluation.cuts()
            position.latest_metrics.pop(CUTS, None)
        position.latest_metrics |= metrics
        fraction_done = position.timesteps / self.spec.ppo.total_timesteps
        # Between two evaluations, what the last one found still holds.
        lasting = {key: position.latest_metrics[key] for key in (CUTS,) if key in position.latest_metrics}
        findings = parts.diagnosis.judge(metrics | lasting, fraction_done=fraction_done)
        position.stop_reason = self._reason_to_stop(metrics)
        parts.window.add(metrics, timesteps=done.timesteps, seconds=done.seconds)
        finished = position.stop_reason is not None
        row = parts.window.close() if finished or parts.window.full else None
        return Progress(
            position.iteration, position.timesteps, row, evaluation, findings, finished, position.stop_reason
        )

    def _reason_to_stop(self, metrics: dict[str, float]) -> StopReason | None:
        stop = self.spec.stop
        if stop.threshold is not None and metrics.get(stop.metric, -np.inf) >= stop.threshold:
            return "stop_rule"
        return "total_timesteps" if self.timesteps >= self.spec.ppo.total_timesteps else None

    def _evaluation(self, before: int, meanwhile: Meanwhile) -> Evaluation | None:
        """Evaluates when the iteration passed a multiple of `every_timesteps`; draws from no training stream."""
        every = self.spec.evaluation.every_timesteps
        if every is None or before // every == self.timesteps // every:
            return None
        seed = self.spec.seed
        assert seed is not None
        self._before_evaluation = self.state()
        generator = None
        if not self.spec.evaluation.deterministic:
            generator = stream(seed, "evaluation", self.iteration, 1)
        return evaluate(
            self._components.acting(generator),
            self.spec.env,
            n_episodes=self.spec.evaluation.n_episodes,
            seeds=seed_sequence(seed, "evaluation", self.iteration, 0),
            meanwhile=meanwhile,
        )

    def _reopened(self, position: Position, saved: TrainingSpec) -> Position:
        """The position of a checkpoint; a training that was finished goes on if this spec asks for more."""
        more_steps = position.timesteps < self.spec.ppo.total_timesteps
        other_rule = position.stop_reason == "stop_rule" and saved.stop != self.spec.stop
        if more_steps and (position.stop_reason == "total_timesteps" or other_rule):
            position.stop_reason = None
        return position

    def _resumability(self, state: TrainingState) -> Resumability:
        """Whether what was restored goes on exactly; if not, every reason."""
        environment = self._components.environment.resume
        reasons = differences(state.values.fingerprint, self._fingerprint)
        if environment.kind == "approximate":
            reasons.append(environment.reason or "the environments cannot be restored")
        elif not np.array_equal(self._components.backend.collector.last_observations, state.arrays["observations"]):
            reasons.append("the environments' observations differ from those of the checkpoint")
        return Resumability("approximate", "; ".join(reasons)) if reasons else EXACT
