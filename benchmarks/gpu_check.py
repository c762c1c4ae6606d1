"""Runs Batchmill on this machine's GPU, and writes what it found as JSON. See `gpu_tree.py`.

    python gpu_check.py [--device cuda:0] [--out gpu-check.json] [--limit 540]

It needs no network: Batchmill comes from the wheels beside this file, into a temporary folder; torch, transformers,
sentence-transformers, numpy and pyarrow are those of this Python.

1. Batchmill is installed, and starts itself again with it.
2. The GPU that torch uses is the one that NVML lists, and numbers survive the way to it and back.
3. A service starts, with one worker on the GPU. `embed`, `generate` and `chat` run there as jobs. Their rows are
   counted, and their vectors compared with those of the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INSTALLED = "GPU_CHECK_INSTALLED"  # not of the form of the settings, which are checked
PACKAGES = ("batchmill", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "pyarrow")
WORDS = "The river that flows past the old town is wide, and boats carry grain to the sea"
MIN_COSINE = 0.99
"""Of a vector that a GPU computes in half precision with the CPU's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu to try the check itself")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--limit", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the embed job; the others have fewer")
    options = parser.parse_args()
    if INSTALLED not in os.environ:
        raise SystemExit(install_and_run(sys.argv[1:], options.limit))
    report: dict[str, Any] = {"passed": False}
    try:
        check(options, report)
        report["passed"] = True
    except BaseException as error:
        report["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report, indent=2))


def install_and_run(arguments: list[str], limit_s: float) -> int:
    """Install the wheels into a folder, and run this file again with it."""
    wheels = sorted((HERE / "wheels").glob("*.whl"))
    if not wheels:
        raise SystemExit(f"there are no wheels in {HERE / 'wheels'}: build the folder with gpu_tree.py")
    with tempfile.TemporaryDirectory(prefix="batchmill-gpu-") as site:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        offline = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", site]
        subprocess.run([*pip, *offline, *map(str, wheels)], check=True)
        before = os.environ.get("PYTHONPATH")
        paths = os.pathsep.join([site, before] if before else [site])
        here = {"PYTHONPATH": paths, INSTALLED: site, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "gpu_check.py"), *arguments]
        try:
            return subprocess.run(command, env=os.environ | here, timeout=limit_s, check=False).returncode
        except subprocess.TimeoutExpired:
            raise SystemExit(f"it took more than {limit_s:g} s") from None


def check(options: argparse.Namespace, report: dict[str, Any]) -> None:
    from importlib.metadata import version

    import batchmill

    report["versions"] = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    if not str(batchmill.__file__).startswith(os.environ[INSTALLED]):
        raise RuntimeError(f"batchmill is {batchmill.__file__}, not that of the wheels")
    report["device"] = device_facts(options.device)
    report["numbers"] = numbers_survive(options.device)
    with batchmill.local(devices=options.device) as client:
        shown = {"device", "device_type", "memory_bytes"}
        report["worker"] = [worker.model_dump(include=shown) for worker in client.workers()]
        report["jobs"] = {
            "embed": embed(client, options),
            "generate": answers(client, options, "generate", "Once upon a time {text}", 64),
            "chat": answers(client, options, "chat", "Summarise: {text}", 64),
        }


def device_facts(device: str) -> dict[str, Any]:
    """Return what torch and NVML say about the device. Raises if they do not mean the same, or there is none."""
    import torch

    from batchmill_worker.devices.inventory import open_inventory

    if device == "cpu":
        return {"name": platform.processor() or platform.machine(), "kind": "cpu"}
    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device; --device cpu tries the check itself")
    properties = torch.cuda.get_device_properties(device)
    inventory = open_inventory(device)
    listed = {one.name: one for one in inventory.devices()}
    inventory.close()
    if device not in listed or listed[device].model != properties.name:
        raise RuntimeError(f"NVML lists {listed}, torch has {properties.name} as {device}")
    return {
        "name": properties.name,
        "kind": "cuda",
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": listed[device].memory_bytes,
        "cuda": torch.version.cuda,
    }


