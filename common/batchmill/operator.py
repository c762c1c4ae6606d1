"""The operator contract: how a user's code meets Batchmill.

A function that takes a batch and returns as many results is an operator. A class may add any of `setup(device)`,
`prepare(batch)`, `finish(outputs)` and `teardown()` around its `infer(batch)`; only `infer` is required. Its
keyword parameters, with their annotations and defaults, are the operator's parameter model.

Each hook is called by one thread at a time, but `prepare` and `finish` run while another batch is in `infer`. A
batch that raises is cut in halves until the row to blame is alone, so a row may pass through the hooks more than
once. Any `BatchmillError` that an operator raises ends the job at once instead.

    @batchmill.operator("sentiment", columns=["text"])
    def sentiment(rows, *, threshold: float = 0.5):
        return [{"label": "positive" if score(row["text"]) > threshold else "negative"} for row in rows]
"""

from __future__ import annotations

import inspect
import json
import reprlib
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from batchmill.errors import InvalidOperator, InvalidParams, did_you_mean

BatchFormat = Literal["rows", "arrow", "numpy"]
"""How a batch is handed to an operator, and handed back.

`rows`: a list of dicts in, a list of dicts (or `RowError`) of the same length out. `arrow`: a `pyarrow.Table` in,
a `pyarrow.Table` of the same number of rows out. `numpy`: a dict of column name to array in and out, first axis
the rows; a column with nulls comes as NaN or NaT where its type has one, else as an array of objects with None.
An `arrow` or `numpy` operator that gives up on some rows returns a `PartialResult`.
"""

DEFAULT_BATCH_SIZE = 32

T = TypeVar("T", bound=Callable[..., Any])


