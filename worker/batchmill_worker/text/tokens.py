"""Converts texts to the tokens that a model takes, once per text, although they are needed twice.

The executor first asks for the cost of each row of a window, then prepares the batches of the window. The tokens of the
first request are cached for the second: a text's tokens are removed when its batch takes them, and the least recently
used are dropped when the cache exceeds `MAX_CACHED_BYTES`. A text that is needed once more, because its batch is run
again in halves, is tokenised again.

Of a text that is much longer than what the model takes, only the beginning is tokenised: enough more
tokens than the model takes that where it is cut does not matter to those that the model gets.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from batchmill.caches import Lru
from batchmill.operators.contract import RowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from batchmill_worker.runtime.torch_runtime import TorchRuntime
    from batchmill_worker.text.columns import Text

MAX_CACHED_BYTES = 64 * 2**20
CHARACTERS_PER_TOKEN = 16
"""Of a longer text than this for each token of the limit, a part is tokenised first; texts have about 4."""
MARGIN_TOKENS = 64
"""How many tokens a part has to have beyond the limit: those at its end depend on what follows."""
GROWTH = 4
_ENTRY_BYTES = 400
"""The size of a cached text besides its characters and tokens."""

Tokens: TypeAlias = "npt.NDArray[np.int32]"
"""The tokens of one text: a row for each field that a tokeniser gives (ids, type ids), special tokens included."""


class TextReader(Protocol):
    """Converts the texts of a batch to the features that a model takes. Safe for use by several threads."""

    def costs(self, texts: Sequence[Text | RowError]) -> list[int]:
        """Return the number of tokens that the model gets of each row; 1 for a row that it does not get."""

    def admit(self, texts: Sequence[Text | RowError]) -> tuple[list[Text], dict[int, RowError]]:
        """Return the texts that the model gets, in order, and the errors of the others by position."""

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the features of one batch, not empty, padded to its longest text."""


