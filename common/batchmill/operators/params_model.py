"""The parameter model of an operator, derived from the keyword parameters of its code."""

from __future__ import annotations

import inspect
import typing
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, create_model
from pydantic.errors import PydanticUserError

from batchmill.errors import InvalidOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def params_model(name: str, code: Callable[..., Any]) -> type[BaseModel]:
    """Make the parameter model of an operator from its keyword parameters (of a class, those of `__init__`).

    Raises `InvalidOperator` for code that does not fit the contract.
    """
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
    """Evaluate the types of the parameters only: those of the batch and the result may not exist at run time."""
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
