"""Texts as the tokens that a model takes, cut into tokens once although they are asked for twice.

The engine asks first what each row of a window costs, then has the batches it made of the window prepared. The
tokens of the first question are kept for the second: a text's tokens are dropped when its batch takes them, and
those not used for longest go when all would exceed `MAX_KEPT_BYTES`. A text that comes back, because its batch is run
again in halves, is simply cut again.
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

MAX_KEPT_BYTES = 64 * 2**20
_ENTRY_BYTES = 400
"""What a kept text costs beside its characters and tokens."""

Tokens: TypeAlias = "npt.NDArray[np.int32]"
"""The tokens of one text: a row for each field that a tokeniser gives (ids, type ids), special tokens included."""


class TextReader(Protocol):
    """How the texts of a batch become the features that a model takes. Safe for use by several threads."""

    def costs(self, texts: Sequence[Text | RowError]) -> list[int]:
        """How many tokens the model will see of each row; 1 for a row that it will not see."""

    def admit(self, texts: Sequence[Text | RowError]) -> tuple[list[Text], dict[int, RowError]]:
        """The texts that the model will see, in order, and by position why the others are given up on."""

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """One batch, not empty, padded to its longest text."""


class TokenReader:
    """A `TextReader` that knows the tokens.

    tokenizer: a fast one of transformers.
    prompt: put before every text.
    limit: the longest text in tokens; None: any.
    truncate: whether a longer one is cut; else its row is given up on.
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
        self._kept = _KeptTokens(self._tokenize)

    def costs(self, texts: Sequence[Text | RowError]) -> list[int]:
        """As `TextReader.costs`."""
        tokens = iter(self._kept.look([text for text in texts if not isinstance(text, RowError)]))
        return [1 if isinstance(text, RowError) else self._cost(next(tokens).shape[1]) for text in texts]

    def admit(self, texts: Sequence[Text | RowError]) -> tuple[list[Text], dict[int, RowError]]:
        """As `TextReader.admit`."""
        errors = {place: text for place, text in enumerate(texts) if isinstance(text, RowError)}
        if not self._truncate and self._limit is not None:
            readable = {place: text for place, text in enumerate(texts) if not isinstance(text, RowError)}
            for place, tokens in zip(readable, self._kept.look(list(readable.values())), strict=True):
                if tokens.shape[1] > self._limit:
                    errors[place] = RowError(f"the text has {tokens.shape[1]} tokens, the model takes {self._limit}")
        return [text for place, text in enumerate(texts) if place not in errors], errors  # type: ignore[misc]  # the errors are left out

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        """As `TextReader.features`."""
        rows = self._kept.take(texts)
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
        encoded = self._tokenizer(
            *self._inputs(texts),
            truncation="longest_first" if self._truncate else False,
            max_length=self._limit if self._truncate else None,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        fields = [encoded[field] for field in self._pads]
        return [np.array(row, dtype=np.int32) for row in zip(*fields, strict=True)]

    def _inputs(self, texts: Sequence[Text]) -> list[list[str]]:
        parts = [(text,) if isinstance(text, str) else text for text in texts]
        firsts, *seconds = (list(side) for side in zip(*parts, strict=True))
        return [[f"{self._prompt}{text}" for text in firsts], *seconds]


class _KeptTokens:
    """Tokens by text, bounded in bytes."""

    def __init__(self, tokenize: Callable[[Sequence[Text]], list[Tokens]]) -> None:
        self._tokenize = tokenize
        self._lock = Lock()  # of the tokeniser as well, which serves one thread at a time
        self._by_text: Lru[Text, Tokens] = Lru(MAX_KEPT_BYTES, _size)

    def look(self, texts: Sequence[Text]) -> list[Tokens]:
        """The tokens of each text, kept for later."""
        with self._lock:
            found = self._found(texts)
            for text, tokens in found.items():
                self._by_text.put(text, tokens)
        return [found[text] for text in texts]

    def take(self, texts: Sequence[Text]) -> list[Tokens]:
        """The tokens of each text, not kept any longer."""
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
