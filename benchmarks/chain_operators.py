"""The two steps of the chain that peers run too: a text is split into sentences, and each gets a digest.

The same functions on Arrow data for all of them. A sentence with `POISON` raises; one with `KILL` ends its process
outright, once.
"""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import batchmill
from batchmill import Expansion

POISON, KILL = "a poisonous sentence", "a deadly sentence"


def sentences_of(texts: pa.Array) -> pa.ListArray:
    """The sentences of each text."""
    return pc.split_pattern(texts, ". ")


def digests_of(sentences: pa.Array, once: str = "") -> pa.Array:
    """The digest of each sentence. once: a file that is there once `KILL` has ended a process."""
    return pa.array([_digest(sentence, once) for sentence in sentences.to_pylist()])


def _digest(sentence: str, once: str) -> str:
    if sentence == POISON:
        raise ValueError("poison")
    if sentence == KILL and once and not Path(once).exists():
        Path(once).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return hashlib.sha256(sentence.encode()).hexdigest()


def split_batch(table: pa.Table) -> pa.Table:
    """A row for each sentence of each text: `id`, `number` and `sentence`."""
    lists = sentences_of(table["text"].combine_chunks())
    parents = pc.list_parent_indices(lists)
    numbers = pa.array([number for count in pc.list_value_length(lists).to_pylist() for number in range(count)])
    ids = table["id"].combine_chunks().take(parents)
    return pa.table({"id": ids, "number": numbers, "sentence": lists.flatten()})


def digest_batch(table: pa.Table, once: str = "") -> pa.Table:
    """The rows with the digest of their sentence."""
    digests = digests_of(table["sentence"].combine_chunks(), once)
    return pa.table({"id": table["id"], "number": table["number"], "digest": digests})


@batchmill.operator("bench_split", columns=["id", "text"], batch_format="arrow", expands=True)
def bench_split(table: pa.Table) -> Any:
    """`split_batch` as an operator."""
    counts = pc.list_value_length(sentences_of(table["text"].combine_chunks())).to_pylist()
    return Expansion(split_batch(table), counts)


@batchmill.operator("bench_digest", columns=["id", "number", "sentence"], batch_format="arrow")
def bench_digest(table: pa.Table, *, once: str = "") -> Any:
    """`digest_batch` as an operator."""
    return digest_batch(table, once)
