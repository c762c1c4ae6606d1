"""Reads what a GGUF file says of itself, without its weights: a list of keys and values at its beginning.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"GGUF"
MAX_KEYS = 10_000
MAX_TEXT_BYTES = 1024 * 1024
MAX_ARRAY_BYTES = 1024**3
_FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_ARCHITECTURE = "general.architecture"
_WANTED = (
    "context_length",
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
)
_CACHE_BYTES = 2
"""Of one number in llama.cpp's cache, by default."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What the header of a file says. context: tokens that the model was made for; None: it does not say.

    token_bytes: of the cache, for each token; 0: it does not say.
    """

    context: int | None
    token_bytes: int


def read_gguf(path: Path) -> GgufModel:
    """Read the header of a file. Raises `ValueError` for what is no GGUF file, and `OSError`."""
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        file.seek(4 + 8, 1)  # the version, and the number of tensors
        for _ in range(min(_number(file, "<Q"), MAX_KEYS)):
            key = _text(file)
            value = _value(file, _number(file, "<I"))
            if key.startswith("tokenizer."):  # after all that is wanted, and long
                break
            if key == _ARCHITECTURE or key.endswith(_WANTED):
                found[key] = value
    prefix = f"{found.get(_ARCHITECTURE)}."
    numbers = {name: found[prefix + name] for name in _WANTED if isinstance(found.get(prefix + name), int)}
    return GgufModel(numbers.get("context_length"), _token_bytes(numbers))


def _token_bytes(numbers: dict[str, int]) -> int:
    heads = numbers.get("attention.head_count", 0)
    if not heads:
        return 0
    of_head = numbers.get("embedding_length", 0) // heads
    both = numbers.get("attention.key_length", of_head) + numbers.get("attention.value_length", of_head)
    return numbers.get("block_count", 0) * numbers.get("attention.head_count_kv", heads) * both * _CACHE_BYTES


def _value(file: BinaryIO, kind: int) -> Any:
    """Read a value; None for an array, which is skipped. Models have no arrays of arrays."""
    if kind == _TEXT:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _form(kind))
    kind, count = _number(file, "<I"), _number(file, "<Q")
    if kind == _TEXT:
        for _ in range(count):
            _text(file)
        return None
    nbytes = count * struct.calcsize(_form(kind))
    if nbytes > MAX_ARRAY_BYTES:
        raise ValueError(f"its header has an array of {nbytes} bytes")
    file.seek(nbytes, 1)
    return None


def _form(kind: int) -> str:
    if kind not in _FORMS:
        raise ValueError(f"its header has a value of the unknown type {kind}")
    return _FORMS[kind]


def _number(file: BinaryIO, form: str) -> Any:
    data = file.read(struct.calcsize(form))
    if len(data) != struct.calcsize(form):
        raise ValueError("its header is not complete")
    return struct.unpack(form, data)[0]


def _text(file: BinaryIO) -> str:
    length = _number(file, "<Q")
    if length > MAX_TEXT_BYTES:
        raise ValueError(f"its header has a text of {length} bytes")
    return file.read(length).decode(errors="replace")