class RowError(Exception):
    """What an operator returns in place of a result, or raises for a batch of one, to give up on that row alone.

    `retryable` says whether trying the row again could help.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class PartialResult:
    """What an `arrow` or `numpy` operator returns when it gives up on some rows of a batch.

    results: of the other rows, in order, in the operator's batch format.
    errors: by position in the batch, why a row has no result.
    """

    results: Any
    errors: Mapping[int, RowError]


@runtime_checkable
class Operator(Protocol):
    """What the engine drives. All hooks but `infer` may be missing from a user's class."""

    def setup(self, device: str) -> None:
        """Load what the operator needs onto `device` (`"cpu"`, `"cuda:0"`); called once per process."""

    def prepare(self, batch: Any) -> Any:
        """Turn a batch, in the operator's batch format, into what `infer` takes; runs beside the device's work."""

    def infer(self, batch: Any) -> Any:
        """Compute one batch, and return when the device is done; one call at a time holds the device."""

    def finish(self, outputs: Any) -> Any:
        """Turn what `infer` gave into the operator's batch format; runs beside the device's work.

        `infer` is on the next batch by then: it must not fill again what it has given away.
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
    batch_size: int | None = DEFAULT_BATCH_SIZE  # rows a batch; None: the whole shard is one batch
    version: str = "1"  # part of what identifies a result
    summary: str = ""

    def validate(self, params: Mapping[str, Any]) -> BaseModel:
        """The parameters with their defaults filled in. Raises `InvalidParams` when they do not fit."""
        try:
            return self.params.model_validate(dict(params))
        except ValidationError as error:
            raise _invalid_params(self, error) from error

    def canonical(self, params: Mapping[str, Any]) -> str:
        """The parameters as JSON, the same text for the same meaning: defaults filled in, names sorted."""
        return json.dumps(self.validate(params).model_dump(mode="json"), sort_keys=True)

    def build(self, params: Mapping[str, Any]) -> Operator:
        """An operator with these parameters, not set up yet. Raises `InvalidParams` when they do not fit."""
        model = self.validate(params)
        return self.make(**{name: getattr(model, name) for name in type(model).model_fields})

    def announcement(self) -> OperatorInfo:
        """What workers tell the ledger about this operator, so that jobs are validated without its code."""
        return OperatorInfo(
            name=self.name,
            summary=self.summary,
            params_schema=self.params.model_json_schema(),
            columns=list(self.columns),
            batch_format=self.batch_format,
            version=self.version,
        )


class OperatorInfo(BaseModel):
    """An operator as others see it: name, parameters as JSON Schema, required columns."""

    name: str
    summary: str = ""
    params_schema: dict[str, Any]
    columns: list[str] = []
    batch_format: BatchFormat = "rows"
    version: str = "1"


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
        """The operator of that name, or None."""
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
    batch_size: int | None = DEFAULT_BATCH_SIZE,
    version: str = "1",
) -> Callable[[T], T]:
    """Register a function or a class as the operator `name`, and return it unchanged.

    columns: input columns that every row must have; a job over rows without them is refused. `"{column}"` stands
        for the value of the parameter `column`.
    batch_format: how a batch is handed over, see `BatchFormat`.
    batch_size: rows a batch; None hands over a whole shard at once.
    version: change it when the results change for the same input.

    Raises `InvalidOperator` if the name is no identifier, is taken, or the code does not fit the contract.
    """

    def register(code: T) -> T:
        params = _params_model(_checked_name(name), code)
        REGISTRY.add(
            OperatorDefinition(
                name=name,
                make=_factory(code),
                params=params,
                columns=_checked_columns(name, columns, params),
                batch_format=_checked_format(name, batch_format),
                batch_size=_checked_size(name, batch_size),
                version=version,
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


def _checked_size(name: str, batch_size: int | None) -> int | None:
    if batch_size is not None and batch_size < 1:
        raise InvalidOperator(
            f"operator {name!r}: batch_size is {batch_size}, expected 1 or more, or None for a whole shard."
        )
    return batch_size


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


def _params_model(name: str, code: Callable[..., Any]) -> type[BaseModel]:
    """The parameter model of an operator, from its keyword parameters (a class's: those of `__init__`)."""
    function, parameters = _own_parameters(name, code) if inspect.isclass(code) else _after_the_batch(name, code)
    for parameter in parameters:
        _check_kind(name, parameter)
    hints = _hints(name, function, parameters)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", protected_namespaces=())
    try:
        with warnings.catch_warnings():  # of a parameter called "schema" or "json": it hides a method nobody calls
            warnings.simplefilter("ignore", UserWarning)
            return create_model(f"{name}_params", __config__=config, **fields)
    except (PydanticUserError, NameError, TypeError) as error:
        raise InvalidOperator(
            f"operator {name!r}: its parameters cannot be checked: {str(error).partition(chr(10))[0]}",
            hint="Use JSON-like types: str, int, float, bool, list, dict, Literal, or pydantic models.",
        ) from error


def _own_parameters(name: str, code: type) -> tuple[Callable[..., Any], Sequence[inspect.Parameter]]:
    infer = getattr(code, "infer", None)
    if not callable(infer):
        raise InvalidOperator(f"operator {name!r}: class {code.__qualname__} has no method infer(batch).")
    _refuse_async(name, infer)
    if code.__init__ is object.__init__:  # type: ignore[misc]  # compared, not called
        return infer, []
    return code.__init__, list(inspect.signature(code).parameters.values())  # type: ignore[misc]  # read only


def _after_the_batch(name: str, function: Callable[..., Any]) -> tuple[Callable[..., Any], Sequence[inspect.Parameter]]:
    _refuse_async(name, function)
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        raise InvalidOperator(f"operator {name!r}: {function.__qualname__} takes no batch as its first argument.")
    return function, parameters[1:]


def _refuse_async(name: str, function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidOperator(
            f"operator {name!r}: {function.__qualname__} is async, expected a plain function.",
            hint="Operators run in threads of their own; call asyncio.run() inside if you need an event loop.",
        )


def _check_kind(name: str, parameter: inspect.Parameter) -> None:
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        raise InvalidOperator(
            f"operator {name!r}: its parameter {str(parameter).partition(':')[0]} has no names to check.",
            hint="Name each parameter, with an annotation and, if it is optional, a default.",
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise InvalidOperator(
            f"operator {name!r}: parameter {parameter.name!r} cannot be given by name.",
            hint="Remove the '/' from its signature.",
        )
    if parameter.name.startswith("_") or (parameter.name.startswith("model_") and hasattr(BaseModel, parameter.name)):
        raise InvalidOperator(
            f"operator {name!r}: {parameter.name!r} cannot be the name of a parameter.",
            hint="Names that begin with '_', and those of pydantic's own methods, are taken.",
        )


def _hints(name: str, function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> dict[str, Any]:
    """The types of the parameters alone: the batch and the result may name types that exist for checkers only."""
    written = {
        parameter.name: parameter.annotation for parameter in parameters if parameter.annotation is not parameter.empty
    }
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__=written), names, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidOperator(
            f"operator {name!r}: the type of one of its parameters does not exist when it runs: {error}.",
            hint="Import it at the top of the module, not under `if TYPE_CHECKING`.",
        ) from error


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
