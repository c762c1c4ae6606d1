"""How a user's function or class becomes an operator: the decorator, its checks, and the operators of this process."""

from __future__ import annotations

import hashlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from batchmill.errors import InvalidOperator, did_you_mean
from batchmill.operators.contract import BatchFormat, BatchSize, Operator, OperatorDefinition, OperatorKind
from batchmill.operators.hook_signatures import check_hooks
from batchmill.operators.params_model import params_model

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T", bound=Callable[..., Any])


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
    makes: Iterable[str] | None = None,
    consumes: Iterable[str] = (),
    batch_format: BatchFormat = "rows",
    batch_size: BatchSize = "auto",
    padded: bool = False,
    expands: bool = False,
    gathers: bool = False,
    takes_all: bool = False,
    version: str = "1",
    cacheable: bool = True,
    kind: OperatorKind = OperatorKind.BATCH,
) -> Callable[[T], T]:
    """Register a function or a class as an operator, and return it unchanged.

    The keyword parameters of the function, or of the class' `__init__`, are the operator's parameters: their
    annotations and defaults are checked when a job is submitted.

    Args:
        name: Up to 64 letters, digits, `_`, `-` and `.`; no part starts with a digit.
        columns: Input columns that every row must have; a job without them is refused. `"{column}"` is replaced by the
            value of the parameter `column`.
        makes: The columns that results can have besides those of the input; one that has another is an error of the
            operator. None: unknown.
        consumes: Input columns that are not passed through unless the job's `carry` names them, such as those with
            files; written as in `columns`.
        batch_format: How a batch is given to the operator and returned by it: `"rows"`, lists of dicts; `"arrow"`,
            `pyarrow.Table`s; `"numpy"`, dicts of arrays by column name.
        batch_size: Rows per batch. `"auto"` measures which size suits the device, in units of `cost`; None gives a
            complete shard at once. A job may ask for another size.
        padded: Whether rows are padded to the longest of their batch, as texts are. A batch then costs its largest row
            times the number of rows, otherwise the sum; rows of similar cost are put together.
        expands: Whether a row has any number of results. Results then start with a column `source_row`, the index of
            their row in the job's input, and passed-through columns are repeated.
        gathers: Whether a row is all that the stage before has made of one row of the job's source, each column a list
            in order. Results keep no column that the job's `carry` does not name, and of those the first value. Never
            from the row cache, and not in the first stage.
        takes_all: Whether all rows of a job are one shard, because results depend on rows wherever they are. With
            `batch_size=None` they are one batch, too, whatever the job asks for. Rows wait until the stage before has
            ended; all are in memory at once. A failure is that of all rows. Not over a stream in the first stage.
        version: Change it when the results change for the same input.
        cacheable: Whether a result depends only on its row and the parameters. False for random results, remote
            services, or results that depend on other rows of the batch; such jobs cannot use the row cache.
        kind: How a worker runs it. Operators of users take batches.

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
                columns=_checked_columns(name, "columns", columns, params),
                makes=None if makes is None else _checked_names(name, "makes", makes),
                consumes=_checked_columns(name, "consumes", consumes, params),
                batch_format=_checked_format(name, batch_format),
                batch_size=_checked_size(name, batch_size),
                padded=padded,
                expands=expands,
                gathers=gathers,
                takes_all=takes_all,
                version=version,
                cacheable=cacheable and not gathers and not takes_all and kind is not OperatorKind.STATE,
                kind=kind,
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


def _checked_columns(name: str, option: str, columns: Iterable[str], params: type[BaseModel]) -> tuple[str, ...]:
    checked = _checked_names(name, option, columns)
    for column in checked:
        parameter = column[1:-1] if column.startswith("{") and column.endswith("}") else None
        if parameter is not None and parameter not in params.model_fields:
            raise InvalidOperator(
                f"operator {name!r}: {option} has {column!r}, but there is no parameter {parameter!r}.",
                hint=did_you_mean(parameter, params.model_fields),
            )
    return checked


def _checked_names(name: str, option: str, columns: Iterable[str]) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise InvalidOperator(f"operator {name!r}: {option} is the text {columns!r}, expected a list of names.")
    return tuple(columns)


def _same_code(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    return _where(one) == _where(other)


def _where(code: Callable[..., Any]) -> str:
    code = inspect.unwrap(code)
    return f"{code.__module__}.{code.__qualname__}"
