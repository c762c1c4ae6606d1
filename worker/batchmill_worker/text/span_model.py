"""A model of sentence-transformers that gives a vector to each span of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchmill.operators.contract import RowError
from batchmill_worker.text.windows import Window, tokens_of, windows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from batchmill_worker.text.model import TextModel
    from batchmill_worker.text.windows import Span

MAX_TOKENS = 16_384
"""Of windows that are read at once, with padding."""

DEFAULT_TOKENS = 512  # of a window, if the model has no limit


@dataclass(frozen=True, slots=True)
class SpanText:
    """A text that is prepared. spans: in characters. ids: its tokens, without special ones.

    is_complete: whether it has one span, the complete text, whose vector is that of `embed`: special tokens count.
    """

    text: str
    spans: list[Span]
    ids: list[int]
    windows: list[Window]
    is_complete: bool


class SpanModel:
    """Reads texts window by window, and pools the tokens of spans."""

    def __init__(self, model: TextModel) -> None:
        """Use a loaded model. Raises `InvalidParams` for one that does not pool by the mean of its tokens."""
        self._loaded = model
        modules = list(model.model)
        self._tokenizer = model.model.tokenizer
        if len(modules) < 2 or getattr(modules[1], "pooling_mode", None) != "mean" or not self._is_fast():
            raise model.request.refusal(
                "spans need a model with a fast tokeniser that pools by the mean of its tokens.",
                hint="Use 'chunk' and 'embed', or another model.",
                parameter="model",
            )
        self._transformer, self._rest = modules[0], modules[2:]
        marked = self._tokenizer("a", return_special_tokens_mask=True)
        ids, mask = marked["input_ids"], marked["special_tokens_mask"]
        first, last = mask.index(0), len(mask) - mask[::-1].index(0)
        self._before, self._after = ids[:first], ids[last:]
        limit: int | None = model.limit
        self._size = max(1, (limit or DEFAULT_TOKENS) - len(self._before) - len(self._after))

    def prepare(self, text: str, spans: Sequence[Span] | None) -> SpanText:
        """Tokenise a text. spans: None: the complete text. Raises `RowError` for a span that has no token."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids: list[int] = found["input_ids"]
        if spans is None:
            window = Window((0, min(len(ids), self._size)), {0: (0, min(len(ids), self._size))})
            return SpanText(text, [(0, len(text))], ids, [window], is_complete=True)
        tokens = tokens_of(spans, found["offset_mapping"])
        for (start, end), (first, last) in zip(spans, tokens, strict=True):
            if not 0 <= start < end <= len(text):
                raise RowError(
                    f"the span [{start}, {end}] is empty or outside of the {len(text)} characters of the text"
                )
            if first >= last:
                raise RowError(f"the span [{start}, {end}] has no token")
        return SpanText(text, list(spans), ids, windows_of(tokens, len(ids), self._size), is_complete=False)

    def vectors(self, texts: Sequence[SpanText], dimensions: int | None, *, normalize: bool) -> Tensor:
        """Return the vectors of all spans of all texts, in order, as float32 in host memory."""
        import torch
        from torch.nn.functional import normalize as scaled

        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text.spans))
        pooled: dict[int, Tensor] = {}
        with torch.inference_mode():
            for some in self._grouped(texts):
                states = self._states([self._ids(texts[place], window) for place, window in some])
                for row, (place, window) in enumerate(some):
                    for number, span in window.spans.items():
                        begin, end = self._pooled(texts[place], span)
                        pooled[starts[place] + number] = states[row, begin:end].float().mean(0)
            if not pooled:
                return torch.zeros((0, dimensions or 1))
            features: dict[str, Any] = {"sentence_embedding": torch.stack([pooled[one] for one in range(starts[-1])])}
            for module in self._rest:
                features = module(features)
            found: Tensor = features["sentence_embedding"][:, :dimensions].float()
            return (scaled(found, dim=1) if normalize else found).cpu()

    def memory_bytes(self) -> int:
        """Return the bytes of the weights on the device."""
        return self._loaded.memory_bytes()

    def fingerprint(self) -> str:
        """Return a fingerprint of the model's files."""
        return self._loaded.fingerprint()

    def _pooled(self, text: SpanText, span: Span) -> Span:
        """Return which tokens of a window are pooled for a span, special ones counted."""
        before = len(self._before)
        if text.is_complete:
            return 0, before + span[1] + len(self._after)
        return before + span[0], before + span[1]

    def _ids(self, text: SpanText, window: Window) -> list[int]:
        begin, end = window.tokens
        return [*self._before, *text.ids[begin:end], *self._after]

    def _states(self, rows: list[list[int]]) -> Tensor:
        """Return the states of the tokens of windows, of shape (windows, tokens, dimension), padded at the right."""
        import torch

        width = max(map(len, rows))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        features = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(ids)
        device = self._loaded.model.device
        outputs = self._transformer({name: value.to(device) for name, value in features.items()})
        states: Tensor = outputs["token_embeddings"]
        return states

    def _grouped(self, texts: Sequence[SpanText]) -> Iterator[list[tuple[int, Window]]]:
        """Yield windows of similar length together, each with the place of its text."""
        windows = [(place, window) for place, text in enumerate(texts) for window in text.windows]
        windows.sort(key=lambda one: one[1].tokens[1] - one[1].tokens[0])
        special = len(self._before) + len(self._after)
        group: list[tuple[int, Window]] = []
        for place, window in windows:
            width = window.tokens[1] - window.tokens[0] + special
            if group and (len(group) + 1) * width > MAX_TOKENS:
                yield group
                group = []
            group.append((place, window))
        if group:
            yield group

    def _is_fast(self) -> bool:
        return bool(getattr(self._tokenizer, "is_fast", False)) and self._tokenizer.pad_token_id is not None
