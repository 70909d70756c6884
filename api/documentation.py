"""The OpenAPI document, and the page that shows it, which loads nothing from elsewhere."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from ppo_jobs.schemas import Problem

_DESCRIPTION = """
Train reinforcement-learning policies with PPO: POST a job, watch its ledger grow, download its checkpoints.

Send `Authorization: Bearer ppo_…` with every request. Errors are problems (RFC 9457) with a stable `code`.
Lists are pages: pass `last_id` as `after` for the next one. A POST with an `Idempotency-Key` may be repeated freely.
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ppo-service</title>
<link rel="icon" href="docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  persistAuthorization: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""


def install(app: FastAPI) -> None:
    """Give `app` its document and its page."""
    app.openapi = lru_cache(maxsize=1)(lambda: _document(app))  # type: ignore[method-assign]  # as FastAPI documents it

    @app.get("/docs", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    def start() -> Response:
        return Response(_START, media_type="text/javascript")

    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_swagger", "resources")]))


def operation_id(route: APIRoute) -> str:
    """What generated clients call the endpoint."""
    return f"head_{route.name}" if route.methods == {"HEAD"} else route.name


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    schemas = document["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _tell_of_defaults(schemas, "TrainingSpec")
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _without_null(parameter["schema"])
    return document


def _tell_of_defaults(schemas: dict[str, Any], name: str) -> None:
    """Has the description say what is taken for a field of `name`, or of a model in it, that is left out.

    Clients that are made from the document send each `default` that it names, and what is sent wins over a preset.
    """
    for field in schemas[name].get("properties", {}).values():
        if "default" in field:
            default = field.pop("default")
            if "$ref" not in field:
                told = f"Unless it or a preset is set: {json.dumps(default)}."
                field["description"] = f"{field['description']} {told}" if "description" in field else told
        for inner in _references(field):
            _tell_of_defaults(schemas, inner)


def _references(schema: object) -> Iterator[str]:
    """The names of the models that a schema refers to."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out is not one that may be null, which no URL can say."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}
