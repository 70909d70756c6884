"""The service as a Python object."""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from ppo_client.checkpoints import CheckpointHandle
from ppo_client.config import discover
from ppo_client.evaluations import EvaluationHandle, Score, compare_groups, request_evaluation
from ppo_client.jobs import JobHandle
from ppo_client.paging import items, segment
from ppo_client.specs import training_spec
from ppo_client.transport import OnRetry, RetryPolicy, Transport
from ppo_engine.spec import TrainingSpec, settings_made
from ppo_jobs.schemas import (
    Checkpoint,
    Comparison,
    Environment,
    Evaluation,
    EvaluationRequest,
    Health,
    Job,
    Page,
    Preset,
    Worker,
)
from ppo_jobs.states import JobStatus


class Client:
    """One service, as one user sees it. May be shared between threads.

    Usage:
        client = Client()                              # finds a local service and its key
        client = Client("https://ppo.example", "ppo_…")
        job = client.submit("CartPole-v1", ppo={"total_timesteps": 50_000}, seed=1)
        job.wait()
        job.checkpoint("final").download("policy")
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout_seconds: float = 30.0,
        on_retry: OnRetry | None = None,
    ) -> None:
        """Connects lazily: nothing is sent here.

        Args:
            url: else `PPO_API_URL`, else what `ppo up` left in `PPO_DATA_DIR` or `~/.ppo-service`.
            api_key: else `PPO_API_KEY`, else from the same directory.
            timeout_seconds: how long one answer may take.
            on_retry: told why, before each further try.

        Raises:
            ConfigurationInvalid: the URL or the key cannot be used.
        """
        self.connection = discover(url, api_key)
        self._transport = Transport(
            self.connection, policy=retry or RetryPolicy(), timeout_seconds=timeout_seconds, on_retry=on_retry
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.connection.url!r})"

    def close(self) -> None:
        """Close the connections; jobs go on."""
        self._transport.close()

    def submit(
        self,
        spec: TrainingSpec | Mapping[str, object] | str,
        /,
        *,
        idempotency_key: str | None = None,
        **settings: object,
    ) -> JobHandle:
        """Submit a job.

        Args:
            spec: a spec, its JSON form, or the id of an environment.
            idempotency_key: submitting twice under one key makes one job; by default each call makes its own.
            **settings: fields of the spec that are set on top, such as `seed=1` or `ppo={"gamma": 0.98}`; those of an
                object are merged with what the spec has.

        Raises:
            InvalidRequest: the spec cannot be trained; `errors` has one entry per fault.
        """
        body = settings_made(training_spec(_merged(_document(spec), settings)))
        job = self._transport.post(Job, "/v1/jobs", body=body, idempotency_key=idempotency_key)
        return JobHandle(self._transport, job)

    def job(self, job_id: str) -> JobHandle:
        """The job with this id.

        Raises:
            NotFound: there is none.
        """
        return JobHandle(self._transport, self._transport.get(Job, f"/v1/jobs/{segment(job_id)}"))

    def jobs(
        self,
        *,
        status: JobStatus | str | None = None,
        group: str | None = None,
        env_id: str | None = None,
        name: str | None = None,
        page_size: int = 50,
    ) -> Iterator[JobHandle]:
        """Jobs, newest first; pages are read as they are needed."""
        filters = {"status": status, "group": group, "env_id": env_id, "name": name, "limit": page_size}
        for job in items(self._transport, Page[Job], "/v1/jobs", filters):
            yield JobHandle(self._transport, job)

    def checkpoint(self, checkpoint_id: str) -> CheckpointHandle:
        """The checkpoint with this id.

        Raises:
            NotFound: there is none.
        """
        path = f"/v1/checkpoints/{segment(checkpoint_id)}"
        return CheckpointHandle(self._transport, self._transport.get(Checkpoint, path))

    def evaluate(self, wish: EvaluationRequest, *, idempotency_key: str | None = None) -> EvaluationHandle:
        """Have the service play whole episodes with a checkpoint's policy; `wait` for its `data.result`.

        Raises:
            NotFound: there is no such job or checkpoint.
            Conflict: the job has no such checkpoint, or not yet.
        """
        return request_evaluation(self._transport, wish, idempotency_key=idempotency_key)

    def evaluation(self, evaluation_id: str) -> EvaluationHandle:
        """The evaluation with this id.

        Raises:
            NotFound: there is none.
        """
        path = f"/v1/evaluations/{segment(evaluation_id)}"
        return EvaluationHandle(self._transport, self._transport.get(Evaluation, path))

    def evaluations(
        self,
        *,
        job_id: str | None = None,
        checkpoint_id: str | None = None,
        status: JobStatus | str | None = None,
        page_size: int = 50,
    ) -> Iterator[EvaluationHandle]:
        """Evaluations, newest first, without single episodes; pages are read as they are needed."""
        filters = {"job_id": job_id, "checkpoint_id": checkpoint_id, "status": status, "limit": page_size}
        for evaluation in items(self._transport, Page[Evaluation], "/v1/evaluations", filters):
            yield EvaluationHandle(self._transport, evaluation)

    def compare(self, *groups: str | Sequence[str], score: Score = "rollout/ep_rew_mean") -> Comparison:
        """Compare two or more groups over their seeds; `winner` is None where the data do not carry one.

        Args:
            groups: names of groups, or lists of ids of jobs.
            score: `evaluation`, the mean return of the newest evaluation of each final checkpoint, or a metric's last
                value.

        Raises:
            NotFound: there is no such group or job.
            InvalidRequest: they are not disjoint, or their scores were not earned under the same terms.
        """
        return compare_groups(self._transport, groups, score)

    def environments(self) -> list[Environment]:
        """The catalogue: what the service's workers can train."""
        return list(items(self._transport, Page[Environment], "/v1/environments"))

    def environment(self, env_id: str) -> Environment:
        """One entry of the catalogue.

        Raises:
            NotFound: no worker knows it.
        """
        return self._transport.get(Environment, f"/v1/environments/{segment(env_id)}")

    def presets(self) -> list[Preset]:
        """The hyperparameters that were tuned per environment."""
        return list(items(self._transport, Page[Preset], "/v1/presets"))

    def workers(self) -> list[Worker]:
        """The workers that are or lately were there."""
        return list(items(self._transport, Page[Worker], "/v1/workers"))

    def health(self) -> Health:
        """Whether the service is alive, and its version. Needs no key."""
        return self._transport.get(Health, "/healthz")


def _document(spec: TrainingSpec | Mapping[str, object] | str) -> dict[str, object]:
    if isinstance(spec, TrainingSpec):
        return dict[str, object](settings_made(spec))
    return {"env": {"id": spec}} if isinstance(spec, str) else dict(spec)


def _merged(document: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    merged = dict(document)
    for name, value in settings.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = {**old, **value}
        merged[name] = value
    return merged
