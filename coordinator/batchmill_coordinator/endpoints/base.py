"""What an endpoint of OpenAI's API does with a request: its body becomes rows, and their results a body.

Each endpoint has a module, with the model of its body. A fault in a body, or of the results, is a `BodyFault`, with the
code and the field that OpenAI's clients read. Batches go through the complete `Endpoint`. Interactive routes, whose
answers may be streams, have the framework validate the same model, and share all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from batchmill_coordinator.endpoints.validation import MAX_SHOWN, first_fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from batchmill.storage.served_models import ModelKind, ServedModel


M = TypeVar("M", bound=BaseModel)


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


def refuse(field: str, why: str) -> BodyFault:
    """Return the fault of a field that would change the answer and is not supported."""
    return BodyFault(f"{field!r} {why}.", field, "unsupported_parameter")


def parsed(body: Mapping[str, Any], kind: type[M]) -> M:
    """Validate a body. Raises `BodyFault`."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = first_fault(error.errors(include_url=False))
    param = ".".join(map(str, first["loc"]))[:MAX_SHOWN]
    if first["type"] == "missing" and len(first["loc"]) == 1:
        raise BodyFault(f"{param.capitalize()} parameter is required.", param)
    raise BodyFault(f"{param!r}: {first['msg']}.", param, "invalid_value")
