"""The operator contract: the interface between a user's code and Batchmill.

A function that takes a batch and returns a result for each row is an operator. A class may add any of `setup(device)`,
`prepare(batch)`, `finish(outputs)` and `teardown()` around its `infer(batch)`, and report with `cost(row)` or
`costs(batch)` how much work a row is; only `infer` is required. Its keyword parameters, with their annotations and
defaults, are the operator's parameter model.

Each hook is called by one thread at a time, but `prepare` and `finish` run while another batch is in `infer`. A
batch that raises is run again in halves until the failing row is alone, so a row may pass through the hooks more
than once. Any `BatchmillError` that an operator raises ends the job at once instead.

    @batchmill.operator("sentiment", columns=["text"])
    def sentiment(rows, *, threshold: float = 0.5):
        return [{"label": "positive" if score(row["text"]) > threshold else "negative"} for row in rows]
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

from batchmill.errors import InvalidParams, did_you_mean
from batchmill.jobs.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BatchFormat = Literal["rows", "arrow", "numpy"]
"""How a batch is given to an operator, and returned by it.

`rows`: a list of dicts in, a list of dicts (or `RowError`) of the same length out. `arrow`: a `pyarrow.Table` in,
a `pyarrow.Table` of the same number of rows out. `numpy`: a dict of column name to array in and out, first axis
the rows; a column with nulls comes as NaN or NaT where its type has one, else as an array of objects with None.
An `arrow` or `numpy` operator in which some rows fail returns a `PartialResult`.

Of an operator that `expands`, each row makes any number of results: in `rows` format a list of dicts (or a
`RowError`) for each row, in `arrow` and `numpy` an `Expansion`.

Of an operator that `gathers`, a row is what the stage before has made of one source row: each column is the list of its
values there, in order. It never is empty.
"""

BatchSize = int | Literal["auto"] | None
"""Rows per batch; "auto": the controller decides, in units of cost; None: the complete shard is one batch."""


class OperatorKind(StrEnum):
    """What an operator takes, which decides how a worker runs it."""

    BATCH = "batch"  # many rows in one call, each call alone on the device
    SHARD = "shard"  # all rows of a shard in one call, with their paths, beside the device: it writes to a store
    STATE = "state"  # all rows of a shard in one call, in order, with the state that the shard before it has left
    REQUEST = "request"  # rows one by one, which enter and leave an engine that answers many at a time


class RowError(Exception):
    """An error of one row. Return it in place of a result, or raise it for a batch of one row; other rows are
    unaffected.

    Args:
        message: Why the row has no result.
        retryable: Whether to try the row again.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class PartialResult:
    """The return value of an `arrow` or `numpy` operator for a batch in which some rows failed.

    Attributes:
        results: Results of the other rows, in order, in the operator's batch format.
        errors: The error of each failed row, by its position in the batch. `len(results) + len(errors)` is the number
            of rows in the batch.
    """

    results: Any
    errors: Mapping[int, RowError]


@dataclass(frozen=True, slots=True)
class Expansion:
    """The return value of an `arrow` or `numpy` operator that `expands`, for one batch.

    Attributes:
        results: Results of all rows, concatenated in the order of the rows, in the operator's batch format.
        counts: For each row of the batch, its number of results; 0 for a row in `errors`. The sum is `len(results)`.
        errors: The error of each failed row, by its position in the batch.
    """

    results: Any
    counts: Sequence[int]
    errors: Mapping[int, RowError] = field(default_factory=dict)


class BackendInfo(Frozen):
    """What computes the results of an operator in one process: its library and number format.

    worst_cosine: the smallest cosine between its outputs and those of torch in float32, on a few rows; None: not
        measured, or it is that.
    """

    name: str
    precision: str
    worst_cosine: float | None = None

    @property
    def key(self) -> str:
        """What results and timings depend on: library and number format."""
        return f"{self.name} {self.precision}"


@runtime_checkable
class Operator(Protocol):
    """The hooks that a worker calls. All but `infer` may be missing from a user's class."""

    def setup(self, device: str) -> None:
        """Load what the operator needs onto `device` (`"cpu"`, `"cuda:0"`); called once per process."""

    def prepare(self, batch: Any) -> Any:
        """Turn a batch, in the operator's batch format, into what `infer` takes; runs beside the device's work."""

    def infer(self, batch: Any) -> Any:
        """Compute one batch, and return when the device is done; one call at a time holds the device."""

    def finish(self, outputs: Any) -> Any:
        """Turn what `infer` gave into the operator's batch format; runs beside the device's work.

        `infer` is on the next batch by then: it must not reuse buffers that it has returned.
        """

    def cost(self, row: dict[str, Any]) -> float:
        """Return how much work one row is, at least 0, in units of the operator's own: tokens, pixels.

        Batches are sized in it; without this hook and `costs`, every row costs 1. A row for which it raises costs as
        much as the most expensive of its neighbours. It may be called from any thread.
        """

    def costs(self, batch: Any) -> Sequence[float]:
        """Return the cost of every row of a batch in the operator's batch format. Takes precedence over `cost`."""

    def row_key(self, row: dict[str, Any]) -> str | bytes:
        """Return a key that is equal for two rows exactly if they have the same result; by default all columns.

        The row cache finds rows by it. A row for which it raises is not cached. It may be called from any thread.
        """

    def fingerprint(self) -> str:
        """Return what results depend on besides version, parameters and row, such as the files of a model.

        It is part of the row cache's key; called after the operator is set up.
        """

    def computes_with(self) -> BackendInfo:
        """Return which library and number format compute the results; called after the operator is set up.

        It is part of the row cache's key and of the name of the batch profile, and workers announce it.
        """

    def teardown(self) -> None:
        """Free what `setup` took; called once, when the process ends or drops the model."""


