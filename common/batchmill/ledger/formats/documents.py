"""Values as the JSON text that the ledger keeps: what could not be read back is never written."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from batchmill.error_text import first_line
from batchmill.errors import InvalidRequest
from batchmill.jobs.job import JobError
from batchmill.json_values import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import BaseModel

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_ERROR_CHARS = 20_000


def write_document(value: BaseModel, what: str) -> str:
    """Return a value as JSON text that reads back as the same value. Raises `InvalidRequest`, naming `what`."""
    try:
        text = value.model_dump_json()
        is_same = type(value).model_validate_json(text).model_dump_json() == text
    except (ValueError, RecursionError) as error:
        reason = first_line(error)[:200]
        raise InvalidRequest(
            f"{what} cannot be stored, because it could not be read back: {printable(reason)}.",
            hint="Values may be nested about 200 levels deep; send a deeper one as JSON text.",
        ) from error
    if not is_same:
        raise InvalidRequest(f"{what} cannot be stored, because it would be read back as another value.")
    return text


def write_error(error: JobError) -> str:
    """Return an error as JSON text; without its details if they could not be read back."""
    try:
        return write_document(error, "the error")
    except InvalidRequest:
        plain = JobError(code=error.code, message=printable(error.message)[:MAX_ERROR_CHARS])
        return write_document(plain, "the error")


def readable(read: Callable[[bytes], T], texts: Mapping[bytes, bytes], what: str) -> Iterator[T]:
    """Yield the values of these texts, by name; one that cannot be read is logged and left out."""
    for name, text in texts.items():
        try:
            yield read(text)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            shown = name.decode(errors="replace")
            log.error("%s %s is left out, for its record cannot be read: %.300s", what, shown, error)
