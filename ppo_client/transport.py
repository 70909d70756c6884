"""HTTP that survives what networks and restarts do: retries, patience, and answers turned into typed errors."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TypeAlias, TypeVar
from uuid import uuid4

import httpx2
from pydantic import BaseModel, JsonValue, ValidationError

from ppo_client.config import Connection
from ppo_client.errors import ClientError, FieldFault, ProblemError, ServiceUnreachable, UnexpectedAnswer, error_class
from ppo_jobs.schemas import Problem

Model = TypeVar("Model", bound=BaseModel)

Params: TypeAlias = Mapping[str, str | int | float | Sequence[str] | None]
"""Of a query; a sequence is sent as the same name several times."""

OnRetry: TypeAlias = Callable[[ClientError], None]
"""Told why, before each further try."""

BUSY_STATUSES = frozenset({429, 502, 503, 504})
_NEVER_RETRIED = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long the client tries before it gives up."""

    unreachable_seconds: float = 10.0
    """While nothing answers, or connections break."""
    busy_seconds: float = 60.0
    """While the service answers 429 or 503."""
    interrupted_seconds: float = 300.0
    """While it interrupts a wait, a stream or a download that had begun: an upgrade of the service takes minutes."""
    first_delay_seconds: float = 0.2
    longest_delay_seconds: float = 5.0


class Patience:
    """Sleeps between the tries of one undertaking, each time longer, and raises the cause when its time is up."""

    def __init__(self, policy: RetryPolicy, *, is_patient: bool = False, on_retry: OnRetry | None = None) -> None:
        """`is_patient`: the undertaking had begun, so that `interrupted_seconds` hold."""
        self._policy = policy
        self._on_retry = on_retry
        self._unreachable_seconds = policy.interrupted_seconds if is_patient else policy.unreachable_seconds
        self._busy_seconds = policy.interrupted_seconds if is_patient else policy.busy_seconds
        self.restart()

    def restart(self) -> None:
        """There was progress: all of the time is there again."""
        self._started = time.monotonic()
        self._tries = 0

    def unreachable(self, cause: ClientError) -> None:
        """Sleep after a broken connection, or raise `cause`."""
        self._sleep_or_raise(cause, self._backoff_seconds(), self._unreachable_seconds)

    def busy(self, cause: ClientError, asked_seconds: float | None) -> None:
        """Sleep as long as a busy service asked for, or raise `cause`."""
        delay = self._backoff_seconds() if asked_seconds is None else asked_seconds
        self._sleep_or_raise(cause, delay, self._busy_seconds)

    def _backoff_seconds(self) -> float:
        """Doubles with each try, up to the longest; the jitter keeps clients apart that were cut off together."""
        doubled = self._policy.first_delay_seconds * 2.0 ** min(self._tries, 30)
        return min(self._policy.longest_delay_seconds, doubled) * random.uniform(0.5, 1.0)

    def _sleep_or_raise(self, cause: ClientError, delay: float, seconds: float) -> None:
        if time.monotonic() - self._started + delay > seconds:
            raise cause
        self._tries += 1
        if self._on_retry:
            self._on_retry(cause)
        time.sleep(delay)


