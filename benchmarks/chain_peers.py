"""A chain that splits texts and digests the pieces, beside Ray Data and Daft, and what each loses when a row fails."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchmill import RetryPolicy, Stage
from benchmarks.chain_operators import KILL, POISON
from benchmarks.chain_peer import TOOK
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import REPOSITORY, processes, service

if TYPE_CHECKING:
    from batchmill import Client
    from benchmarks.scale import Scale

NAME = "chain_peers"
WORKERS = 2
SENTENCES = 8  # of a text
OPERATORS = "benchmarks.chain_operators"
PATH = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
LIMIT_S = 300.0
PEERS = {"ray": "Ray Data", "daft": "Daft", "daft-processes": "Daft, functions in processes of their own"}


def measure(scale: Scale) -> Report:
    """All in turn, `scale.runs` times over; then each once with a row that raises, and once with one that kills."""
    rows = scale.rows // 10
    took: dict[str, list[float]] = {"ours": [], **{peer: [] for peer in PEERS}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        run = stack.enter_context(processes(folder))
        client = stack.enter_context(service(run, WORKERS, operators=OPERATORS, env=PATH)).client
        source = _write(folder / "texts.parquet", rows)
        _ours(client, source, folder / "warm-up")
        for number in range(scale.runs):
            took["ours"].append(_ours(client, source, folder / f"ours-{number}"))
            _require_all(_found(folder / f"ours-{number}"), rows)
            for peer in PEERS:
                target = folder / f"{peer}-{number}"
                took[peer].append(_peer(peer, source, target, runs=2)[-1])
                _require_all(_found(target / "1"), rows)
        lost = _losses(client, folder, rows)
    settings = {"rows": rows, "pieces": rows * SENTENCES, "runs": scale.runs, "workers": WORKERS}
    return Report(NAME, settings, _figures(took, lost, rows), _bars(took), REMARKS)


REMARKS = [
    "From a Parquet file to a folder of Parquet files: texts are split into sentences, and each sentence is digested.",
    "Each peer runs in a process of its own, twice; the second run counts, so that starts and imports do not.",
    "Ray Data leaves out blocks that fail (max_errored_blocks=-1). By default it ends at the first error.",
    'Daft makes nulls of a batch that fails twice (on_error="ignore", max_retries=1). By default it ends, too.',
    "A missing row is one without a digest; the row that raises is counted, too.",
]


def _write(path: Path, rows: int, last: str = "the end") -> Path:
    """A file of texts, of which the one in the middle ends with a sentence of its own."""
    texts = [". ".join(f"sentence {n} of text {row}" for n in range(SENTENCES)) for row in range(rows)]
    texts[rows // 2] = texts[rows // 2].rpartition(". ")[0] + f". {last}"
    pq.write_table(pa.table({"id": range(rows), "text": texts}), path, row_group_size=10_000)
    return path


def _ours(client: Client, source: Path, output: Path, once: str = "") -> float:
    stages = [Stage("bench_split"), Stage("bench_digest", once=once, retry=RetryPolicy(max_attempts=2, backoff_s=0.1))]
    began = time.perf_counter()
    client.submit(source=source, stages=stages, output=output).wait(LIMIT_S)
    return time.perf_counter() - began


def _peer(peer: str, source: Path, output: Path, once: str = "", runs: int = 1) -> list[float]:
    """The seconds of each run; fewer than `runs` if it ended before."""
    command = [sys.executable, "-m", "benchmarks.chain_peer", peer, str(source), str(output), once, str(runs)]
    done = subprocess.run(
        command, env={**os.environ, **PATH}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode and not once:
        raise RuntimeError(f"{peer} failed: {done.stderr[-2000:]}")
    return [float(line.removeprefix(TOOK)) for line in done.stdout.splitlines() if line.startswith(TOOK)]


def _found(folder: Path) -> Counter[int]:
    """How many sentences with a digest each text has in a folder of results."""
    tables = [pq.read_table(path, columns=["id", "digest"]) for path in sorted(folder.rglob("*.parquet"))]
    if not tables:
        return Counter()
    table = pa.concat_tables([table.cast(pa.schema([("id", pa.int64()), ("digest", pa.string())])) for table in tables])
    return Counter(table.filter(pc.is_valid(table["digest"]))["id"].to_pylist())


def _require_all(found: Counter[int], rows: int) -> None:
    if found != Counter(dict.fromkeys(range(rows), SENTENCES)):
        raise RuntimeError(f"{found.total()} of {rows * SENTENCES} sentences were returned")


def _losses(client: Client, folder: Path, rows: int) -> dict[tuple[str, str], tuple[int, int]]:
    """For each kind of row and each of them: the sentences that are missing, and those that are there twice."""
    lost = {}
    for kind, last in (("raises", POISON), ("kills", KILL)):
        source = _write(folder / f"{kind}.parquet", rows, last)
        for name in ("ours", *PEERS):
            output, once = folder / f"{name}-{kind}", str(folder / f"{name}-{kind}.once")
            if name == "ours":
                _ours(client, source, output, once)
            else:
                _peer(name, source, output, once)
            found = _found(output)
            missing = sum(max(SENTENCES - found[row], 0) for row in range(rows))
            lost[kind, name] = (missing, sum(max(count - SENTENCES, 0) for count in found.values()))
    return lost


def _figures(took: dict[str, list[float]], lost: dict[tuple[str, str], tuple[int, int]], rows: int) -> list[Figure]:
    names: dict[str, Any] = {"ours": "Batchmill", **PEERS}
    figures = [Figure(f"{names[name]}, texts", "rows/s", [rows / one for one in all_]) for name, all_ in took.items()]
    for (kind, name), (missing, doubled) in lost.items():
        figures.append(Figure(f"{names[name]}, a row {kind}: missing", "rows", [float(missing)]))
        if doubled:
            figures.append(Figure(f"{names[name]}, a row {kind}: twice", "rows", [float(doubled)]))
    return figures


def _bars(took: dict[str, list[float]]) -> list[Bar]:
    median = {name: statistics.median(all_) for name, all_ in took.items()}
    daft = min(median["daft"], median["daft-processes"])
    return [
        Bar("rows/s over Ray Data", median["ray"] / median["ours"], "at least", 1.5, "x"),
        Bar("rows/s over Daft, the faster way", daft / median["ours"], "at least", 1.3, "x"),
    ]
