"""Reading JSON bodies: what is not JSON, and what could not be stored, is refused before anything looks at it."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.errors import MAX_FAULTS, ProblemError
from api.pointers import unstorable

SHOWN_CHARACTERS = 64
"""So much of a name is repeated in a refusal."""

_EMPTY = b""


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


class JSONRequest(Request):
    """A request whose body is JSON in UTF-8, or absent."""

    async def body(self) -> bytes:
        body = await super().body()
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body != _EMPTY and media_type != "application/json" and not media_type.endswith("+json"):
            detail = "send the body as application/json"
            raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        return body

    async def json(self) -> Any:
        body = await self.body()
        try:
            value = json.loads(body, object_pairs_hook=_object)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            # Bytes that are no UTF-8, an integer of thousands of digits, a nest of thousands of brackets.
            detail = f"the body cannot be read as JSON: {type(error).__name__}"
            raise ProblemError(HTTPStatus.BAD_REQUEST, "malformed_json", detail) from error
        if faults := list(islice(unstorable(value), MAX_FAULTS)):
            detail = f"{faults[0].pointer}: {faults[0].message}"
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, errors=faults)
        return value


class JSONRoute(APIRoute):
    """A route that reads its body through `JSONRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JSONRequest(request.scope, request.receive))

        return handle
