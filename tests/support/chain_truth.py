"""What a simulated chain must make of each row: pure functions of its path."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

Path = tuple[int, ...]
Kind = Literal["expand", "map", "filter"]
MAX_FAN_OUT = 4
SMALL_BYTES, LARGE_BYTES = 1_000, 20_000  # of a result; a number only


class Made(NamedTuple):
    """What an attempt makes of its rows."""

    results: list[Path]
    rows: int  # that have not failed
    rows_dead: int
    rows_filtered: int
    roots_dead: int

    @property
    def nbytes(self) -> int:
        """The stored size of the results."""
        return sum(size_of(path) for path in self.results)


def drawn(what: str, path: Path) -> int:
    """A number that follows from a path alone."""
    return zlib.crc32(f"{what} {path}".encode())


def size_of(path: Path) -> int:
    """The bytes of a result."""
    return SMALL_BYTES + drawn("size", path) % (LARGE_BYTES - SMALL_BYTES)


def fails(stage: int, path: Path) -> bool:
    """Whether the operator gives up on a row."""
    return drawn(f"fails {stage}", path) % 31 == 0


def kills(stage: int, path: Path) -> bool:
    """Whether a row ends its process each time."""
    return drawn(f"kills {stage}", path) % 199 == 0


def results_of(kind: Kind, path: Path) -> list[Path]:
    """The results of a row that does not fail."""
    if kind == "expand":
        return [(*path, number) for number in range(drawn("fan-out", path) % (MAX_FAN_OUT + 1))]
    return [path] if kind == "map" or drawn("kept", path) % 3 else []


def made_of(kind: Kind, stage: int, rows: Sequence[Path]) -> Made:
    """What the rows of a shard give; a row that kills is one that fails, once it is alone."""
    dead = [path for path in rows if fails(stage, path) or kills(stage, path)]
    each = [results_of(kind, path) for path in rows if path not in set(dead)]
    return Made(
        results=[path for results in each for path in results],
        rows=len(each),
        rows_dead=len(dead),
        rows_filtered=sum(not results for results in each),
        roots_dead=len({path[0] for path in dead}),
    )
