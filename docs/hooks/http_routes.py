"""The page of the HTTP routes, made from the OpenAPI document of the service itself."""

from __future__ import annotations

import json
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.api.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchmill_coordinator.service import Service

Schema = dict[str, Any]

MARK = "<!-- generated: routes -->"
"""What the routes take the place of."""

_REF = "#/components/schemas/"
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches `{}`",
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the routes into the page that has the mark."""
    return markdown.replace(MARK, route_pages(openapi_document())) if MARK in markdown else markdown


def openapi_document() -> Schema:
    """What a coordinator answers to `GET /openapi.json`. The document does not depend on the service behind it."""
    service = SimpleNamespace(settings=CoordinatorSettings(tokens=("token",)))
    return create_app(cast("Service", service)).openapi()


def route_pages(document: Schema) -> str:
    """Every route, then every schema that one of them names."""
    sections = [
        "\n".join(_route(method, path, route))
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    schemas = ["\n".join(_schema(name, schema)) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n\n".join(["## Routes", *sections, "## Schemas", *schemas])


def _route(method: str, path: str, route: Schema) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield route.get("description", route.get("summary", ""))
    if parameters := route.get("parameters"):
        yield from _table(("parameter", "in", "type", "default", "meaning"), map(_parameter, parameters))
    if body := route.get("requestBody"):
        yield f"\nBody: {_contents(body['content'])}."
    yield "\n| status | answer |\n| --- | --- |"
    for status, answer in sorted(route["responses"].items()):
        yield f"| {status} {_phrase(status)} | {_answer(answer)} |"


def _parameter(parameter: Schema) -> tuple[str, ...]:
    schema = parameter["schema"]
    default = "required" if parameter.get("required") else _default(schema)
    return f"`{parameter['name']}`", parameter["in"], _type(schema), default, _cell(parameter.get("description", ""))


def _answer(answer: Schema) -> str:
    """What is in an answer; beyond the status' own phrase also in words, if the document has any."""
    content = _contents(answer["content"]) if "content" in answer else "no body"
    generic = ("Successful Response", "Validation Error")
    words = answer.get("description", "")
    return f"{_cell(words)} ({content})" if words and words not in generic else content


def _contents(content: Schema) -> str:
    kinds = [
        f"{_type(kind['schema'])} as `{name}`" if kind.get("schema") else f"`{name}`" for name, kind in content.items()
    ]
    return " or ".join(kinds)


def _schema(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name} {{ #{_anchor(name)} }}\n"
    yield schema.get("description", "")
    if values := schema.get("enum"):
        yield "\nOne of " + ", ".join(f"`{value}`" for value in values) + "."
    required = schema.get("required", ())
    if fields := schema.get("properties"):
        rows = [_field(name, value, name in required) for name, value in fields.items()]
        yield from _table(("field", "type", "default", "meaning"), rows)


def _field(name: str, schema: Schema, is_required: bool) -> tuple[str, ...]:
    default = "required" if is_required else _default(schema)
    return f"`{name}`", _type(schema), default, _cell(schema.get("description", ""))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table without the columns that have no text in any row."""
    cells = list(rows)
    used = [place for place in range(len(columns)) if any(row[place] for row in cells)]
    yield "\n| " + " | ".join(columns[place] for place in used) + " |"
    yield "|" + " --- |" * len(used)
    yield from ("| " + " | ".join(row[place] for place in used) + " |" for row in cells)


def _type(schema: Schema) -> str:
    """A type in words, with a link to the schema that it names and its limits."""
    if ref := schema.get("$ref"):
        name = ref.removeprefix(_REF)
        return f"[{name}](#{_anchor(name)})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if values := schema.get("enum"):
        return " or ".join(f"`{json.dumps(value)}`" for value in values)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    return _plain_type(schema)


def _plain_type(schema: Schema) -> str:
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    values = schema.get("additionalProperties")
    if kind == "object" and isinstance(values, dict) and values:
        return f"object of {_type(values)}"
    limits = [words.format(schema[name]) for name, words in _LIMITS.items() if name in schema]
    return _cell(f"{kind} ({', '.join(limits)})" if limits else kind)


def _default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def _phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase if status.isdigit() else ""


def _anchor(schema_name: str) -> str:
    return f"schema-{schema_name.lower()}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
