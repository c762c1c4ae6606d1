"""Documents that are cut and embedded in one chain, beside `embed` alone over the same chunks."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill import Stage
from batchmill_worker.runtime.trace import read_trace
from benchmarks import trace_figures
from benchmarks.bare_embed import MODEL
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service
from benchmarks.texts import texts

if TYPE_CHECKING:
    from batchmill import Client, Job
    from benchmarks.scale import Scale

NAME = "chain_embed"
TEXTS = 8  # of the corpus, joined to a document
CHUNK = {"size": 100, "overlap": 10, "tokenizer": f"package:{MODEL}"}
EMBED = {"model": f"package:{MODEL}"}
STAGES = [Stage("chunk", params=CHUNK), Stage("embed", params=EMBED)]
LAST = len(STAGES) - 1


def measure(scale: Scale) -> Report:
    """Both in turn on one worker, `scale.embed_runs` times over."""
    found: dict[str, list[float]] = {"alone": [], "chain": [], "idle": []}
    corpus = texts(scale.embed_few)
    documents = pa.table({"text": ["\n\n".join(corpus[at : at + TEXTS]) for at in range(0, len(corpus), TEXTS)]})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        trace = folder / "trace.json"
        run = stack.enter_context(processes(folder))
        client = stack.enter_context(service(run, 1, env={"BATCHMILL_TRACE": str(trace)})).client
        chunks = client.submit("chunk", rows=documents, params=CHUNK).to_table().select(["text"])
        client.submit("embed", rows=chunks.slice(0, 256), params=EMBED).wait()
        for _ in range(scale.embed_runs):
            found["alone"].append(chunks.num_rows / _alone(client, chunks))
            took, job = _chain(client, documents, chunks)
            found["chain"].append(chunks.num_rows / took)
            last = f"{job.id}|{LAST}|"
            found["idle"].append(100 * trace_figures.steady(read_trace(trace), last).idle_share)
    ratios = [chain / alone for chain, alone in zip(found["chain"], found["alone"], strict=True)]
    figures = [
        Figure("embed alone over the chunks", "rows/s", found["alone"]),
        Figure("chunk and embed as a chain", "rows/s", found["chain"]),
        Figure("the chain over embed alone", "x", ratios),
        Figure("device idle of the last stage in steady state", "%", found["idle"]),
    ]
    bars = [
        Bar("the chain over embed alone", statistics.median(ratios), "at least", 0.97, "x"),
        Bar("device idle of the last stage", statistics.median(found["idle"]), "below", 2, "%"),
    ]
    settings = {"documents": documents.num_rows, "chunks": chunks.num_rows, "runs": scale.embed_runs, "model": MODEL}
    return Report(NAME, settings, figures, bars, REMARKS)


REMARKS = [
    "One worker; both are complete jobs, from submit until the client has the vectors, with the model loaded.",
    "Steady state: from the first commit of the last stage until its last shard was loaded, by the trace.",
]


def _alone(client: Client, chunks: pa.Table) -> float:
    began = time.perf_counter()
    back = client.submit("embed", rows=chunks, params=EMBED).to_table()
    if back.num_rows != chunks.num_rows:
        raise RuntimeError(f"{back.num_rows} of {chunks.num_rows} vectors were returned")
    return time.perf_counter() - began


def _chain(client: Client, documents: pa.Table, chunks: pa.Table) -> tuple[float, Job]:
    began = time.perf_counter()
    job = client.submit(rows=documents, stages=STAGES)
    back = job.to_table()
    took = time.perf_counter() - began
    if back["text"].to_pylist() != chunks["text"].to_pylist():
        raise RuntimeError("the chunks of the chain are others than those of `chunk` alone")
    return took, job
