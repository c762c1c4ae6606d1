"""`PYTHON infinity_peer.py MODEL TEXTS THREADS`: texts embedded by infinity, in an environment of its own.

Its pins of transformers and sentence-transformers exclude the worker's, so that it imports nothing from here. MODEL: a
folder. TEXTS: a file with a list of texts, as JSON. Speaks as `embed_peer`; it has torch only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until the input ends."""
    model, texts, threads = sys.argv[1:]
    import torch

    torch.set_num_threads(int(threads))
    asyncio.run(_serve(model, json.loads(Path(texts).read_text())))


async def _serve(model: str, texts: list[str]) -> None:
    engines: dict[int, Any] = {}
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        rows, size, _ = line.split()
        if int(size) not in engines:
            engines[int(size)] = await _started(model, int(size))
        print(json.dumps({"took_s": await _embed(engines[int(size)], texts[: int(rows)])}), flush=True)
    for engine in engines.values():
        await engine.astop()


async def _started(model: str, size: int) -> Any:
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    args = EngineArgs(
        model_name_or_path=model,
        engine="torch",
        device="cpu",
        batch_size=size,
        model_warmup=False,
        bettertransformer=False,
        compile=False,
    )
    engine = AsyncEmbeddingEngine.from_args(args)
    await engine.astart()
    return engine


async def _embed(engine: Any, texts: list[str]) -> float:
    began = time.perf_counter()
    vectors, _ = await engine.embed(sentences=texts)
    took = time.perf_counter() - began
    if len(vectors) != len(texts):
        raise RuntimeError("not every row was returned")
    return took


if __name__ == "__main__":
    main()
