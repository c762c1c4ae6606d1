"""What an endpoint of OpenAI's API does with a request: its body becomes rows, and their results a body.

Each endpoint has a module. A fault in a body, or of the results, is a `BodyFault`, with the code and the field that
OpenAI's clients read. Batches go through the complete `Endpoint`. Interactive routes, whose bodies are in the OpenAPI
document and whose answers may be streams, read bodies themselves and share all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from batchmill.storage.served_models import ModelKind, ServedModel


class BodyFault(Exception):
    """What is wrong with the body of a request. param: the field, as "messages"; None: the request as a unit."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a request.

    params: the parameters of the operator that it sets, beside those of its model.
    form: what the answer's form depends on, JSON values.
    """

    rows: tuple[dict[str, Any], ...]
    params: dict[str, Any] = field(default_factory=dict)
    form: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of an answer, or of several."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Add two."""
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.generated + other.generated)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Usage:
        """Read the columns of a language model's result; those that an operator does not make count as 0."""
        counts = (row.get(name) for name in ("prompt_tokens", "cached_tokens", "generated_tokens"))
        return cls(*(count if isinstance(count, int) else 0 for count in counts))

    def body(self) -> dict[str, Any]:
        """Return the `usage` of an answer that was generated."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer is made of, besides its results. id: of the request. created_at: seconds since the epoch."""

    id: str
    model: str
    created_at: int
    form: Mapping[str, Any] = field(default_factory=dict)


class Endpoint(Protocol):
    """An endpoint. kind: of the models that answer for it; None: an operator does, without a model's name.

    row_params: parameters that name the columns in which its rows have what a request brings.
    """

    url: str
    kind: ModelKind | None
    row_params: Mapping[str, Any]

    def check(self, model: ServedModel) -> None:
        """Raise `BodyFault` for a model whose parameters leave no room for what requests bring."""
        ...

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:
        """Read the body of a request; only an operator that is called as such has no model. Raises `BodyFault`."""
        ...

    def row_schema(self, model: ServedModel | None) -> pa.Schema | None:
        """Return the schema of the rows; None: as they are."""
        ...

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """Make the body of an answer from the results of a request's rows, in order. Raises `BodyFault`."""
        ...


def text_of(body: Mapping[str, Any], name: str) -> str:
    """Return a text that a body must have. Raises `BodyFault`."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BodyFault(f"{name.capitalize()} parameter is required.", name)
    return value


def refuse(body: Mapping[str, Any], neutral: Mapping[str, Sequence[Any]]) -> None:
    """Raise `BodyFault` for a field that would change the answer and that no engine has.

    neutral: the fields, each with the values that change nothing, beside null.
    """
    for name, allowed in neutral.items():
        value = body.get(name)
        if value is not None and value not in allowed:
            raise BodyFault(f"'{name}' is not supported here.", name, "unsupported_parameter")
