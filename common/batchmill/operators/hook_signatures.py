"""The signatures of an operator's hooks, checked when it is registered and not when a worker first calls them."""

from __future__ import annotations

import inspect
from typing import Any

from batchmill.errors import InvalidOperator

HOOK_ARGUMENTS = {
    "setup": ("device",),
    "prepare": ("batch",),
    "infer": ("batch",),
    "finish": ("outputs",),
    "cost": ("row",),
    "costs": ("batch",),
    "row_key": ("row",),
    "fingerprint": (),
    "computes_with": (),
    "teardown": (),
}
"""What a worker passes to each hook, by position, after `self`."""


def check_hooks(name: str, code: type) -> None:
    """Raise `InvalidOperator` for a hook of a class that cannot be called as a worker calls it."""
    for hook, arguments in HOOK_ARGUMENTS.items():
        if hasattr(code, hook):
            _check(name, code, hook, arguments)


def _check(name: str, code: type, hook: str, arguments: tuple[str, ...]) -> None:
    function = getattr(code, hook)
    where, expected = f"{code.__qualname__}.{hook}", f"def {hook}({', '.join(('self', *arguments))})"
    if not callable(function):
        raise InvalidOperator(
            f"operator {name!r}: {where} is {function!r:.80}, expected a method.", hint=f"{expected}."
        )
    if _is_async(function):
        raise InvalidOperator(
            f"operator {name!r}: {where} is async, expected a plain method.",
            hint="Operators run in threads of their own; call asyncio.run() inside if you need an event loop.",
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # native code that does not say what it takes
        return
    is_bound = isinstance(inspect.getattr_static(code, hook), staticmethod | classmethod)
    given: list[Any] = [None] * (len(arguments) + (not is_bound))
    try:
        signature.bind(*given)
    except TypeError as error:
        raise InvalidOperator(
            f"operator {name!r}: {where}{signature} cannot be called with {_list(arguments)}: {error}.",
            hint=f"Write it as `{expected}`.",
        ) from error


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _list(arguments: tuple[str, ...]) -> str:
    return " and ".join(arguments) or "no arguments"
