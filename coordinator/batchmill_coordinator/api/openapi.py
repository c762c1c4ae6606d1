"""The OpenAPI document: what each route answers, from the error classes it declares and the models it reads.

An error class knows its own status and code, so a route names the classes that it raises and nothing is listed twice.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from batchmill.jobs.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI
    from pydantic import BaseModel

    from batchmill.errors import BatchmillError

JSON = "application/json"
REF = "#/components/schemas/{model}"
DESCRIPTION = (
    "Jobs, their results and the service's state. Send `Authorization: Bearer TOKEN` with every request. "
    "Errors have one envelope, `ErrorEnvelope`, whose `code` names what is wrong."
)

FOREIGN = "HTTPValidationError"

Responses = dict[int | str, dict[str, Any]]


class ErrorBody(Frozen):
    """What is wrong, what to do about it, and the values that name the thing."""

    code: str
    message: str
    hint: str
    details: dict[str, Any]
    type: str
    param: str | None


class ErrorEnvelope(Frozen):
    """The body of every answer that is an error."""

    error: ErrorBody


def raises(*kinds: type[BatchmillError]) -> Responses:
    """The `responses` of a route that raises errors of these classes, one entry for each status."""
    by_status: dict[int, list[type[BatchmillError]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.http_status].append(kind)
    return {status: _response(found) for status, found in by_status.items()}


def _response(kinds: list[type[BatchmillError]]) -> dict[str, Any]:
    lines = [f"`{kind.code}`: {(kind.__doc__ or '').partition(chr(10))[0]}" for kind in kinds]
    schema = {"$ref": REF.format(model=ErrorEnvelope.__name__)}
    return {"description": " ".join(lines), "content": {JSON: {"schema": schema}}}


def media(*types: str, **headers: str) -> dict[str, Any]:
    """A successful answer with a body of these media types, and the headers it has with their meaning."""
    content: dict[str, Any] = {name: {"schema": {"type": "string"}} for name in types}
    body: dict[str, Any] = {"description": "Successful Response", "content": content}
    if headers:
        named = {name.replace("_", "-"): meaning for name, meaning in headers.items()}
        body["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "string"}} for name, text in named.items()
        }
    return body


def request_body(schema: dict[str, Any], media_type: str = JSON) -> dict[str, Any]:
    """The `openapi_extra` of a route that needs a body."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def document(app: FastAPI, models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The document of an application. models: those of the bodies that its routes read."""
    made = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    read: list[type[BaseModel]] = [*models, ErrorEnvelope]
    _, schemas = models_json_schema([(model, "validation") for model in read], ref_template=REF)
    components = made.setdefault("components", {})
    components["schemas"] = {**schemas.get("$defs", {}), **components.get("schemas", {})}
    _drop_foreign_answers(made)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return made


def _drop_foreign_answers(made: dict[str, Any]) -> None:
    """Drop the framework's own answer to a wrong parameter, which it adds to routes that answer 400 to it."""
    for operations in made["paths"].values():
        for operation in operations.values():
            answer = operation["responses"].get("422", {})
            if FOREIGN in str(answer):
                del operation["responses"]["422"]
