"""Dead letters: rows given up on, as they are stored next to a job's results and shown to users."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from batchmill.job import Frozen
from batchmill.shard import ShardId, ShardRef, format_shard_id


class DeadLetter(Frozen):
    """A row given up on. Times are seconds since the epoch."""

    index: int  # 0-based, in the job's input
    row: dict[str, Any]  # the input row, as JSON values: see `json_value`
    operator: str
    error_type: str
    message: str
    traceback: str = ""
    attempts: int  # how often it was tried
    worker: str  # the one that tried it last
    first_failed_at: float
    last_failed_at: float


def dead_letters_name(ref: ShardRef) -> str:
    """The blob that holds the dead letters of an attempt."""
    return f"jobs/{ref.job_id}/dead/{part_of(ref.shard_id, ref.token)}.jsonl"


def part_of(shard_id: ShardId, token: int) -> str:
    """The name that what an attempt stores begins with."""
    return f"part-{format_shard_id(shard_id)}-a{token}"


def encode_dead_letters(letters: Iterable[DeadLetter]) -> bytes:
    """Dead letters as JSON Lines."""
    return "".join(letter.model_dump_json() + "\n" for letter in letters).encode()


def decode_dead_letters(data: bytes) -> list[DeadLetter]:
    """The inverse of `encode_dead_letters`."""
    return [DeadLetter.model_validate_json(line) for line in data.splitlines()]


def count_by_type(letters: Iterable[DeadLetter]) -> tuple[tuple[str, int], ...]:
    """How many rows died of which error."""
    return tuple(sorted(Counter(letter.error_type for letter in letters).items()))


def json_value(value: Any) -> Any:
    """A value of a row as JSON has it: bytes as base64, times as ISO 8601, non-finite floats as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {str(name): json_value(item) for name, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
