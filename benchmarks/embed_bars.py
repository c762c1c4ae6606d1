"""The figures and bars of the embedding benchmark, from what its runs found. Pure."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.figures import Bar, Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "embed"

NAMES = {
    "bare": ("SentenceTransformer.encode, batch size 32", "rows/s"),
    "job": ("Batchmill, one worker, the complete job", "rows/s"),
    "steady": ("Batchmill, one worker, steady state", "rows/s"),
    "openvino": ("Batchmill, one worker with OpenVINO, the complete job", "rows/s"),
    "two": ("Batchmill, two workers on the same cores", "rows/s"),
    "ray": ("Ray Data, best batch size", "rows/s"),
    "celery_one": ("Celery, a task a row", "rows/s"),
    "celery_many": ("Celery, 256 rows a task", "rows/s"),
    "auto": ("Batchmill, sizes of its own, few rows", "rows/s"),
    "idle": ("device idle in steady state", "%"),
    "padding": ("padding", "%"),
    "batch_rows": ("rows of a batch", "rows"),
    "batch_units": ("tokens of a batch, with padding", "tokens"),
    "peak_mb": ("memory of the worker process, at most", "MB"),
    "bare_mb": ("memory of the bare script, at most", "MB"),
    "bare_load": ("bare script: start until its model is loaded", "s"),
    "first_row": ("worker: start until its first row is done", "s"),
    "first_row_openvino": ("worker with OpenVINO and a converted model: start until its first row is done", "s"),
}

REMARKS = [
    "The texts are the paragraphs of Python's language reference and the docstrings of its library, mixed.",
    "The bare model sorts all rows by characters; Batchmill sorts those of a shard by tokens, as it costs them.",
    "Complete job: from submit until the client has the vectors, with the model loaded.",
    "Steady state: from a job's first commit until its last shard was loaded, by the trace.",
    "Batchmill runs the model with torch unless a line says otherwise; encode, Ray Data and Celery always do.",
    "Celery with a task a row, and the sweep of batch sizes, run over the first few rows of the same corpus.",
]


def figures(found: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Everything that was found, ratios of the same round included."""
    plain = [
        Figure(*NAMES.get(name, (f"Batchmill, {name} rows a batch, few rows", "rows/s")), list(runs))
        for name, runs in found.items()
    ]
    return plain + [Figure(name, "x", ratios(found, one, other)) for name, one, other in PAIRS]


PAIRS = [
    ("steady state over encode", "steady", "bare"),
    ("the complete job over encode", "job", "bare"),
    ("the complete job with OpenVINO over encode", "openvino", "bare"),
    ("the complete job over Ray Data", "job", "ray"),
    ("few rows over Celery with a task a row", "auto", "celery_one"),
    ("few rows over Celery with 256 rows a task", "auto", "celery_many"),
    ("two workers over one", "two", "job"),
]
MIN = dict(zip([name for name, _, _ in PAIRS], (1.0, 0.95, 2.8, 1.3, 4.0, 1.1, 1.0), strict=True))


def ratios(found: Mapping[str, Sequence[float]], one: str, other: str) -> list[float]:
    """Round by round, so that a slow minute falls on both."""
    return [ours / theirs for ours, theirs in zip(found[one], found[other], strict=True)]


def bars(found: Mapping[str, Sequence[float]]) -> list[Bar]:
    """What was set, and whether it is met."""
    median = {name: statistics.median(runs) for name, runs in found.items()}
    faster = [Bar(name, statistics.median(ratios(found, *pair)), "at least", MIN[name], "x") for name, *pair in PAIRS]
    best = max(speed for name, speed in median.items() if name.startswith("fixed"))
    start_s = median["first_row"] - median["bare_load"]
    converted = median["first_row_openvino"] / median["first_row"]
    return [
        *faster,
        Bar("sizes of its own over the best fixed size", median["auto"] / best, "at least", 0.95, "x"),
        Bar("device idle in steady state", median["idle"], "below", 2, "%"),
        Bar("padding", median["padding"], "below", 10, "%"),
        Bar("memory beyond the bare script's", median["peak_mb"] - median["bare_mb"], "below", 150, "MB"),
        Bar("first row later than the bare script's model", start_s, "below", 1, "s"),
        Bar("first row with OpenVINO over that with torch", converted, "at most", 1.0, "x"),
    ]
