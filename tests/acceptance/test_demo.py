"""`batchmill demo`, as `make demo` runs it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import lance
import pyarrow as pa

from batchmill.cli.demo.corpus import chapters, language_reference

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

    assert re.search(
        r"^Recall of the index, 20 searches for 10 neighbours each: (1\.00|0\.9\d)$", printed, re.MULTILINE
    )
    folder = sandbox.folder / "batchmill-demo" / "language-reference.lance"
    assert str(folder) in printed
    table = lance.dataset(str(folder)).to_table()
    table = table.sort_by([("_root", "ascending"), ("chunk", "ascending")])
    assert table.num_rows > 2 * ROWS
    assert (
        f"chunk ({ROWS} rows, {len(table):,} results) → embed ({len(table):,} rows, {len(table):,} results)" in printed
    )
    corpus = chapters(language_reference())[:ROWS]
    chunks = table.drop_columns("embedding").to_pylist()
    roots = {chunk["_root"] for chunk in chunks}
    assert len(roots) == ROWS
    for chunk in chunks:
        assert any(
            chunk["topic"] == chapter["topic"] and chunk["text"] == chapter["text"][chunk["start"] : chunk["end"]]
            for chapter in corpus
        )
    for root in roots:
        assert [chunk["chunk"] for chunk in chunks if chunk["_root"] == root] == list(
            range(sum(chunk["_root"] == root for chunk in chunks))
        )
    assert table["embedding"].type == pa.list_(pa.float32(), 384)
