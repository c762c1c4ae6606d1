"""`batchmill demo`, as `make demo` runs it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill.cli.demo.corpus import chapters, language_reference
from support.outputs import manifest_path

if TYPE_CHECKING:
    from support.sandbox import Sandbox


ROWS = 12
"""Chapters of the corpus: embedding all of it takes a small machine minutes."""


def test_the_demo_chunks_and_embeds_its_corpus_in_order_answers_three_questions_and_leaves_no_process(
    sandbox: Sandbox,
) -> None:
    printed = sandbox.run(f"batchmill demo --rows {ROWS}", timeout_s=500)

    assert sandbox.left_behind() == []
    answers = re.findall(r"^\S.*\?\n((?:  \d\.\d\d  .+\n)+)", printed, re.MULTILINE)
    assert [len(lines.splitlines()) for lines in answers] == [3, 3, 3]

    vectors = sandbox.folder / "batchmill-demo" / "vectors"
    assert str(vectors) in printed
    manifest = json.loads(manifest_path(vectors).read_text())
    parts = [pq.read_table(vectors / part["name"]) for part in manifest["parts"]]
    assert manifest["state"] == "completed"
    assert [part.num_rows for part in parts] == [part["rows"] for part in manifest["parts"]]
    assert manifest["rows_dead"] == 0
    corpus = chapters(language_reference())[:ROWS]
    table = pa.concat_tables(parts)
    assert manifest["rows"] == len(table) > 2 * ROWS
    assert f"chunk ({ROWS} rows, {len(table):,} results) → embed ({len(table):,} rows)" in printed
    chunks = table.drop_columns("embedding").to_pylist()
    assert [chunk["source_row"] for chunk in chunks] == sorted(chunk["source_row"] for chunk in chunks)
    assert {chunk["source_row"] for chunk in chunks} == set(range(ROWS))
    assert [chunk["chunk"] for chunk in chunks] == [chunk["source_path"][0] for chunk in chunks]
    for chunk in chunks:
        chapter = corpus[chunk["source_row"]]
        assert chunk["topic"] == chapter["topic"]
        assert chunk["text"] == chapter["text"][chunk["start"] : chunk["end"]]
    assert table["embedding"].type == pa.list_(pa.float32(), 384)
