"""What the configuration of a Hugging Face folder says: the context, the cache, and which tokens end an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchmill.errors import InvalidParams

MAX_CONTEXT = 4096
"""Tokens of a row where the job does not say: the memory of all rows in flight is allocated at once."""


def context_of(operator: str, source: str, config: Any, context: int | None) -> int:
    """Return the tokens of a row: those asked for, else the model's, at most `MAX_CONTEXT`. Raises `InvalidParams`."""
    trained = getattr(config.get_text_config(), "max_position_embeddings", None) or MAX_CONTEXT
    if context is not None and trained < context:
        raise InvalidParams(
            f"operator {operator!r}: the model {source} has a context of {trained} tokens, expected {context}.",
            hint="Set 'context' to at most that.",
            operator=operator,
            parameter="context",
        )
    return context or min(int(trained), MAX_CONTEXT)


def token_bytes(config: Any, number_bytes: int) -> int:
    """Return the bytes of the cache for each token. number_bytes: of a number in it."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    of_head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * of_head * number_bytes)


def file_bytes(source: str, pattern: str) -> int:
    """Return the bytes of the files of a folder; 0 for a hub id."""
    return sum(path.stat().st_size for path in Path(source).glob(pattern)) if source.startswith("/") else 0


def end_tokens(folder: str, of_tokenizer: int | None) -> list[int]:
    """Return the tokens that end an answer, as `generation_config.json` lists them, and the tokenizer's."""
    path = Path(folder) / "generation_config.json"
    own = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    listed = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in (*listed, of_tokenizer) if token is not None})
