"""Reading JSON bodies: what is not JSON, and what could not be stored, is refused before anything looks at it."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from api.errors import MAX_FAULTS, ProblemError, in_short
from api.pointers import body_faults, unstorable
from ppo_jobs.schemas import Fault

LARGE_BYTES = 8192
"""A body of more is read in a thread of its own."""
MAX_VALUES = 20_000
"""Of a body, counted by its commas. Each may be a fault, and pydantic hands the interpreter to nobody else until it has
told of them all."""
SHOWN_CHARACTERS = 64
"""So much of a name is repeated in a refusal."""

_EMPTY = b""
_BYTE_ORDER_MARK = "\ufeff"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """
    Raises:
        ProblemError: a name is there twice, so that readers differ in what it means (RFC 8259, section 4).
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        detail = f"the body has {twice[:SHOWN_CHARACTERS]!r} twice in one object"
        raise ProblemError(HTTPStatus.BAD_REQUEST, "malformed_json", detail)
    return value


def _parsed(body: bytes) -> Any:
    """
    Raises:
        ProblemError: the body is not JSON in UTF-8 (RFC 8259, section 8.1), or could not be stored.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8: see its byte {error.start}") from None
    if text.startswith(_BYTE_ORDER_MARK):
        raise _malformed("the body begins with a byte order mark; send plain UTF-8")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise _malformed(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _malformed("the body is not read: it is nested too deeply") from None
    except ValueError:
        raise _malformed("the body is not read: it has an integer of too many digits") from None
    if faults := list(islice(unstorable(value), MAX_FAULTS)):
        raise _invalid(faults)
    return value


def _malformed(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, "malformed_json", detail)


def _invalid(faults: list[Fault]) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", in_short(faults), errors=faults)


class JSONRequest(Request):
    """A request whose body is JSON in UTF-8, or absent."""

    def __init__(self, request: Request, read: Callable[[Any], Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._read = read

    async def body(self) -> bytes:
        body = await super().body()
        if body != _EMPTY:
            self._require_plain_json()
        if body.count(b",") >= MAX_VALUES:
            detail = f"a body may hold {MAX_VALUES} names and values at most"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail)
        return body

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= LARGE_BYTES:
            return self._value(body)
        # What takes long keeps nobody waiting.
        return await run_in_threadpool(self._value, body)

    def _value(self, body: bytes) -> Any:
        return self._read(_parsed(body))

    def _require_plain_json(self) -> None:
        media_type, _, parameters = self.headers.get("content-type", "").lower().partition(";")
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        media_type, charset = media_type.strip(), parameters.partition("charset=")[2].strip(' "')
        headers = {}
        if encoding not in ("", "identity"):
            detail, headers = "send the body without a Content-Encoding", {"Accept-Encoding": "identity"}
        elif media_type != "application/json" and not media_type.endswith("+json"):
            detail = "send the body as application/json"
        elif charset not in ("", "utf-8", "utf8", "us-ascii"):
            detail = "send the body in UTF-8"
        else:
            return
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail, headers=headers)


class JSONRoute(APIRoute):
    """A route that reads its body through `JSONRequest`, which also checks it: FastAPI itself does both in the event
    loop, where everybody would wait for one large body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JSONRequest(request, self._checked))

        return handle

    def _checked(self, value: Any) -> Any:
        """What the endpoint takes, which FastAPI then lets through as it is.

        Raises:
            ProblemError: it has the wrong shape.
        """
        assert self.body_field is not None, "only an endpoint that takes a body reads it"
        checked, errors = self.body_field.validate(value, {}, loc=("body",))
        if errors:
            raise _invalid(body_faults(errors, value))
        return checked
