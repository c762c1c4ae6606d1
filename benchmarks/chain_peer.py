"""`python -m benchmarks.chain_peer PEER SOURCE OUTPUT ONCE RUNS`: the chain of `chain_operators` in Ray Data or Daft.

A process of its own, so that what ends it ends no benchmark. Prints the seconds of each run, the first to warm up; each
run writes to a folder of its own. ONCE: see `chain_operators`; "": nothing goes wrong.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.chain_operators import digest_batch, digests_of, sentences_of, split_batch
from benchmarks.ray_peer import ray_peer

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENCY = 2
TOOK = "took: "
"""Before the seconds of a run: Ray prints lines of its workers to the same output."""


def main() -> None:
    """Run one of them."""
    peer, source, output, once, runs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        if peer == "ray":
            with ray_peer(Path(folder), CONCURRENCY):
                _timed(lambda target: _with_ray(source, target, once), output, int(runs))
        else:
            import daft

            daft.set_runner_native()  # once in a process
            _timed(
                lambda target: _with_daft(source, target, once, separate=peer == "daft-processes"), output, int(runs)
            )


def _timed(do: Callable[[str], None], output: str, runs: int) -> None:
    for number in range(runs):
        target = Path(output) / str(number)
        target.mkdir(parents=True)
        began = time.perf_counter()
        do(str(target))
        print(f"{TOOK}{time.perf_counter() - began}", flush=True)


def _with_ray(source: str, output: str, once: str) -> None:
    """Blocks that fail are left out, and tasks whose process ended run again: what loses the least."""
    import ray

    ray.data.DataContext.get_current().max_errored_blocks = -1
    (
        ray.data.read_parquet(source)
        .map_batches(split_batch, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
        .map_batches(digest_batch, fn_kwargs={"once": once}, batch_format="pyarrow", batch_size=4096)
        .write_parquet(output)
    )


def _with_daft(source: str, output: str, once: str, *, separate: bool) -> None:
    """Errors become nulls, after another try. separate: functions run in processes of their own."""
    import daft
    from daft import DataType, col

    @daft.func.batch(return_dtype=DataType.list(DataType.string()), use_process=separate)
    def sentences(texts: Any) -> Any:
        return sentences_of(texts.to_arrow())

    @daft.func.batch(
        return_dtype=DataType.string(), use_process=separate, batch_size=4096, max_retries=1, on_error="ignore"
    )
    def digests(sentences: Any) -> Any:
        return digests_of(sentences.to_arrow(), once)

    frame = daft.read_parquet(source).select(col("id"), sentences(col("text")).alias("sentence")).explode("sentence")
    frame.select(col("id"), digests(col("sentence")).alias("digest")).write_parquet(output)


if __name__ == "__main__":
    main()
