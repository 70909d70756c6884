"""Training: rollouts and updates in turn, resumable at every iteration."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine import checkpoint
from ppo_engine.bundle import LayerManifest, NormalizerManifest, PolicyManifest
from ppo_engine.checkpoint import CheckpointManifest, State
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.envs.vector import Resumability, make_vector_environment
from ppo_engine.errors import CheckpointMismatch, DeviceUnavailable
from ppo_engine.evaluate import Evaluation, evaluate
from ppo_engine.export import action_manifest, environment_manifest, spec_sha256, write_bundle
from ppo_engine.fingerprint import differences, fingerprint
from ppo_engine.metrics import EpisodeStatistics, MetricsWindow
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer
from ppo_engine.policy import Policy
from ppo_engine.presets import resolve
from ppo_engine.random import environment_seeds, generator_state, restored_generator, seed_sequence, stream
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import TrainingSpec
from ppo_engine.update import Learner, coefficients, flat_batch

BACKEND = "torch"
VECTORS = 16
"""Observations of the test vectors in a checkpoint, at most."""
EVALUATION_ENVS = 8

StopReason = Literal["total_timesteps", "stop_rule"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What one iteration brought."""

    iteration: int
    """Iterations done, this one included."""
    timesteps: int
    metrics: dict[str, float] | None
    """Means over the window that ends here; None inside one."""
    evaluation: Evaluation | None
    finished: bool
    stop_reason: StopReason | None