class Transport:
    """The HTTP connection to one service."""

    def __init__(
        self, connection: Connection, *, policy: RetryPolicy, timeout_seconds: float, on_retry: OnRetry | None = None
    ) -> None:
        self.connection = connection
        self.policy = policy
        self._on_retry = on_retry
        headers = {"User-Agent": f"ppo-service/{version('ppo-service')}"}
        if connection.api_key:
            headers["Authorization"] = f"Bearer {connection.api_key}"
        self._http = httpx2.Client(
            base_url=connection.url,
            headers=headers,
            timeout=httpx2.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)),
            trust_env=not connection.is_local,
            # One connection per followed job: the default of 100 would let a large group wait for itself.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )
        self.timeout_seconds = timeout_seconds

    def close(self) -> None:
        self._http.close()

    def get(
        self,
        model: type[Model],
        path: str,
        *,
        params: Params | None = None,
    ) -> Model:
        """The answer to a GET, as `model`."""
        return self.decode(model, self.send("GET", path, params=params))

    def post(
        self, model: type[Model], path: str, *, body: JsonValue = None, idempotency_key: str | None = None
    ) -> Model:
        """The answer to a POST, which takes effect once however often it had to be sent."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        return self.decode(model, self.send("POST", path, body=body, headers=headers))

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: JsonValue = None,
        headers: Mapping[str, str] | None = None,
        held_seconds: float = 0.0,
        is_patient: bool = False,
    ) -> httpx2.Response:
        """Send until there is an answer, with the same headers each time.

        Args:
            held_seconds: how long the service was asked to hold the answer back.
            is_patient: retry for `policy.interrupted_seconds`.

        Raises:
            ServiceUnreachable: nothing answered for `policy.unreachable_seconds`.
            ProblemError: the service refused, or stayed busy for `policy.busy_seconds`.
        """
        patience = self.patience(is_patient=is_patient)
        request = self._http.build_request(
            method, path, params=_given(params), json=body, headers=headers, timeout=self._timeout(held_seconds)
        )
        while True:
            try:
                response = self._http.send(request)
            except httpx2.TransportError as error:
                self.recover(patience, error)
                continue
            except httpx2.HTTPError as error:
                raise UnexpectedAnswer(f"{self.connection.url} sent an answer that cannot be read: {error}.") from error
            if not self.is_busy(patience, response):
                return response

    def patience(self, *, is_patient: bool = True) -> Patience:
        """For one undertaking; by default for one that had begun."""
        return Patience(self.policy, is_patient=is_patient, on_retry=self._on_retry)

    def is_busy(self, patience: Patience, response: httpx2.Response) -> bool:
        """False when the response is a success; true after having slept as long as a busy service asked for.

        Raises:
            ProblemError: the response is an error that another try would not change, or the patience is at its end.
        """
        if response.is_success:
            return False
        problem = self.problem(response)
        if response.status_code not in BUSY_STATUSES:
            raise problem
        patience.busy(problem, retry_after(response))
        return True

    def recover(self, patience: Patience, error: httpx2.TransportError) -> None:
        """Sleep before the next try after a broken connection.

        Raises:
            ServiceUnreachable: the patience is at its end, or another try could not differ.
        """
        cause = ServiceUnreachable(
            f"The service at {self.connection.url} ({self.connection.source}) cannot be reached: {_in_words(error)}."
        )
        if isinstance(error, _NEVER_RETRIED):
            raise cause from error
        patience.unreachable(cause)

    @contextmanager
    def open(
        self,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        silence_seconds: float | None = None,
    ) -> Iterator[httpx2.Response]:
        """A response whose body has not been read. `silence_seconds`: how long no byte may come.

        Raises: httpx2.TransportError, for the caller to recover from.
        """
        timeout = httpx2.Timeout(self.timeout_seconds, read=silence_seconds or self.timeout_seconds)
        with self._http.stream("GET", path, params=_given(params), headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
            yield response

    def decode(self, model: type[Model], response: httpx2.Response) -> Model:
        """The body as `model`.

        Raises:
            UnexpectedAnswer: it is something else.
        """
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise self.unexpected(response, str(error.errors(include_url=False)[0]["msg"])) from error

    def problem(self, response: httpx2.Response) -> ProblemError | UnexpectedAnswer:
        """The typed error that an unsuccessful response stands for."""
        status = response.status_code
        if response.is_redirect:
            return self.unexpected(response, f"a redirect to {response.headers.get('location', 'nowhere')}")
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            if status in BUSY_STATUSES or status >= 500:
                detail = f"The service answered {status} {response.reason_phrase}."
                return error_class(status)(detail, status=status, code="http_error")
            return self.unexpected(response, f"{status} {response.reason_phrase}")
        faults = [FieldFault(fault.pointer, fault.message) for fault in problem.errors]
        return error_class(status)(
            problem.detail or problem.title,
            status=status,
            code=problem.code,
            errors=faults,
            request_id=problem.request_id,
        )

    def unexpected(self, response: httpx2.Response, what: str) -> UnexpectedAnswer:
        """What answered is not the service: a proxy's page, another program on that port, another version."""
        return UnexpectedAnswer(f"{response.url} does not answer like the service: {what}.")

    def _timeout(self, held_seconds: float) -> httpx2.Timeout:
        return httpx2.Timeout(
            self.timeout_seconds, connect=min(5.0, self.timeout_seconds), read=self.timeout_seconds + held_seconds
        )


def retry_after(response: httpx2.Response) -> float | None:
    """Seconds that a response asks to wait, given as a number or as a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _given(params: Params | None) -> dict[str, str | int | float | Sequence[str]]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _in_words(error: httpx2.TransportError) -> str:
    """The cause without error numbers, which differ between systems."""
    if isinstance(error, httpx2.ConnectTimeout):
        return "it did not accept a connection in time"
    if isinstance(error, httpx2.TimeoutException):
        return "it did not answer in time"
    text = str(error).partition("] ")[2] or str(error)
    return text[:1].lower() + text[1:].rstrip(".") if text else "the connection broke"
