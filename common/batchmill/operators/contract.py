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

import hashlib
import inspect
import json
import reprlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

from pydantic import BaseModel, ValidationError

from batchmill.errors import InvalidOperator, InvalidParams, did_you_mean
from batchmill.operators.hook_signatures import check_hooks
from batchmill.operators.params_model import params_model

BatchFormat = Literal["rows", "arrow", "numpy"]
"""How a batch is given to an operator, and returned by it.

`rows`: a list of dicts in, a list of dicts (or `RowError`) of the same length out. `arrow`: a `pyarrow.Table` in,
a `pyarrow.Table` of the same number of rows out. `numpy`: a dict of column name to array in and out, first axis
the rows; a column with nulls comes as NaN or NaT where its type has one, else as an array of objects with None.
An `arrow` or `numpy` operator in which some rows fail returns a `PartialResult`.

Of an operator that `expands`, each row makes any number of results: in `rows` format a list of dicts (or a
`RowError`) for each row, in `arrow` and `numpy` an `Expansion`.
"""

BatchSize = int | Literal["auto"] | None
"""Rows per batch; "auto": the controller decides, in units of cost; None: the complete shard is one batch."""

T = TypeVar("T", bound=Callable[..., Any])


class OperatorKind(StrEnum):
    """What an operator takes, which decides how a worker runs it."""

    BATCH = "batch"  # many rows in one call, each call alone on the device


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

    def teardown(self) -> None:
        """Free what `setup` took; called once, when the process ends or drops the model."""


@dataclass(frozen=True, slots=True)
class OperatorDefinition:
    """A registered operator: its name, its parameter model, and how to make one."""

    name: str
    make: Callable[..., Operator]  # called with the parameters as keywords
    params: type[BaseModel]
    columns: tuple[str, ...] = ()  # input columns every row must have; "{param}" names the value of a parameter
    batch_format: BatchFormat = "rows"
    batch_size: BatchSize = "auto"
    padded: bool = False  # whether rows are padded: a batch then costs its largest row times its rows
    expands: bool = False  # whether a row makes any number of results
    version: str = "1"  # part of what identifies a result
    summary: str = ""
    cacheable: bool = True  # whether a result is a function of its row, and may come from the row cache
    code: str = ""  # a digest of its source file as it was registered; "": there is none
    kind: OperatorKind = OperatorKind.BATCH

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
            batch_format=self.batch_format,
            expands=self.expands,
            version=self.version,
            cacheable=self.cacheable,
            code=self.code,
        )


class OperatorInfo(BaseModel):
    """The description of an operator for other processes: name, parameters as JSON Schema, required columns."""

    name: str
    summary: str = ""
    params_schema: dict[str, Any]
    columns: list[str] = []
    batch_format: BatchFormat = "rows"
    expands: bool = False
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


