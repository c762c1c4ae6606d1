"""Options that a row has for itself, in place of the parameters: how long its answer is, how it is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batchmill.caches import Lru
from batchmill.errors import InvalidParams, InvalidRows
from batchmill.operators.contract import RowError
from batchmill_worker.generation import params
from batchmill_worker.generation.schemas import AnswerSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill_worker.generation.base import Sampling

MAX_SCHEMAS = 64
MAX_SCHEMA_CHARS = 16_384
MAX_TOKENS = 1_000_000
"""Of a prompt that is given as such; longer than any context."""


class RowOptions(BaseModel):
    """The options of one row; what is None is as the operator's parameters say. tokens: the prompt, in place of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: params.MaxTokens | None = None
    temperature: params.Temperature | None = None
    top_p: params.TopP | None = None
    seed: params.Seed | None = None
    stop: params.Stop = None
    json_schema: params.Schema = Field(default=None, alias="schema")
    tokens: Annotated[list[Annotated[int, Field(ge=0)]] | None, Field(min_length=1, max_length=MAX_TOKENS)] = None
    tools: params.ToolList = None
    tool_choice: params.ToolChoice = None
    adapter: params.Adapter = None

    def sampling(self, general: Sampling) -> Sampling:
        """Return how tokens are chosen for this row."""
        own = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "adapter")}
        changed = {name: value for name, value in own.items() if value is not None}
        if self.stop is not None:
            changed["stop"] = tuple(self.stop)
        if self.json_schema is not None:
            changed["schema"] = json.dumps(self.json_schema)
        return replace(general, **changed)


NO_OPTIONS = RowOptions()


def read_options(operator: str, row: Mapping[str, Any], column: str | None) -> RowOptions:
    """Read the options of a row from a column: an object, JSON text of one, or null. Raises `RowError`."""
    if column is None:
        return NO_OPTIONS
    if column not in row:
        raise InvalidRows(
            f"operator {operator!r} reads the column {column!r}, which the rows do not have.", column=column
        )
    value = row[column]
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if isinstance(found, dict):  # a column of objects has a field for what any of them has
            found = {name: one for name, one in found.items() if one is not None}
        return NO_OPTIONS if found is None else RowOptions.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RowError(f"column {column!r}: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise RowError(f"column {column!r} is no JSON: {error}") from error


class RowSchemas:
    """The schemas that rows bring, each checked once. Thread-safe."""

    def __init__(self, operator: str) -> None:
        self._operator = operator
        self._known: Lru[str, AnswerSchema] = Lru(MAX_SCHEMAS)

    def get(self, text: str) -> AnswerSchema:
        """Return a schema. Raises `RowError` for what is none, and for one that takes long to prepare."""
        if len(text) > MAX_SCHEMA_CHARS:
            raise RowError(f"the schema has {len(text):,} characters; at most {MAX_SCHEMA_CHARS:,} are allowed")
        try:
            return self._known.get_or_make(
                text, lambda: AnswerSchema(self._operator, json.loads(text), retryable=False)
            )
        except InvalidParams as error:
            raise RowError(error.message) from error
        except RecursionError as error:
            raise RowError("the schema is nested too deep to be read") from error