@dataclass(frozen=True, slots=True)
class OperatorDefinition:
    """A registered operator: its name, its parameter model, and how to make one."""

    name: str
    make: Callable[..., Operator]  # called with the parameters as keywords
    params: type[BaseModel]
    columns: tuple[str, ...] = ()  # input columns every row must have; "{param}" names the value of a parameter
    makes: tuple[str, ...] | None = None  # columns that results can have besides those of the input; None: unknown
    consumes: tuple[str, ...] = ()  # input columns that results have only if the job carries them; as `columns`
    batch_format: BatchFormat = "rows"
    batch_size: BatchSize = "auto"
    padded: bool = False  # whether rows are padded: a batch then costs its largest row times its rows
    expands: bool = False  # whether a row makes any number of results
    gathers: bool = False  # whether it is given all rows of a source row together, as one row of lists
    takes_all: bool = False  # whether all rows of a job are one shard
    version: str = "1"  # part of what identifies a result
    summary: str = ""
    cacheable: bool = True  # whether a result is a function of its row, and may come from the row cache
    code: str = ""  # a digest of its source file as it was registered; "": there is none
    kind: OperatorKind = OperatorKind.BATCH

    @property
    def keeps_state(self) -> bool:
        """Whether its shards run one after the other, each with the state that the one before it has left."""
        return self.kind is OperatorKind.STATE

    @property
    def revision(self) -> str:
        """Its version and the code of this process, as `revision_of` names them."""
        return revision_of(self.version, self.code)

    def validate(self, params: Mapping[str, Any]) -> BaseModel:
        """Return the parameters with their defaults filled in. Raises `InvalidParams` when they do not fit."""
        try:
            return self.params.model_validate(dict(params))
        except ValidationError as error:
            raise _invalid_params(self, error) from error

    def required_columns(self, params: Mapping[str, Any]) -> list[str]:
        """Return the input columns that every row must have a value in. Raises as `validate` does."""
        if not self.columns:
            return []
        values = self.validate(params).model_dump()
        return [column.format_map(values) for column in self.columns]

    def consumed_columns(self, params: Mapping[str, Any]) -> list[str]:
        """Return the input columns that results have only if the job carries them. Raises as `validate` does."""
        if not self.consumes:
            return []
        values = self.validate(params).model_dump()
        return [column.format_map(values) for column in self.consumes]

    def canonical(self, params: Mapping[str, Any]) -> str:
        """Return the parameters as JSON, equal for equal parameters: defaults filled in, names sorted."""
        return json.dumps(self.validate(params).model_dump(mode="json"), sort_keys=True)

    def build(self, params: Mapping[str, Any]) -> Operator:
        """Make an operator with these parameters, not set up yet. Raises `InvalidParams` when they do not fit."""
        model = self.validate(params)
        return self.make(**{name: getattr(model, name) for name in type(model).model_fields})

    def announcement(self) -> OperatorInfo:
        """Describe this operator for the ledger, so that jobs can be validated without its code."""
        return OperatorInfo(
            name=self.name,
            summary=self.summary,
            params_schema=self.params.model_json_schema(),
            columns=list(self.columns),
            makes=None if self.makes is None else list(self.makes),
            consumes=list(self.consumes),
            batch_format=self.batch_format,
            expands=self.expands,
            gathers=self.gathers,
            takes_all=self.takes_all,
            keeps_state=self.keeps_state,
            version=self.version,
            cacheable=self.cacheable,
            code=self.code,
        )


class OperatorInfo(BaseModel):
    """The description of an operator for other processes: name, parameters as JSON Schema, columns."""

    name: str
    summary: str = ""
    params_schema: dict[str, Any]
    columns: list[str] = []
    makes: list[str] | None = None
    consumes: list[str] = []
    batch_format: BatchFormat = "rows"
    expands: bool = False
    gathers: bool = False
    takes_all: bool = False
    keeps_state: bool = False
    version: str = "1"
    cacheable: bool = True
    code: str = ""

    @property
    def revision(self) -> str:
        """Its version and code, as `revision_of` names them."""
        return revision_of(self.version, self.code)


def revision_of(version: str, code: str) -> str:
    """Name a version of an operator together with its code, for people: `2 (c0ffee012345)`."""
    return f"{version} ({code[:12]})" if code else version


def version_of(revision: str) -> str:
    """Return the version in a name that `revision_of` made."""
    version, bracket, code = revision.rpartition(" (")
    return version if bracket and code.endswith(")") else revision


def _invalid_params(definition: OperatorDefinition, error: ValidationError) -> InvalidParams:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    known = definition.params.model_fields
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        hint = did_you_mean(where, known) or "It takes no parameters."
        message = f"operator {definition.name!r} has no parameter {where!r}."
    else:
        hint = "" if first["type"] == "missing" else f"It was {reprlib.repr(first['input'])}."
        message = f"operator {definition.name!r}: parameter {where!r}: {first['msg']}."
    return InvalidParams(message, hint=hint, operator=definition.name, parameter=where)
