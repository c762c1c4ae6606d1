"""Ray Data that generates: `map_batches` over one actor with llama.cpp and a thread for each of its places."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks.bare_generate import answer, bodies, cpu_s, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class _Generator:
    def __init__(self, note: str, places: int) -> None:
        self._model: Any = load(places)
        self._threads = ThreadPoolExecutor(places)
        answer(self._model, 0, "a text to warm up with")
        self._note, self._began = note, cpu_s()

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = zip(batch["number"].to_pylist(), batch["body"].to_pylist(), strict=True)
        tokens = list(self._threads.map(lambda row: answer(self._model, *row), rows))
        with open(self._note, "w") as file:  # noqa: PTH123  # runs in Ray's process
            file.write(str(cpu_s() - self._began))
        return batch.append_column("tokens", pa.array(tokens))


def generate_with_ray(rows: int, places: int, batch_size: int, folder: Path) -> float:
    """Tokens a CPU second of the actor, once its model is loaded."""
    import ray
    from ray.data import ActorPoolStrategy

    note = folder / "ray-used"
    table = pa.table({"number": list(range(rows)), "body": bodies(rows)})
    mapped = ray.data.from_arrow(table).map_batches(
        _Generator,
        fn_constructor_args=(str(note), places),
        batch_format="pyarrow",
        batch_size=batch_size,
        num_cpus=1,
        compute=ActorPoolStrategy(size=1),
    )
    back = pa.concat_tables(ray.get(mapped.to_arrow_refs()))
    if back.num_rows != rows:
        raise RuntimeError("Ray did not give every row back")
    return float(sum(back["tokens"].to_pylist())) / float(note.read_text())


def best_batch_size(rows: int, places: int, batches: Sequence[int], folder: Path) -> int:
    """The best of some sizes, in places of the engine.

    A batch ends with its last row, and one at a time is in the engine.
    """
    sizes = [places * number for number in batches]
    return sizes[0] if len(sizes) == 1 else max(sizes, key=lambda size: generate_with_ray(rows, places, size, folder))