class TokenReader:
    """A `TextReader` that tokenises texts itself.

    tokenizer: a fast one of transformers.
    prompt: put before every text.
    limit: the longest text in tokens; None: no limit.
    truncate: whether to cut a longer text; else its row is an error.
    constants: further features, the same for every batch.
    """

    def __init__(
        self,
        tokenizer: Any,
        runtime: TorchRuntime,
        *,
        prompt: str = "",
        limit: int | None = None,
        truncate: bool = True,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self._pads = {field: pad for field, pad in pads.items() if field in tokenizer.model_input_names}
        self._pads_left = tokenizer.padding_side == "left"
        self._tokenizer = tokenizer
        self._runtime = runtime
        self._prompt = prompt
        self._limit = limit
        self._truncate = truncate and limit is not None
        self._constants = dict(constants or {})
        self._cache = _TokenCache(self._tokenize)

    def costs(self, texts: Sequence[Text | RowError]) -> list[int]:
        """Implement `TextReader.costs`."""
        tokens = iter(self._cache.get([text for text in texts if not isinstance(text, RowError)]))
        return [1 if isinstance(text, RowError) else self._cost(next(tokens).shape[1]) for text in texts]

    def admit(self, texts: Sequence[Text | RowError]) -> tuple[list[Text], dict[int, RowError]]:
        """Implement `TextReader.admit`."""
        errors = {place: text for place, text in enumerate(texts) if isinstance(text, RowError)}
        if not self._truncate and self._limit is not None:
            readable = {place: text for place, text in enumerate(texts) if not isinstance(text, RowError)}
            for (place, text), tokens in zip(readable.items(), self._cache.get(list(readable.values())), strict=True):
                if tokens.shape[1] > self._limit:
                    count = f"{'more than ' * (self._bounded(text) != text)}{tokens.shape[1]}"
                    errors[place] = RowError(f"the text has {count} tokens, the model takes {self._limit}")
        return [text for place, text in enumerate(texts) if place not in errors], errors  # type: ignore[misc]  # the errors are left out

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Implement `TextReader.features`."""
        rows = self._cache.take(texts)
        lengths = np.array([row.shape[1] for row in rows])
        columns = np.arange(lengths.max())
        filled = columns >= (lengths.max() - lengths)[:, None] if self._pads_left else columns < lengths[:, None]
        features = dict(self._constants)
        for place, (field, pad) in enumerate(self._pads.items()):
            features[field] = self._padded(filled, pad, np.concatenate([row[place] for row in rows]))
        features["attention_mask"] = self._padded(filled, 0, 1)
        return features

    def _padded(self, filled: npt.NDArray[np.bool_], pad: int, values: Any) -> Any:
        tensor = self._runtime.host_tensor(filled.shape)
        view = tensor.numpy()
        view.fill(pad)
        view[filled] = values
        return tensor

    def _cost(self, tokens: int) -> int:
        if self._limit is None or tokens <= self._limit:
            return tokens
        return self._limit if self._truncate else 1

    def _tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        encoded = self._encode([self._bounded(text) for text in texts], truncates=self._truncate)
        fields = [encoded[field] for field in self._pads]
        return [np.array(row, dtype=np.int32) for row in zip(*fields, strict=True)]

    def _encode(self, texts: Sequence[Text], *, truncates: bool) -> Any:
        return self._tokenizer(
            *self._inputs(texts),
            truncation="longest_first" if truncates else False,
            max_length=self._limit if truncates else None,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )

    def _bounded(self, text: Text) -> Text:
        """Return what has to be tokenised of a text, or of both of a pair.

        A pair is cut where it has the most tokens, so the text with more characters keeps more of them than the other
        one. If both are much longer than what the model takes, and the one with fewer characters has more tokens, then
        the last token that one of them keeps is the other one's.
        """
        if self._limit is None:
            return text
        least = 2 * self._limit + MARGIN_TOKENS
        if isinstance(text, str):
            return self._beginning(text, least)
        if max(map(len, text)) <= self._limit * CHARACTERS_PER_TOKEN:
            return text
        first, second = text
        if len(first) > len(second):
            second = self._beginning(second, least)
            return self._beginning(first, max(least, self._count(second) + MARGIN_TOKENS)), second
        first = self._beginning(first, least)
        return first, self._beginning(second, max(least, self._count(first) + MARGIN_TOKENS))

    def _beginning(self, text: str, least: int) -> str:
        """Return the beginning of a text, with at least that many tokens unless all of it has fewer."""
        size = (self._limit or 0) * CHARACTERS_PER_TOKEN
        while size < len(text):
            space = text.rfind(" ", size // 2, size)
            part = text[: size if space < 0 else space]
            if self._count(part) >= least:
                return part
            size *= GROWTH
        return text

    def _count(self, text: str) -> int:
        """Return how many tokens a text has, those of the prompt included."""
        return len(self._encode([text], truncates=False)["input_ids"][0])

    def _inputs(self, texts: Sequence[Text]) -> list[list[str]]:
        parts = [(text,) if isinstance(text, str) else text for text in texts]
        firsts, *seconds = (list(side) for side in zip(*parts, strict=True))
        return [[f"{self._prompt}{text}" for text in firsts], *seconds]


class _TokenCache:
    """Tokens by text, bounded in bytes; the least recently used are dropped first."""

    def __init__(self, tokenize: Callable[[Sequence[Text]], list[Tokens]]) -> None:
        self._tokenize = tokenize
        self._lock = Lock()  # of the tokeniser as well, which serves one thread at a time
        self._by_text: Lru[Text, Tokens] = Lru(MAX_CACHED_BYTES, _size)

    def get(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each text, and cache them."""
        with self._lock:
            found = self._found(texts)
            for text, tokens in found.items():
                self._by_text.put(text, tokens)
        return [found[text] for text in texts]

    def take(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each text, and remove them from the cache."""
        with self._lock:
            found = self._found(texts)
            for text in found:
                self._by_text.pop(text)
        return [found[text] for text in texts]

    def _found(self, texts: Iterable[Text]) -> dict[Text, Tokens]:
        found = {text: self._by_text.get(text) for text in texts}
        missing = [text for text, tokens in found.items() if tokens is None]
        if missing:
            found.update(zip(missing, self._tokenize(missing), strict=True))
        return found  # type: ignore[return-value]  # none is missing any more


def _size(text: Text, tokens: Tokens) -> int:
    characters = len(text) if isinstance(text, str) else sum(map(len, text))
    return characters + tokens.nbytes + _ENTRY_BYTES
