"""What surrounds every request. Pure ASGI: a wrapped response would hide from a stream that its client has left."""

import asyncio
import logging
import re
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ProblemError, Unauthorized, new_request_id, problem_response
from api.keys import Grant

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_000_000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RequestBoundary:
    """Gives each request its id and each response its security headers, logs it, and answers what nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status, has_length = 0, False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, has_length
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                has_length = "content-length" in headers
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            grant: Grant | None = scope["state"].get("grant")
            if grant is None or not grant.is_revoked:
                raise
            grant.task.uncancel()
            logger.info("request %s ends: its key was revoked", request_id)
            if not status:
                error = Unauthorized()
                response = problem_response(
                    error.status_code, error.code, error.detail, request_id=request_id, headers=error.headers
                )
                await response(scope, receive, send_with_headers)
            elif not has_length:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                # What is shorter than was announced can only be cut off.
                raise
        except Exception:
            logger.exception("request %s failed", request_id)
            if status:
                # Too late for another answer: the server closes the connection, so that the client sees it was cut off.
                raise
            detail = "the service failed; its log has more under this request_id"
            response = problem_response(500, "internal", detail, request_id=request_id)
            await response(scope, receive, send_with_headers)
        finally:
            _log(scope, status, time.monotonic() - started)


class BodyLimit:
    """Refuses a body of more than `max_bytes` with 413, by its announced length or as soon as it gets longer."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > self.max_bytes:
            response = problem_response(413, "body_too_large", self._detail(), request_id=scope["state"]["request_id"])
            await response(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", self._detail())
            return message

        await self.app(scope, receive_within_limit, send)

    def _detail(self) -> str:
        return f"a body may have at most {self.max_bytes} bytes"


def _request_id(scope: Scope) -> str:
    """The client's own, where it sent a sane one, so that its log and ours can be joined."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else new_request_id()


def _log(scope: Scope, status: int, seconds: float) -> None:
    # Who starts the service asks until it is ready.
    is_fault = status >= HTTPStatus.INTERNAL_SERVER_ERROR and scope["path"] != "/readyz"
    level = logging.WARNING if is_fault else logging.DEBUG
    request_id = scope["state"]["request_id"]
    logger.log(level, "%s %s %d %.3fs %s", scope["method"], scope["path"], status, seconds, request_id)
