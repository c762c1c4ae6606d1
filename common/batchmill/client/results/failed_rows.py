"""The failed rows of a job: their pages, the requests to run rows again, the file to which they are exported."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from batchmill.errors import InvalidRequest, StorageError
from batchmill.jobs.dead_letters import DeadLetter, json_value
from batchmill.jobs.replay import RedoRequest, ReplayRequest, RowEdit
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator, Mapping

    from batchmill.client.connection.transport import Transport


MAX_PURGED_INDICES = 400  # in one URL


class DeadLetterPage(BaseModel):
    """A page of dead letters, how many there are of each type of error, and the cursor of the next page."""

    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next: str | None


class _Purged(BaseModel):
    """How many dead letters were deleted."""

    purged: int


async def dead_letter_pages(
    transport: Transport, path: str, stage: str | None = None
) -> AsyncGenerator[DeadLetterPage, None]:
    """Read the dead letters at a path of the service, page by page. stage: only those of this one."""
    cursor: str | None = ""
    named = {} if stage is None else {"stage": stage}
    while cursor is not None:
        answer = await transport.json("GET", path, query={"cursor": cursor} | named)
        page = transport.parse(DeadLetterPage, answer)
        yield page
        cursor = page.next


async def purge(
    transport: Transport, path: str, indices: Collection[int] | None, error_type: str | None, stage: str | None
) -> int:
    """Delete dead letters at a path of the service; return how many. None: those of all rows, errors, stages."""
    kind = [(name, value) for name, value in (("error_type", error_type), ("stage", stage)) if value is not None]
    queries = [kind] if indices is None else [kind + group for group in _index_groups(indices)]
    answers = [await transport.json("DELETE", path, query=query) for query in queries]
    return sum(transport.parse(_Purged, answer).purged for answer in answers)


def replay_request(
    indices: Collection[int] | None,
    stage: str | None,
    error_type: str | None,
    edits: Mapping[int, Mapping[str, Any]] | None,
    idempotency_key: str | None,
) -> ReplayRequest:
    """Build the body of a replay. Raises `InvalidRequest` if a value does not fit."""
    with _refusing("replay"):
        return ReplayRequest(
            indices=None if indices is None else sorted(indices),
            stage=stage,
            error_type=error_type,
            edits=[RowEdit(index=index, row=json_value(row)) for index, row in (edits or {}).items()],
            idempotency_key=idempotency_key or secrets.token_hex(16),
        )


def redo_request(shards: Collection[str] | None, idempotency_key: str | None) -> RedoRequest:
    """Build the body of a request to do damaged shards again. Raises `InvalidRequest` if a value does not fit."""
    with _refusing("redo"):
        return RedoRequest(
            shards=None if shards is None else sorted(shards), idempotency_key=idempotency_key or secrets.token_hex(16)
        )


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise InvalidRequest(f"{what}: {fault_of(error.errors()[0])}") from error


async def write_dead_letters(target: Path, pages: AsyncGenerator[DeadLetterPage, None]) -> int:
    """Write all pages to a JSON Lines file, which is replaced in one step; return the number of dead letters.

    Raises `StorageError` if it cannot be written; then it is unchanged.
    """
    count = 0
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            unfinished = Path(folder) / target.name
            with unfinished.open("w", encoding="utf-8") as file:
                async for page in pages:
                    file.writelines(letter.model_dump_json() + "\n" for letter in page.dead_letters)
                    count += len(page.dead_letters)
            unfinished.replace(target)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}.", path=str(target)) from error
    return count


def _index_groups(indices: Collection[int]) -> list[list[tuple[str, str]]]:
    """Split indices, in order, into the query parameters of as many requests as they need."""
    named = [("index", str(index)) for index in sorted(indices)]
    return [named[start : start + MAX_PURGED_INDICES] for start in range(0, len(named), MAX_PURGED_INDICES)]
