"""A complete job of embeddings beside Ray Data, Daft and the model in a loop, each with torch and with OpenVINO.

Each peer is a process that keeps its model, and runs with the batch size that was the fastest for it; Batchmill chooses
its own. INFINITY, a Python that has infinity-emb, adds that: it needs other versions of libraries.
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
from benchmarks.bare_embed import MODEL
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
KINDS = {"encode": "the model in a loop", "ray": "Ray Data", "daft": "Daft", "infinity": "infinity"}
BACKENDS = ("torch", "openvino")
OURS = {"torch": PARAMS, "openvino": OPENVINO}
QUIET = {"OMP_WAIT_POLICY": "passive"}  # as in Batchmill's workers: idle threads of torch do not spin
Side = tuple[str, str]


class _Peer:
    """A process of `embed_peer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.size = 32
        self._read()

    def tune(self) -> None:
        """Take the fastest batch size."""
        self.run(SWEPT_ROWS, 32)
        took = {size: self.run(SWEPT_ROWS, size) for size in SIZES}
        self.size = min(took, key=lambda size: took[size])

    def run(self, rows: int, size: int | None = None) -> float:
        """Embed rows; return the seconds."""
        if self._process.stdin is None:
            raise RuntimeError("the peer has no standard input")
        self._process.stdin.write(f"{rows} {size or self.size}\n")
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
        peers = {side: stack.enter_context(_peer(*side, rows, folder)) for side in _sides()}
        for peer in peers.values():
            peer.tune()
        for _ in range(scale.embed_runs):
            for side, peer in peers.items():
                took.setdefault(side, []).append(peer.run(rows))
            took.setdefault(("encode", "torch 32"), []).append(peers["encode", "torch"].run(rows, 32))
            for backend in BACKENDS:
                took.setdefault(("ours", backend), []).append(_ours(client, corpus, backend))
    settings = {"rows": rows, "runs": scale.embed_runs, **{" ".join(side): peer.size for side, peer in peers.items()}}
    return Report(NAME, settings, _figures(took, rows), _bars(took), REMARKS)


REMARKS = [
    "The texts and the model are those of `embed`. The settings name the batch size of each peer, its fastest of four.",
    "Peers have their model loaded, and Ray Data's time starts when its actor has. Theirs get blocks of 1,024 rows.",
    "With OpenVINO all run the model that Batchmill converts, in float32 and with the same number of threads.",
]


def _sides() -> list[Side]:
    sides = [(kind, backend) for kind in ("encode", "ray", "daft") for backend in BACKENDS]
    return sides + ([("infinity", "torch")] if os.environ.get("INFINITY") else [])


def _ours(client: Client, table: pa.Table, backend: str) -> float:
    began = time.perf_counter()
    back = client.submit("embed", rows=table, params=OURS[backend]).to_table()
    took = time.perf_counter() - began
    if back["text"] != table["text"]:
        raise RuntimeError("the rows did not come back in order")
    return took


def _model_folder() -> str:
    return str(locate_model(f"package:{MODEL}", setup_context.current().locations))


def _texts_file(folder: Path, rows: int) -> str:
    path = folder / "texts.json"
    path.write_text(json.dumps(texts(rows)))
    return str(path)


@contextmanager
def _peer(kind: str, backend: str, rows: int, folder: Path) -> Iterator[_Peer]:
    threads = str(divide(usable_cores(), 1)[0].threads)
    command = [sys.executable, "-m", "benchmarks.embed_peer", kind, backend, str(rows), threads]
    if kind == "infinity":
        script = str(REPOSITORY / "benchmarks" / "infinity_peer.py")
        command = [os.environ["INFINITY"], script, _model_folder(), _texts_file(folder, rows), threads]
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
    names = {"ours": "Batchmill, the complete job", **KINDS}
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
    if ("infinity", "torch") in took:
        bars.append(Bar("over infinity with torch", over(("infinity", "torch"), best), "at least", 1.0, "x"))
    return bars
