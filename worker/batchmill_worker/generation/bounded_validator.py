"""Validation by a JSON Schema that ends: a small schema may need more steps for a small answer than there is time for.

Two things take long. A schema whose parts refer to each other twice doubles the steps with each of them, or with each
level of the answer. And a pattern such as `^(a|aa)+$` is tried in as many ways as a text can be divided.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import regex
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECK_S = 2.0
"""Of computing, for all keywords of a schema. A number of steps would say little: one takes up to a millisecond."""
PATTERN_S = 1.0


class EndlessCheckError(Exception):
    """An answer cannot be held against its schema in reasonable time."""


class _Check(threading.local):
    """The check that runs in a thread. ends_at: in seconds of computing of the thread."""

    ends_at = 0.0


def bounded(kind: Any) -> tuple[Any, Callable[[], None]]:
    """Make a class of validators that raises `EndlessCheckError`, and what to call before each check."""
    running = _Check()

    def counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            if time.thread_time() > running.ends_at:
                raise EndlessCheckError(f"it takes more than {CHECK_S:g} s")
            yield from keyword(validator, value, instance, schema) or ()

        return check

    def begin() -> None:
        running.ends_at = time.thread_time() + CHECK_S

    keywords = dict(kind.VALIDATORS)
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    }
    keywords.update((name, keyword) for name, keyword in own.items() if name in keywords)
    checked = {name: counted(keyword) for name, keyword in keywords.items()}
    return extend(kind, checked), begin  # type: ignore[no-untyped-call]  # jsonschema has no types for it


def _found(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=PATTERN_S) is not None
    except TimeoutError as error:
        raise EndlessCheckError(f"the pattern {pattern!r} takes more than {PATTERN_S:g} s") from error


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, schema in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in named or any(_found(pattern, name) for pattern in patterns):
            continue
        if allowed is False:
            yield ValidationError(f"the property {name!r} is not allowed")
        else:
            yield from validator.descend(value, allowed, path=name)
