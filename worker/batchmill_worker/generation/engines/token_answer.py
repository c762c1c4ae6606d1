"""An answer that an engine gives token by token: its text, up to a stop text, and its counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_worker.generation.base import Answer, Delta
from batchmill_worker.generation.engines.stop_texts import StopSearch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Generation
    from batchmill_worker.generation.engines.hf_tokenizer import HfTokenizer
    from batchmill_worker.generation.logprobs import TokenLogprob


class TokenAnswer:
    """The answer of a row in flight. The tokens of a begun answer are a part of it."""

    def __init__(self, generation: Generation, tokenizer: HfTokenizer) -> None:
        self.generation = generation
        self._tokenizer = tokenizer
        self._tokens = list(generation.begun_tokens)
        self._stream = tokenizer.stream()
        self._stream.read(generation.begun_tokens)
        self._stops = StopSearch(generation.sampling.stop)
        self._unshown = 0  # how many tokens since there was text

    @property
    def is_stopped(self) -> bool:
        """Whether a stop text is in it: the engine need not make more."""
        return self._stops.end is not None

    def more(self, tokens: Sequence[int]) -> Delta:
        """Add tokens. Text is held back while it may be the beginning of a stop text."""
        self._tokens += tokens
        self._unshown += len(tokens)
        text = self._stops.more(self._stream.read(tokens))
        made, self._unshown = (self._unshown, 0) if text else (0, self._unshown)
        return Delta(self.generation.number, text, made)

    def end(self, finish_reason: str, cached: int = 0, logprobs: Sequence[TokenLogprob] = ()) -> Answer:
        """Return the answer. cached: of the tokens that the engine was given, those of a begun answer among them."""
        prompt = len(self.generation.prompt.tokens)
        text = self._stops.text if self.is_stopped else self._tokenizer.decode(self._tokens)
        finish = "stop" if self.is_stopped else finish_reason
        return Answer(text, finish, prompt, min(cached, prompt), len(self._tokens), tuple(logprobs))
