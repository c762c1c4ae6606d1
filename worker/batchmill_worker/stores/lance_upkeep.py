"""What keeps a Lance table fast that gets many small writes: a sink of a stream publishes every few seconds.

1. Small fragments are joined: more than 32 of less than 10,000 rows, and more than 128 of less than a million. So each
   row is written again a few times, however long the stream runs, and a version lists few small fragments.
2. New rows join the index once there are 10,000: until then a search compares them one by one, in about 20 ms. They
   become a part of the index of their own, and from eight parts on all become one. To add the rows of each step to the
   graph that is there would build it again each time.
3. Former versions are deleted after an hour. To look for them takes longer the more there are, so with many only some
   steps do.

Each of these is a version of its own that changes no row. If somebody else has changed the same fragments meanwhile, it
is left to the next step.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from lance import LanceDataset

TIERS = ((10_000, 32), (1_000_000, 128))
"""Up to how many fragments may have less than a number of rows."""

UNINDEXED_ROWS = 10_000
MAX_INDEX_PARTS = 8
KEPT_FOR = timedelta(hours=1)  # former versions, for those who read them
FEW_VERSIONS, CLEAN_EVERY = 64, 16


def join_fragments(table: LanceDataset) -> None:
    """Join small fragments where there are too many."""
    for rows, most in TIERS:
        _join(table, rows, most)


def extend_index(table: LanceDataset) -> None:
    """Add the rows to the index that it does not have, if they are many."""
    (index, *_) = table.describe_indices()
    known = {number for part in index.segments for number in part.fragment_ids}
    if _rows_outside(table, known) < UNINDEXED_ROWS:
        return
    _join(table, UNINDEXED_ROWS, 1)  # else the index would be written again when they are joined
    is_full = len(index.segments) >= MAX_INDEX_PARTS
    table.optimize.optimize_indices(num_indices_to_merge=len(index.segments) if is_full else 0)


def clean(table: LanceDataset, before: int) -> None:
    """Delete former versions after their time. before: the version that was there before this job or step."""
    versions = sum(1 for _ in (Path(table.uri) / "_versions").iterdir())
    if versions <= FEW_VERSIONS or before // CLEAN_EVERY != table.version // CLEAN_EVERY:
        table.cleanup_old_versions(KEPT_FOR)


def _join(table: LanceDataset, rows: int, most: int) -> None:
    sizes = {fragment.fragment_id: fragment.metadata.num_rows for fragment in table.get_fragments()}
    others = [number for number, size in sizes.items() if size >= rows]
    if len(sizes) - len(others) <= most:
        return
    try:
        table.optimize.compact_files(target_rows_per_fragment=rows, excluded_fragment_ids=others)
    except OSError as error:
        if not is_conflict(error):
            raise


def _rows_outside(table: LanceDataset, known: AbstractSet[int]) -> int:
    return sum(one.metadata.num_rows for one in table.get_fragments() if one.fragment_id not in known)


def is_conflict(error: OSError) -> bool:
    """Return whether somebody else has changed the table."""
    return "onflict" in str(error) or "already exists" in str(error)
