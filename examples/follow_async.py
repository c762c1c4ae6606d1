"""AsyncClient: run several jobs at once, and read their results as soon as they are available."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import TYPE_CHECKING

import batchmill

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = dict[str, int]


def numbers(start: int, count: int) -> Iterator[Row]:
    """Yield rows while they are uploaded."""
    for number in range(start, start + count):
        yield {"number": number}


async def run(client: batchmill.AsyncClient, start: int) -> int:
    job = await client.submit("echo", rows=numbers(start, 10_000), name=f"from {start}")
    total = 0
    async for row in job.results():
        total += row["number"]
    status = await job.status()
    print(f"{status.name}: {status.state}, {status.rows_done} rows")
    return total


async def main() -> None:
    async with batchmill.AsyncClient() as client:  # finds the service with BATCHMILL_DATA_DIR
        totals = await asyncio.gather(*(run(client, start) for start in (0, 10_000, 20_000)))
    print("the sum is right:", sum(totals) == sum(range(30_000)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BATCHMILL_DATA_DIR"] = folder
        with batchmill.local(workers=1, data_dir=folder):
            asyncio.run(main())
