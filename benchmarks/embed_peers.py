"""A complete job of embeddings beside Ray Data, Daft and the model in a loop, each with torch and with OpenVINO.

Each peer is a process that keeps its models, and uses the batch size that was the fastest in a loop; Batchmill chooses
its own. Ray serves both backends from one process: two Rays on one machine end each other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill_worker.devices.cores import divide, usable_cores
from batchmill_worker.models import setup_context
from batchmill_worker.models.model_source import locate_model
from benchmarks.embed import OPENVINO, PARAMS
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import REPOSITORY, processes, service
from benchmarks.texts import texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill import Client
    from benchmarks.scale import Scale

NAME = "embed_peers"
SIZES = (8, 16, 32, 64)
SWEPT_ROWS = 256
KINDS = {"encode": "the model in a loop", "ray": "Ray Data", "daft": "Daft"}
INFINITY = "infinity"
INFINITY_PYTHON = os.environ.get("INFINITY_PYTHON")
"""The interpreter of an environment with `infinity-emb[torch]`, whose pins exclude those of the worker."""
BACKENDS = ("torch", "openvino")
OURS = {"torch": PARAMS, "openvino": OPENVINO}
QUIET = {"OMP_WAIT_POLICY": "passive"}  # as in Batchmill's workers: idle threads of torch do not spin
Side = tuple[str, str]


class _Peer:
    """A process of `embed_peer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()

    def best_size(self, backend: str) -> int:
        """Return the fastest batch size."""
        self.run(SWEPT_ROWS, 32, backend)
        return min(SIZES, key=lambda size: self.run(SWEPT_ROWS, size, backend))

    def run(self, rows: int, size: int, backend: str) -> float:
        """Embed rows; return the seconds."""
        if self._process.stdin is None:
            raise RuntimeError("the peer has no standard input")
        self._process.stdin.write(f"{rows} {size} {backend}\n")
        self._process.stdin.flush()
        return self._read()["took_s"]

    def _read(self) -> dict[str, float]:
        for line in self._process.stdout or ():
            if line.startswith("{"):  # what a library prints is none of ours
                return dict(json.loads(line))
        raise RuntimeError(f"the peer ended with {self._process.wait()}")


def measure(scale: Scale) -> Report:
    """All in turn, `scale.embed_runs` times over."""
    rows = scale.embed_few
    corpus = pa.table({"text": texts(rows)})
    took: dict[Side, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        client = stack.enter_context(service(stack.enter_context(processes(folder)), 1)).client
        for backend in BACKENDS:
            _ours(client, corpus.slice(0, SWEPT_ROWS), backend)
        peers = {kind: stack.enter_context(_peer(_of_kind(kind, rows))) for kind in KINDS}
        sizes = {backend: peers["encode"].best_size(backend) for backend in BACKENDS}
        infinity = stack.enter_context(_peer(_of_infinity(folder, rows))) if INFINITY_PYTHON else None
        if infinity is not None:
            infinity.run(SWEPT_ROWS, sizes["torch"], "torch")
        for _ in range(scale.embed_runs):
            if infinity is not None:
                took.setdefault((INFINITY, "torch"), []).append(infinity.run(rows, sizes["torch"], "torch"))
            for backend in BACKENDS:
                for kind, peer in peers.items():
                    took.setdefault((kind, backend), []).append(peer.run(rows, sizes[backend], backend))
                took.setdefault(("ours", backend), []).append(_ours(client, corpus, backend))
            took.setdefault(("encode", "torch 32"), []).append(peers["encode"].run(rows, 32, "torch"))
    settings = {"rows": rows, "runs": scale.embed_runs, **{f"batch size with {name}": sizes[name] for name in sizes}}
    return Report(NAME, settings, _figures(took, rows), _bars(took), REMARKS)


REMARKS = [
    "The texts and the model are those of `embed`. Peers use the fastest of four batch sizes of the model.",
    "Peers have their model loaded, and Ray Data's time starts when its actor has. Theirs get blocks of 1,024 rows.",
    "infinity gets all texts at once and sorts them by itself, with torch. It runs if INFINITY_PYTHON is set.",
    "With OpenVINO all run the model that Batchmill converts, in float32 and with the same number of threads.",
]


def _ours(client: Client, table: pa.Table, backend: str) -> float:
    began = time.perf_counter()
    back = client.submit("embed", rows=table, params=OURS[backend]).to_table()
    took = time.perf_counter() - began
    if back["text"] != table["text"]:
        raise RuntimeError("the rows did not come back in order")
    return took


def _threads() -> str:
    return str(divide(usable_cores(), 1)[0].threads)


def _of_kind(kind: str, rows: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.embed_peer", kind, str(rows), _threads()]


def _of_infinity(folder: Path, rows: int) -> list[str]:
    model = locate_model(PARAMS["model"], setup_context.current().locations)
    corpus = folder / "texts.json"
    corpus.write_text(json.dumps(texts(rows)))
    script = Path(__file__).with_name("infinity_peer.py")
    return [str(INFINITY_PYTHON), str(script), str(model), str(corpus), _threads()]


@contextmanager
def _peer(command: list[str]) -> Iterator[_Peer]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **QUIET},
    )
    try:
        yield _Peer(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()  # it ends, and what it started with it
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _figures(took: dict[Side, list[float]], rows: int) -> list[Figure]:
    names = {"ours": "Batchmill, the complete job", INFINITY: "infinity", **KINDS}
    return [
        Figure(f"{names[kind]}, {how}", "rows/s", [rows / one for one in all_]) for (kind, how), all_ in took.items()
    ]


def _bars(took: dict[Side, list[float]]) -> list[Bar]:
    def over(other: Side, ours: str) -> float:
        pairs = zip(took[other], took["ours", ours], strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)

    best = min(BACKENDS, key=lambda backend: statistics.median(took["ours", backend]))
    bars = [
        Bar(
            "the complete job over encode with torch, batch size 32",
            over(("encode", "torch 32"), best),
            "at least",
            2.8,
            "x",
        ),
        Bar("over encode with the same backend, best batch size", over(("encode", best), best), "at least", 1.05, "x"),
    ]
    for kind in ("ray", "daft"):
        bars.append(Bar(f"over {KINDS[kind]} with torch", over((kind, "torch"), best), "at least", 2.5, "x"))
        bars.append(Bar(f"over {KINDS[kind]} with the same backend", over((kind, best), best), "at least", 1.3, "x"))
    if (INFINITY, "torch") in took:
        bars.append(Bar("over infinity with torch", over((INFINITY, "torch"), best), "at least", 1.0, "x"))
    return bars