class Trainer:
    """One training, from its start or from a checkpoint.

    Attributes:
        spec: resolved, the seed too.
        runtime: what was decided when it started: device, backend, vectorization, threads, versions, CPU.
        resumed: whether it goes on exactly where the checkpoint was taken; None for a fresh start.
        iteration, timesteps: done so far.
    """

    spec: TrainingSpec
    runtime: dict[str, JsonValue]
    resumed: Resumability | None
    iteration: int
    timesteps: int

    def __init__(self, spec: TrainingSpec, *, threads: int = 1) -> None:
        """Starts afresh; a spec that is not resolved is resolved, a missing seed drawn.

        Raises: InvalidSpec, UnknownEnvironment, UnsupportedSpace, DeviceUnavailable, EnvironmentFault.
        """
        self._prepare(spec, threads=threads)
        self._collector.last_observations = self.environment.reset()

    @classmethod
    def resume(cls, spec: TrainingSpec, checkpoint: Path, *, threads: int = 1) -> Self:
        """Goes on from a checkpoint of the same spec; `total_timesteps` and what trains nothing may differ.

        Raises:
            CheckpointCorrupt: a file is missing or damaged.
            CheckpointMismatch: the checkpoint is of another spec or of an unknown format.
        """
        trainer = cls.__new__(cls)
        trainer._prepare(spec, threads=threads)
        try:
            trainer._restore(checkpoint)
        except BaseException:
            trainer.close()
            raise
        return trainer

    def iterations(self) -> Iterator[Progress]:
        """Trains, yielding after each iteration, when `save` may be called.

        A training that is finished already yields once, says so, and trains nothing.
        """
        if self._stop_reason is not None:
            yield Progress(self.iteration, self.timesteps, None, None, True, self._stop_reason)
        while self._stop_reason is None:
            yield self._iterate()

    def save(self, directory: Path) -> CheckpointManifest:
        """Writes a checkpoint; until its manifest is there, last of all, the directory is none."""
        checkpoint.begin(directory)
        (directory / checkpoint.POLICY).write_bytes(self._policy_bytes())
        observations = self._collector.last_observations[:VECTORS]
        write_bundle(directory, self._policy_manifest(), observations=observations, actions=self.act(observations))
        checkpoint.write_state(directory, self.state())
        resume = self.environment.resume
        return checkpoint.seal(
            directory,
            iteration=self.iteration,
            timesteps=self.timesteps,
            resume=(resume.kind, resume.reason),
            fingerprint=self._fingerprint,
            metrics=self._latest_metrics,
        )

    def act(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """The likeliest action rows of flat encoded observations [n, D], as they come from the environment."""
        return self.policy.deterministic_actions(self._normalized(observations))

    def policy_hash(self) -> str:
        """The sha256 of `policy.safetensors` as `save` would write it."""
        return hashlib.sha256(self._policy_bytes()).hexdigest()

    def close(self) -> None:
        """Ends the environments. May be called again."""
        self.environment.close()

    def state(self) -> State:
        """Everything but the policy that is needed to go on exactly."""
        adam = self._learner.adam
        state: State = {
            "spec": self.spec.model_dump(mode="json"),
            "fingerprint": self._fingerprint,
            "iteration": self.iteration,
            "timesteps": self.timesteps,
            "stop_reason": self._stop_reason,
            "latest_metrics": dict(self._latest_metrics),
            "window": self._window.state(),
            "random/actions": generator_state(self._collector.generator),
            "random/minibatches": generator_state(self._learner.generator),
            "adam/steps": adam.steps,
            "observations": self._collector.last_observations,
        }
        parts: dict[str, Any] = {
            "adam/m": _arrays(self.policy.named_views(adam.m)),
            "adam/v": _arrays(self.policy.named_views(adam.v)),
            "episodes": self._episodes.state(),
            "environment": self.environment.state(),
            "rewards": {} if self._reward_normalizer is None else self._reward_normalizer.state(),
        }
        for prefix, part in parts.items():
            state |= {f"{prefix}/{name}": value for name, value in part.items()}
        return state

    def _prepare(self, spec: TrainingSpec, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._description = describe_environment(spec.env.id)
        self.spec = spec = resolve(spec, self._description, draw_seed=True)
        assert spec.seed is not None
        self.iteration, self.timesteps = 0, 0
        self.resumed = None
        self._stop_reason: StopReason | None = None
        self._latest_metrics: dict[str, float] = {}
        device = _device(spec)
        self.environment = make_vector_environment(spec.env, environment_seeds(spec.seed, spec.env.n_envs))
        size, n_envs = self.environment.observation_size, self.environment.n_envs
        self.policy = Policy(
            spec.policy, size, self.environment.action_space, generator=stream(spec.seed, "init"), device=device
        )
        normalize = spec.normalize
        normalizable = self.environment.encoder.normalizable
        self._normalizer = (
            ObservationNormalizer(size, clip=normalize.clip_observations, normalizable=normalizable)
            if normalize.observations
            else None
        )
        self._reward_normalizer = (
            RewardNormalizer(n_envs, gamma=spec.ppo.gamma, clip=normalize.clip_rewards) if normalize.rewards else None
        )
        self._collector = Collector(
            self.environment,
            self.policy,
            self._normalizer,
            n_steps=spec.ppo.n_steps,
            generator=stream(spec.seed, "actions"),
        )
        self._learner = Learner(self.policy, spec.ppo, stream(spec.seed, "minibatches"))
        self._episodes = EpisodeStatistics(n_envs)
        self._window = MetricsWindow(spec.metrics.every_iterations or 1)
        self._fingerprint = fingerprint(device, backend=BACKEND, threads=threads)
        self.runtime = {
            **self._fingerprint,
            "vectorization": self.environment.vectorization,
            "vectorization_reason": self.environment.vectorization_reason,
        }

    def _iterate(self) -> Progress:
        began = time.monotonic()
        now = coefficients(self.spec.ppo, self.timesteps / self.spec.ppo.total_timesteps)
        rollout = self._collector.collect()
        rewards = self._take_in(rollout)
        metrics = self._learner.update(flat_batch(rollout, rewards, self.spec.ppo), now)
        if self._normalizer is not None:
            self._normalizer.update(rollout.raw_observations[rollout.valid])
        steps = int(rollout.valid.sum())
        before, self.timesteps = self.timesteps, self.timesteps + steps
        self.iteration += 1
        seconds = time.monotonic() - began
        evaluation = self._evaluation(before)
        metrics |= self._episodes.metrics()
        if evaluation is not None:
            metrics |= {"eval/mean_reward": evaluation.mean_reward, "eval/mean_ep_length": evaluation.mean_length}
        self._latest_metrics |= metrics
        self._window.add(metrics, timesteps=steps, seconds=seconds)
        self._stop_reason = self._reason_to_stop(metrics)
        finished = self._stop_reason is not None
        row = self._window.close() if self._window.full or finished else None
        return Progress(self.iteration, self.timesteps, row, evaluation, finished, self._stop_reason)

    def _take_in(self, rollout: Rollout) -> NDArray[np.float64]:
        """Counts the episodes of a rollout, and returns its rewards as the learner is to see them."""
        done = rollout.terminated | rollout.truncated
        self._episodes.update(rollout.rewards, done, rollout.valid)
        if self._reward_normalizer is None:
            return rollout.rewards
        self._reward_normalizer.update(rollout.rewards, done, rollout.valid)
        return self._reward_normalizer.normalize(rollout.rewards)

    def _reason_to_stop(self, metrics: dict[str, float]) -> StopReason | None:
        stop = self.spec.stop
        if stop.threshold is not None and metrics.get(stop.metric, -np.inf) >= stop.threshold:
            return "stop_rule"
        return "total_timesteps" if self.timesteps >= self.spec.ppo.total_timesteps else None

    def _evaluation(self, before: int) -> Evaluation | None:
        """Evaluates when the iteration passed a multiple of `every_timesteps`; draws from no training stream."""
        every = self.spec.evaluation.every_timesteps
        if every is None or before // every == self.timesteps // every:
            return None
        assert self.spec.seed is not None
        act = self.act if self.spec.evaluation.deterministic else self._sampler()
        return evaluate(
            act,
            self.spec.env,
            n_episodes=self.spec.evaluation.n_episodes,
            seeds=seed_sequence(self.spec.seed, "evaluation", self.iteration, 0),
            n_envs=EVALUATION_ENVS,
        )

    def _sampler(self) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        assert self.spec.seed is not None
        generator = stream(self.spec.seed, "evaluation", self.iteration, 1)

        def act(observations: NDArray[np.float32]) -> NDArray[Any]:
            noise = self.policy.distribution.noise(generator, (len(observations),))
            with torch.inference_mode():
                seen = torch.tensor(self._normalized(observations), device=self.policy.device)
                actions = self.policy.act(seen, torch.from_numpy(noise).to(self.policy.device))[0]
            sampled: NDArray[Any] = actions.cpu().numpy()
            return sampled

        return act

    def _normalized(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return observations if self._normalizer is None else self._normalizer.normalize(observations)

    def _policy_bytes(self) -> bytes:
        arrays = {f"policy/{name}": array for name, array in _arrays(self.policy.named_views(self.policy.flat)).items()}
        if self._normalizer is not None:
            arrays |= {f"normalizer/{name}": array for name, array in self._normalizer.state().items()}
        return checkpoint.serialized(arrays)

    def _policy_manifest(self) -> PolicyManifest:
        normalizer = self._normalizer
        return PolicyManifest(
            env=environment_manifest(self.spec),
            spec_sha256=spec_sha256(self.spec),
            observation_size=self.policy.observation_size,
            observation_space=self._description.observation_space,
            action_space=action_manifest(self.policy.action_space),
            normalizer=normalizer
            and NormalizerManifest(
                mean="normalizer/mean",
                variance="normalizer/variance",
                epsilon=normalizer.epsilon,
                clip=normalizer.clip,
            ),
            activation=self.spec.policy.activation,
            layers=tuple(
                LayerManifest(weight=f"policy/{name}/weight", bias=f"policy/{name}/bias")
                for name in self.policy.layer_names()
            ),
            log_std="policy/log_std" if self.policy.action_space.kind == "box" else None,
        )

    def _restore(self, directory: Path) -> None:
        checkpoint.verify(directory)
        state = checkpoint.read_state(directory)
        _require_same_training(state["spec"], self.spec)
        weights = checkpoint.read_arrays(directory / checkpoint.POLICY)
        adam = self._learner.adam
        _load(self.policy.named_views(self.policy.flat), _part(weights, "policy"))
        _load(self.policy.named_views(adam.m), _part(state, "adam/m"))
        _load(self.policy.named_views(adam.v), _part(state, "adam/v"))
        adam.steps = state["adam/steps"]
        if self._normalizer is not None:
            self._normalizer.restore(_part(weights, "normalizer"))
        if self._reward_normalizer is not None:
            self._reward_normalizer.restore(_part(state, "rewards"))
        self._episodes.restore(_part(state, "episodes"))
        self._window.restore(state["window"])
        self._collector.generator = restored_generator(state["random/actions"])
        self._learner.generator = restored_generator(state["random/minibatches"])
        self.iteration, self.timesteps = state["iteration"], state["timesteps"]
        self._latest_metrics = dict(state["latest_metrics"])
        self._stop_reason = state["stop_reason"]
        if self._stop_reason == "total_timesteps" and self.timesteps < self.spec.ppo.total_timesteps:
            self._stop_reason = None
        self._collector.last_observations = self.environment.restore(_part(state, "environment"))
        self.resumed = self._resumability(state)

    def _resumability(self, state: State) -> Resumability:
        """Whether what was restored goes on exactly; if not, every reason."""
        reasons = differences(state["fingerprint"], self._fingerprint)
        if self.environment.resume.kind == "approximate":
            reasons.append(self.environment.resume.reason or "the environments cannot be restored")
        if not np.array_equal(self._collector.last_observations, state["observations"]):
            reasons.append("the environments' observations differ from those of the checkpoint")
        return Resumability("approximate", "; ".join(reasons)) if reasons else Resumability("exact")


def _device(spec: TrainingSpec) -> torch.device:
    if spec.device != "cuda":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailable("the spec asks for cuda, and this machine has no CUDA device")
    return torch.device("cuda")


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in state.items() if name.startswith(f"{prefix}/")}


@torch.no_grad()
def _load(views: dict[str, torch.Tensor], arrays: dict[str, NDArray[Any]]) -> None:
    if views.keys() != arrays.keys() or any(view.shape != arrays[name].shape for name, view in views.items()):
        raise CheckpointMismatch("the checkpoint is of a policy of another shape")
    for name, view in views.items():
        view.copy_(torch.from_numpy(arrays[name]))


def _require_same_training(saved: Any, spec: TrainingSpec) -> None:
    now = spec.model_dump(mode="json")
    for section in ("env", "policy", "ppo", "normalize", "seed", "device", "backend"):
        before, today = saved[section], now[section]
        if section == "ppo":
            before, today = ({**ppo, "total_timesteps": None} for ppo in (before, today))
        if before != today:
            raise CheckpointMismatch(f"the checkpoint is of another training: {section} was {before}, is {today}")
