"""How much is measured: the full benchmark, and a quick one that only shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes and numbers of runs."""

    runs: int  # of the speed benchmarks
    memory_runs: int
    rows: int  # through `echo`, as tables
    dict_rows: int  # as dicts
    celery_rows: int
    asks: int  # one-row jobs a run
    few_rows: int  # of the small source
    many_rows: int  # of the large one
    recovery_runs: int
    recovery_rows: int
    embed_runs: int
    embed_rows: int  # real texts
    embed_few: int  # of them, for what is slow
    generate_runs: int
    generate_rows: int
    generate_places: tuple[int, ...]  # of the engine; the best of them is taken
    generate_batches: tuple[int, ...]  # of the peer, in places: the same
    generate_prefixes: int  # and as many rows with each
    live_jobs: tuple[int, ...]  # of one row each
    stream_s: float  # of rows at a steady rate
    stream_rows: int  # of a backlog
    stream_windows: int  # that are open at the same time
    soak_s: float
    limit_s: float  # for everything together

    def with_runs(self, runs: int) -> Scale:
        """The same with another number of runs."""
        return replace(self, runs=runs, memory_runs=runs, recovery_runs=runs, embed_runs=runs, generate_runs=runs)


FULL = Scale(
    runs=5,
    memory_runs=3,
    rows=1_000_000,
    dict_rows=200_000,
    celery_rows=5_000,
    asks=200,
    few_rows=10_000,
    many_rows=10_000_000,
    recovery_runs=3,
    recovery_rows=6_000,
    embed_runs=3,
    embed_rows=5_000,
    embed_few=1_000,
    generate_runs=3,
    generate_rows=500,
    generate_places=(4, 8, 16),
    generate_batches=(1, 4, 16),
    generate_prefixes=8,
    live_jobs=(100, 1_000, 10_000),
    stream_s=20,
    stream_rows=200_000,
    stream_windows=100_000,
    soak_s=3600,
    limit_s=70 * 60,
)
QUICK = Scale(
    runs=3,
    memory_runs=1,
    rows=100_000,
    dict_rows=20_000,
    celery_rows=500,
    asks=50,
    few_rows=10_000,
    many_rows=500_000,
    recovery_runs=1,
    recovery_rows=3_000,
    embed_runs=1,
    embed_rows=1_500,
    embed_few=256,
    generate_runs=1,
    generate_rows=24,
    generate_places=(8,),
    generate_batches=(3,),
    generate_prefixes=4,
    live_jobs=(50, 200),
    stream_s=5,
    stream_rows=50_000,
    stream_windows=10_000,
    soak_s=60,
    limit_s=12 * 60,
)
