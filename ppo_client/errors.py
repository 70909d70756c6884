"""Everything that can go wrong between a program and the service.

ClientError
├── ConfigurationInvalid       the service's URL or the API key cannot be used
├── ExtraMissing               the command needs a part that is not installed
├── ServiceUnreachable         nothing answered, or connections broke, until the patience ran out
├── UnexpectedAnswer           something answered that does not speak this API
├── DownloadFailed             a file does not have the content that its checkpoint promises
├── WaitTimedOut               the job had not ended in the given time (a TimeoutError too)
└── ProblemError               the service refused, and said why (RFC 9457)
    ├── InvalidRequest         400, 405, 413, 415, 422, and specs that are refused before they are sent
    ├── NotAuthorised          401, 403
    ├── NotFound               404, 410
    ├── Conflict               409, 412
    ├── TooManyRequests        429
    └── ServerFailed           5xx
        └── ServiceUnavailable 503
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One thing that is wrong with a request, and where."""

    pointer: str
    """JSON Pointer into the request's body, or the name of a parameter."""
    message: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.message}" if self.pointer else self.message


class ClientError(Exception):
    """Base of all errors of this package; the message is one sentence for people."""


class ConfigurationInvalid(ClientError):
    """The service's URL or the API key cannot be used."""


class ExtraMissing(ClientError):
    """The command needs a part of the distribution that is not installed."""

    def __init__(self, what: str, extras: str) -> None:
        super().__init__(f"{what} needs more than the client: pip install 'ppo-service[{extras}]'.")
        self.extras = extras


class ServiceUnreachable(ClientError):
    """Nothing answered, or connections broke, until the patience ran out."""


class UnexpectedAnswer(ClientError):
    """Something answered that does not speak this API."""


class DownloadFailed(ClientError):
    """A file does not have the content that its checkpoint promises."""


class WaitTimedOut(ClientError, TimeoutError):
    """The job had not ended in the given time; it goes on."""


class ProblemError(ClientError):
    """The service refused, and said why.

    Attributes:
        status: HTTP status.
        code: stable and machine-readable.
        detail: a sentence for people.
        errors: one entry per fault, empty when the sentence says it all.
        request_id: what the operator finds in the service's log; None when nothing was sent.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        errors: Sequence[FieldFault] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.errors = tuple(errors)
        self.request_id = request_id

    def __str__(self) -> str:
        return "\n".join([self.detail, *(f"  {fault}" for fault in self.errors)])


class InvalidRequest(ProblemError):
    """The request itself is wrong; sending it again will not help."""


class NotAuthorised(ProblemError):
    """The API key is missing, unknown or revoked."""


class NotFound(ProblemError):
    """There is no such thing, or it belongs to someone else."""


class Conflict(ProblemError):
    """The thing's present state does not allow it."""


class TooManyRequests(ProblemError):
    """The service asks to slow down, for longer than the client was willing to wait."""


class ServerFailed(ProblemError):
    """The service failed; the request may have been right."""


class ServiceUnavailable(ServerFailed):
    """The service cannot answer at present, for longer than the client was willing to wait."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    401: NotAuthorised,
    403: NotAuthorised,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    429: TooManyRequests,
    503: ServiceUnavailable,
}


def error_class(status: int) -> type[ProblemError]:
    """The class of the error that an HTTP status of 400 or more means."""
    return _BY_STATUS.get(status, ServerFailed if status >= 500 else InvalidRequest)