def numbers_survive(device: str) -> dict[str, Any]:
    """Copy numbers to the device and back, through pinned memory, and measure a model's size there."""
    import torch

    from batchmill_worker.models.model_memory import MemoryProbe
    from batchmill_worker.runtime.torch_runtime import TorchRuntime

    runtime, probe = TorchRuntime(device), MemoryProbe(device)
    host = runtime.host_tensor((1000,))
    host.copy_(torch.arange(1000))
    there = runtime.to_device({"numbers": host})["numbers"]
    if not torch.equal(runtime.to_host(there), torch.arange(1000).float()):
        raise RuntimeError("numbers changed on their way")
    with probe.measuring():
        kept = torch.ones(64 * 1024 * 1024, dtype=torch.uint8, device=device)
    grown = probe.grown
    del kept
    if device != "cpu" and grown < 64 * 1024 * 1024:
        raise RuntimeError(f"64 MiB on the device were measured as {grown} bytes")
    return {"dtype": str(runtime.dtype), "device": str(there.device), "pinned": bool(host.is_pinned())}


def rows(count: int) -> list[dict[str, Any]]:
    words = WORDS.split()
    return [{"id": number, "text": " ".join(words[: 4 + number % 13]) + f" {number}"} for number in range(count)]


def embed(client: Any, options: argparse.Namespace) -> dict[str, Any]:
    model, wanted = str(HERE / "models" / "embedding"), rows(options.rows)
    job, found, seconds = run(client, "embed", wanted, {"model": model})
    sample = found.slice(0, 64)
    cosine = compare_with_cpu(model, [row["text"] for row in wanted[:64]], sample["embedding"].to_pylist())
    if cosine < MIN_COSINE:
        raise RuntimeError(f"vectors differ from the CPU's: cosine {cosine}")
    return figures(job, len(wanted), seconds) | {"min_cosine_with_cpu": round(cosine, 6)}


def compare_with_cpu(model: str, texts: list[str], vectors: list[list[float]]) -> float:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    exact = SentenceTransformer(model, device="cpu").encode(texts, normalize_embeddings=True)
    made = np.array(vectors)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return float((exact * made).sum(axis=1).min())


def answers(client: Any, options: argparse.Namespace, operator: str, prompt: str, most: int) -> dict[str, Any]:
    wanted = rows(max(options.rows // 40, 8))
    asked = {"model": str(HERE / "models" / "language"), "prompt": prompt, "max_tokens": most, "places": 64}
    job, found, seconds = run(client, operator, wanted, asked | {"engine": "transformers", "context": 512})
    if set(found["engine"].to_pylist()) != {"transformers"} or not all(found["text"].to_pylist()):
        raise RuntimeError("an answer is empty, or of another engine")
    tokens = job.status().tokens
    made = sum(found["generated_tokens"].to_pylist())
    if tokens is None or tokens.generated != made:
        raise RuntimeError(f"the job counts {tokens}, its results have {made} generated tokens")
    return figures(job, len(wanted), seconds) | {
        "prompt_tokens": tokens.prompt,
        "cached_tokens": tokens.cached,
        "generated_tokens": made,
        "generated_tokens_per_second": round(made / seconds, 1),
    }


def run(client: Any, operator: str, wanted: list[dict[str, Any]], params: dict[str, Any]) -> tuple[Any, Any, float]:
    """Run a job twice, so that the second one finds its model loaded; return that one, its results and its seconds."""
    client.submit(operator, rows=wanted[:8], params=params).wait(timeout=300)
    began_at = time.monotonic()
    job = client.submit(operator, rows=wanted, params=params).wait(timeout=300)
    seconds = time.monotonic() - began_at
    found = job.to_table()
    if sorted(found["id"].to_pylist()) != [row["id"] for row in wanted]:
        raise RuntimeError(f"{operator} returned {found.num_rows} rows of {len(wanted)}")
    return job, found, seconds


def figures(job: Any, count: int, seconds: float) -> dict[str, Any]:
    cost = job.cost()
    return {
        "rows": count,
        "seconds": round(seconds, 3),
        "rows_per_second": round(count / seconds, 1),
        "device_seconds": {name: round(part, 3) for name, part in cost.seconds},
    }


if __name__ == "__main__":
    main()
