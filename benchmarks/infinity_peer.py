"""`python benchmarks/infinity_peer.py MODEL TEXTS THREADS`: texts embedded by the engine of infinity-emb.

Runs in an environment of its own and imports nothing of Batchmill. Speaks as `embed_peer` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

os.environ |= {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


async def main(model: str, corpus: list[str], threads: int) -> None:
    """Serve."""
    import torch
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    torch.set_num_threads(threads)
    engines: dict[int, AsyncEmbeddingEngine] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        rows, size = map(int, line.split())
        if size not in engines:
            engines[size] = AsyncEmbeddingEngine.from_args(
                EngineArgs(model_name_or_path=model, engine="torch", device="cpu", batch_size=size, model_warmup=False)
            )
            await engines[size].astart()
            await engines[size].embed(sentences=["a text to warm up with"])
        began = time.perf_counter()
        vectors, _ = await engines[size].embed(sentences=corpus[:rows])
        took = time.perf_counter() - began
        if len(vectors) != rows:
            raise RuntimeError("not every row was returned")
        print(json.dumps({"took_s": took}), flush=True)
    for engine in engines.values():
        await engine.astop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])))
