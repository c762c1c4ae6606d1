"""A complete job of embeddings compared with the bare model, Ray Data and Celery, and the overhead of a worker."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa

from batchmill import BatchPolicy
from batchmill_worker.devices.cores import divide, usable_cores
from batchmill_worker.runtime.trace import read_trace
from benchmarks import embed_bars, trace_figures
from benchmarks.bare_embed import MODEL
from benchmarks.bare_peer import BarePeer, bare_peer
from benchmarks.embed_celery import embed_celery
from benchmarks.embed_ray import best_batch_size, embed_with_ray
from benchmarks.figures import Report
from benchmarks.ray_peer import ray_peer
from benchmarks.stack import Processes, Service, processes, service, start_worker
from benchmarks.texts import texts

if TYPE_CHECKING:
    from batchmill import Job
    from benchmarks.scale import Scale

PARAMS = {"model": f"package:{MODEL}", "backend": "torch"}
OPENVINO = PARAMS | {"backend": "openvino"}
SIZES = (8, 16, 32, 64)  # rows of a batch, for the sweep
MANY_ROWS = 256  # of a Celery task
WARM_UP_ROWS = 256


@dataclass(frozen=True, slots=True)
class _Stage:
    """All that takes part."""

    corpus: list[str]
    few: list[str]  # for what is slow, and for the sweep
    bare: BarePeer
    one: Service  # with one worker process
    two: Service  # with two, each with half of the cores
    run: Processes
    trace: Path
    celery: Any
    ray_size: int
    folder: Path


def measure(scale: Scale) -> Report:
    """All in turn, `scale.embed_runs` times over."""
    found: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        stage = _stage(stack, scale)
        for _ in range(scale.embed_runs):
            _round(stage, found)
        found["bare_mb"].append(stage.bare.peak_mb)
        _starts(stage, scale, found)
    settings = {"rows": scale.embed_rows, "few_rows": scale.embed_few, "runs": scale.embed_runs, "model": MODEL}
    return Report(embed_bars.NAME, settings, embed_bars.figures(found), embed_bars.bars(found), embed_bars.REMARKS)


def _stage(stack: ExitStack, scale: Scale) -> _Stage:
    corpus = texts(scale.embed_rows)
    few = corpus[: scale.embed_few]
    folders = [
        Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        for _ in range(2)
    ]
    run, other = (stack.enter_context(processes(folder)) for folder in folders)
    trace = folders[0] / "trace.json"
    one = stack.enter_context(service(run, 1, env={"BATCHMILL_TRACE": str(trace)}))
    two = stack.enter_context(service(other, 2))
    threads = divide(usable_cores(), 1)[0].threads
    stack.enter_context(ray_peer(folders[0] / "ray", threads))
    celery = stack.enter_context(embed_celery(run, one.socket))
    for each in (one, two):
        _embed(each, corpus[:WARM_UP_ROWS])
    _embed(one, corpus[:WARM_UP_ROWS], params=OPENVINO)  # converts the model
    bare = stack.enter_context(bare_peer(folders[0], len(corpus), scale.embed_runs))
    size = best_batch_size(pa.table({"text": few}), threads, folders[0])
    return _Stage(corpus, few, bare, one, two, run, trace, celery, size, folders[0])


def _round(stage: _Stage, found: dict[str, list[float]]) -> None:
    rows, few = len(stage.corpus), len(stage.few)
    threads = divide(usable_cores(), 1)[0].threads
    bare = rows / stage.bare.run()
    found["bare"].append(bare)
    took, job = _embed(stage.one, stage.corpus, stage.bare.vectors())
    found["job"].append(rows / took)
    _read_trace(stage, job, found)
    if not found["peak_mb"]:  # before the sweep, whose large batches take more
        found["peak_mb"].append(_peak_mb(stage.one))
    found["openvino"].append(rows / _embed(stage.one, stage.corpus, stage.bare.vectors(), params=OPENVINO)[0])
    found["two"].append(rows / _embed(stage.two, stage.corpus)[0])
    ray_s = embed_with_ray(pa.table({"text": stage.corpus}), stage.ray_size, threads, stage.folder)
    found["ray"].append(rows / ray_s)
    found["celery_one"].append(few / stage.celery.run(stage.few, 1))
    found["celery_many"].append(few / stage.celery.run(stage.few, MANY_ROWS))
    found["auto"].append(few / _embed(stage.one, stage.few)[0])
    for size in SIZES:
        found[f"fixed {size}"].append(few / _embed(stage.one, stage.few, batch=BatchPolicy(size=size))[0])


def _embed(
    on: Service,
    corpus: list[str],
    expected: Any = None,
    batch: BatchPolicy | None = None,
    params: dict[str, str] = PARAMS,
) -> tuple[float, Job]:
    """Run a complete job until the client has its vectors; return the seconds."""
    began = time.perf_counter()
    job = on.client.submit("embed", rows=pa.table({"text": corpus}), params=params, batch=batch)
    back = job.to_table()
    took = time.perf_counter() - began
    if back["text"].to_pylist() != corpus:
        raise RuntimeError("the rows did not come back in order")
    if expected is not None:
        flat = back["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if not np.allclose(flat.reshape(expected.shape), expected, atol=1e-4):
            raise RuntimeError("the vectors are not those of the bare model")
    return took, job


def _read_trace(stage: _Stage, job: Job, found: dict[str, list[float]]) -> None:
    events = read_trace(stage.trace)
    steady = trace_figures.steady(events, job.id)
    found["steady"].append(steady.rows_per_s)
    found["idle"].append(100 * steady.idle_share)
    rows, units = trace_figures.batches(events, job.id)
    found["batch_rows"].append(rows)
    found["batch_units"].append(units)
    found["padding"].append(100 * trace_figures.padding_share(events, job.id))


def _peak_mb(on: Service) -> float:
    """The most memory that the one worker process had."""
    (worker,) = on.client.workers()
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _starts(stage: _Stage, scale: Scale, found: dict[str, list[float]]) -> None:
    """From the start of a worker until its first row is done, and of the bare script until its model is loaded."""
    for number in range(scale.embed_runs):
        with bare_peer(stage.folder, WARM_UP_ROWS, 1) as bare:
            found["bare_load"].append(bare.load_s)
        for name, params in (("first_row", PARAMS), ("first_row_openvino", OPENVINO)):
            found[name].append(_first_row_s(stage, f"{name}-{number}", params))


def _first_row_s(stage: _Stage, name: str, params: dict[str, str]) -> float:
    _end_workers(stage.one)
    job = stage.one.client.submit("embed", rows=[{"text": "a text"}], params=params)
    trace = stage.folder / f"{name}.json"
    began = time.monotonic()
    start_worker(stage.run, {**stage.one.settings, "BATCHMILL_TRACE": str(trace)}, name, 1)
    job.wait()
    (first, *_) = trace_figures.spans(read_trace(trace), job.id, "infer")
    return float((first["ts"] + first["dur"]) / 1e6 - began)


def _end_workers(on: Service) -> None:
    supervisors = [psutil.Process(worker.pid).parent() for worker in on.client.workers()]
    for supervisor in supervisors:
        if supervisor is not None:
            supervisor.terminate()
    psutil.wait_procs([one for one in supervisors if one is not None], timeout=60)
