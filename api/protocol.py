"""One connection: how long its client may take, and what it is told outside of the application.

uvicorn limits how many connections there are, and not for how long one may be about to send a request. Here a head and
a body have their time, and where there are too many connections, those make room that wait for their clients: whoever
sends nothing must not keep out who does. What uvicorn and h11 refuse themselves is a problem like all others.
"""

import asyncio
import resource
import sys
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from api.errors import RETRY_AFTER_SECONDS, new_request_id, problem_response

DESCRIPTORS_BESIDE = 200
"""Files and sockets that are no connection of a client: the database's, the broker's, downloads, the log."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take."""

    connections: int = 4000
    """At once."""
    head_seconds: float = 10.0
    """From a connection's start, or the first byte of a later request, to the end of the head."""
    body_seconds: float = 30.0
    """From the end of the head to the end of the body."""
    unread_seconds: float = 60.0
    """That a client which is to be sent something takes nothing."""


def allowed_by_the_system(limits: Limits) -> Limits:
    """The same, with as many connections as this process may have open; it raises its soft limit for that."""
    wanted = limits.connections + DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return limits
    return replace(limits, connections=max(1, min(limits.connections, soft - DESCRIPTORS_BESIDE)))


def protocol(limits: Limits) -> type[H11Protocol]:
    """The class of the connections of one server."""
    return type("LimitedConnection", (Connection,), {"limits": limits, "waiting": {}})


class Connection(H11Protocol):
    """A connection under `limits`."""

    limits: ClassVar[Limits]
    waiting: ClassVar[dict["Connection", None]]
    """Those that wait for their clients, the longest waiting first."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._awaited: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._make_room():
            detail = f"all {self.limits.connections} connections are in use"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", detail)
            return
        self._await("head", self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        self._set_unread(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_unread(self.limits.unread_seconds)

    def resume_writing(self) -> None:
        self._set_unread(None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What h11 could not read; it says itself if another status fits better, such as 431."""
        error = sys.exception()
        status = HTTPStatus(getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST))
        if status == HTTPStatus.BAD_REQUEST:
            self._refuse(status, "malformed_request", f"the request is not HTTP/1.1: {error or msg}")
        else:
            self._refuse(status, status.name.lower(), f"{status.phrase.lower()}: {error}")

    def _look(self) -> None:
        """What is awaited of the client now, and until when."""
        state = self.conn.their_state
        if self.transport.is_closing():
            self._await(None)
        elif state is h11.SEND_BODY:
            self._await("body", self.limits.body_seconds)
        elif state is not h11.IDLE:
            self._await(None)
        elif self.conn.trailing_data[0]:
            self._await("head", self.limits.head_seconds)
        elif self._awaited != "head":
            # uvicorn closes it after the time for which an idle connection is kept.
            self._await("request")

    def _await(self, awaited: str | None, seconds: float | None = None) -> None:
        """The time for it begins when it is first awaited: one byte more does not begin it anew."""
        if awaited == self._awaited:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._time_is_up)
        self.waiting.pop(self, None)
        if awaited is not None:
            self.waiting[self] = None

    def _set_unread(self, seconds: float | None) -> None:
        if self._unread is not None:
            self._unread.cancel()
        # What was not taken for so long would not be taken before the end, either.
        self._unread = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _time_is_up(self) -> None:
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", f"the {self._awaited} of the request took too long")

    def _make_room(self) -> bool:
        """Whether a connection could be closed that waits for its client."""
        longest = next(iter(self.waiting), None)
        if longest is None:
            return False
        longest._await(None)
        longest._end()
        # No longer counted, although it may be open until what was written to it is sent.
        self.connections.discard(longest)
        return True

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Answer with a problem, if nothing was answered yet, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = new_request_id()
            headers = {"Connection": "close", "Cache-Control": "no-store", "X-Request-Id": request_id}
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
            answer = problem_response(status, code, detail, request_id=request_id, headers=headers)
            head = h11.Response(status_code=status, headers=answer.raw_headers, reason=STATUS_PHRASES[status])
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._end()

    def _end(self) -> None:
        """Close; the application, if it is at work, is told that its client has left."""
        self._await(None)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