class OperatorRegistry:
    """The operators that this process has imported, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, OperatorDefinition] = {}

    def add(self, definition: OperatorDefinition) -> None:
        """Register an operator. Raises `InvalidOperator` if other code already has the name."""
        known = self._by_name.get(definition.name)
        if known is not None and not _same_code(known.make, definition.make):
            raise InvalidOperator(
                f"two operators are called {definition.name!r}: {_where(known.make)} and {_where(definition.make)}.",
                hint="Rename one of them.",
            )
        self._by_name[definition.name] = definition

    def get(self, name: str) -> OperatorDefinition | None:
        """Return the operator of that name, or None."""
        return self._by_name.get(name)

    def __iter__(self) -> typing.Iterator[OperatorDefinition]:
        return iter(sorted(self._by_name.values(), key=lambda definition: definition.name))


REGISTRY = OperatorRegistry()
"""Where `operator` registers."""


def operator(
    name: str,
    *,
    columns: Iterable[str] = (),
    batch_format: BatchFormat = "rows",
    batch_size: BatchSize = "auto",
    padded: bool = False,
    expands: bool = False,
    version: str = "1",
    cacheable: bool = True,
) -> Callable[[T], T]:
    """Register a function or a class as an operator, and return it unchanged.

    The keyword parameters of the function, or of the class' `__init__`, are the operator's parameters: their
    annotations and defaults are checked when a job is submitted.

    Args:
        name: Up to 64 letters, digits, `_`, `-` and `.`; no part starts with a digit.
        columns: Input columns that every row must have; a job without them is refused. `"{column}"` is replaced by the
            value of the parameter `column`.
        batch_format: How a batch is given to the operator and returned by it: `"rows"`, lists of dicts; `"arrow"`,
            `pyarrow.Table`s; `"numpy"`, dicts of arrays by column name.
        batch_size: Rows per batch. `"auto"` measures which size suits the device, in units of `cost`; None gives a
            complete shard at once. A job may ask for another size.
        padded: Whether rows are padded to the longest of their batch, as texts are. A batch then costs its largest row
            times the number of rows, otherwise the sum; rows of similar cost are put together.
        expands: Whether a row has any number of results. Results then start with a column `source_row`, the index of
            their row in the job's input, and passed-through columns are repeated.
        version: Change it when the results change for the same input.
        cacheable: Whether a result depends only on its row and the parameters. False for random results, remote
            services, or results that depend on other rows of the batch; such jobs cannot use the row cache.

    Returns:
        A decorator.

    Raises:
        InvalidOperator: The name is malformed or taken, or the code does not fit the contract.
    """

    def register(code: T) -> T:
        params = params_model(_checked_name(name), code)
        if inspect.isclass(code):
            check_hooks(name, code)
        REGISTRY.add(
            OperatorDefinition(
                name=name,
                make=_factory(code),
                params=params,
                columns=_checked_columns(name, columns, params),
                batch_format=_checked_format(name, batch_format),
                batch_size=_checked_size(name, batch_size),
                padded=padded,
                expands=expands,
                version=version,
                cacheable=cacheable,
                code=_code_digest(code),
                summary=(inspect.getdoc(code) or "").partition("\n")[0],
            )
        )
        return code

    return register


class FunctionOperator:
    """A plain function as an operator: `infer` calls it."""

    def __init__(self, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
        self._function = function
        self._params = params

    def infer(self, batch: Any) -> Any:
        """Call the function with the batch and the job's parameters."""
        return self._function(batch, **self._params)


def _factory(code: Callable[..., Any]) -> Callable[..., Operator]:
    return typing.cast("Callable[..., Operator]", code) if inspect.isclass(code) else _function_factory(code)


def _function_factory(function: Callable[..., Any]) -> Callable[..., Operator]:
    def make(**params: Any) -> Operator:
        return typing.cast("Operator", FunctionOperator(function, params))

    make.__wrapped__ = function  # type: ignore[attr-defined]  # so that errors name the user's code
    return make


def _code_digest(code: Callable[..., Any]) -> str:
    """Digest the source file of an operator. It may change later while this process keeps running the old code."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(code))
    except TypeError:  # it was defined without a file
        file = None
    try:
        return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() if file else ""
    except OSError:
        return ""


def _checked_name(name: str) -> str:
    if not (name and len(name) <= 64 and all(part.isidentifier() for part in name.replace("-", "_").split("."))):
        raise InvalidOperator(
            f"{name!r} is no operator name: expected up to 64 letters, digits, '_', '-' and '.', "
            "no part of it starting with a digit."
        )
    return name


def _checked_format(name: str, batch_format: str) -> BatchFormat:
    if batch_format not in get_args(BatchFormat):
        raise InvalidOperator(
            f"operator {name!r}: batch_format is {batch_format!r}, expected 'rows', 'arrow' or 'numpy'."
        )
    return typing.cast("BatchFormat", batch_format)


def _checked_size(name: str, batch_size: Any) -> BatchSize:
    fits = batch_size is None or batch_size == "auto"
    if not fits and not (isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1):
        raise InvalidOperator(
            f"operator {name!r}: batch_size is {batch_size!r}, expected 1 or more, 'auto', or None for all rows "
            "of a shard."
        )
    return typing.cast("BatchSize", batch_size)


def _checked_columns(name: str, columns: Iterable[str], params: type[BaseModel]) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise InvalidOperator(f"operator {name!r}: columns is the text {columns!r}, expected a list of names.")
    checked = tuple(columns)
    for column in checked:
        parameter = column[1:-1] if column.startswith("{") and column.endswith("}") else None
        if parameter is not None and parameter not in params.model_fields:
            raise InvalidOperator(
                f"operator {name!r}: columns has {column!r}, but there is no parameter {parameter!r}.",
                hint=did_you_mean(parameter, params.model_fields),
            )
    return checked


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


def _same_code(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    return _where(one) == _where(other)


def _where(code: Callable[..., Any]) -> str:
    code = inspect.unwrap(code)
    return f"{code.__module__}.{code.__qualname__}"
