"""What each endpoint may answer beside success, for the OpenAPI document."""

from typing import Any

from api.errors import MEDIA_TYPE

_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_MEANINGS = {
    400: "The body is not JSON.",
    401: "No valid API key was sent.",
    404: "There is no such thing, or it belongs to somebody else.",
    409: "The thing is in a state that does not allow this.",
    412: "The file is not the one of If-Match.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    416: "None of the bytes asked for exists.",
    422: "The request is understood and cannot be done; `errors` has one entry per fault.",
    429: "Too many at once.",
    500: "The service failed; its log has more under `request_id`.",
    503: "The service, or something it needs, is away for the moment.",
}
_BODY = (400, 413, 415)

Answers = dict[int | str, dict[str, Any]]


def problems(*statuses: int, body: bool = False) -> Answers:
    """The problems of an endpoint that needs a key and the database, and `statuses`.

    Args:
        body: whether it reads a body.
    """
    wanted = sorted({401, 422, 500, 503, *statuses, *(_BODY if body else ())})
    answers: Answers = {status: {"description": _MEANINGS[status], "content": _PROBLEM} for status in wanted}
    for status in {429, 503} & set(wanted):
        answers[status]["headers"] = _RETRY_AFTER
    return answers
