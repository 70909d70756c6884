"""A job's ledger, live, over connections that may break."""

from collections.abc import Generator, Iterator

import httpx2
from pydantic import ValidationError

from ppo_client.errors import UnexpectedAnswer
from ppo_client.sse import messages
from ppo_client.transport import Transport
from ppo_jobs.schemas import LedgerEvent

SILENCE_SECONDS = 45.0
"""Three of the service's pings: a connection that is quiet for longer is dead."""


class LedgerStream:
    """The events behind `last_seq`, in order, until the service says that nothing more will come.

    A broken connection is made again where it broke: no event is missing and none comes twice.
    """

    def __init__(self, transport: Transport, path: str, last_seq: int) -> None:
        self.last_seq = last_seq
        self._transport = transport
        self._path = path
        self._patience = transport.patience()

    def __iter__(self) -> Iterator[LedgerEvent]:
        """Yields events.

        Raises:
            ServiceUnreachable: nothing answered for `RetryPolicy.interrupted_seconds`.
            ProblemError: the service refused, or stayed busy for as long.
        """
        ended = False
        while not ended:
            try:
                ended = yield from self._connection()
            except httpx2.TransportError as error:
                self._transport.recover(self._patience, error)

    def _connection(self) -> Generator[LedgerEvent, None, bool]:
        """Events of one connection; returns whether the stream has ended.

        Raises: httpx2.TransportError: the connection broke, or skipped an event.
        """
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.last_seq)}
        params = {"after": self.last_seq}
        with self._transport.open(
            self._path, headers=headers, params=params, silence_seconds=SILENCE_SECONDS
        ) as response:
            if self._transport.is_busy(self._patience, response):
                return False
            if response.status_code == httpx2.codes.NO_CONTENT:
                return True
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._transport.unexpected(response, "no event stream")
            for message in messages(response.iter_bytes()):
                if message.event == "end":
                    return True
                event = _event(message.data)
                if event.seq > self.last_seq + 1:
                    raise httpx2.RemoteProtocolError(f"the stream skipped event {self.last_seq + 1}")
                if event.seq == self.last_seq + 1:
                    self.last_seq = event.seq
                    self._patience.restart()
                    yield event
        raise httpx2.RemoteProtocolError("the stream ended before the job")


def _event(data: str) -> LedgerEvent:
    try:
        return LedgerEvent.model_validate_json(data)
    except ValidationError as error:
        raise UnexpectedAnswer(f"The stream holds something that is no event of a ledger: {data[:100]!r}.") from error
