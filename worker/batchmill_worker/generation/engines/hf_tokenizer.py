"""The tokenizer of a Hugging Face model, with its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams
from batchmill_worker.generation.base import TemplateFailed
from batchmill_worker.generation.draft_encoder import DraftEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Draft


class HfTokenizer(DraftEncoder):
    """See `DraftEncoder`. Thread-safe. Raises `InvalidParams` for a tokenizer that is written in Python."""

    begins_chats = False  # templates have the beginning in them

    def __init__(self, operator: str, model: str, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        self._operator = operator
        self._model = model
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InvalidParams(
                f"operator {operator!r} expects a fast tokenizer, got that of {model!r}, {type(tokenizer).__name__}.",
                hint="Name a model that comes with a tokenizer.json.",
                operator=operator,
                parameter="model",
            )
        # Copies, since what is read as a control token is a state of the tokenizer.
        self._reading, self._plain = (Tokenizer.from_str(backend.to_str()) for _ in range(2))
        for copy in (self._reading, self._plain):
            copy.no_truncation()
            copy.no_padding()
        self._plain.encode_special_tokens = True

    @property
    def end(self) -> int | None:
        """The token that ends a text."""
        end: int | None = self._tokenizer.eos_token_id
        return end

    def encode_text(self, text: str, *, special: bool, begin: bool) -> tuple[int, ...]:
        """Return the tokens of a text."""
        reader = self._reading if special else self._plain
        return tuple(reader.encode(text, add_special_tokens=begin).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without control tokens."""
        return str(self._reading.decode(list(tokens), skip_special_tokens=True))

    def fill_template(self, draft: Draft, contents: Sequence[str]) -> str:
        """Return the model's chat template, with these contents. Raises `TemplateFailed`, and `InvalidParams` if none.

        A template is a program in a sandbox, which may refuse messages: some expect a user's after each assistant's.
        """
        if not self._tokenizer.chat_template:
            raise InvalidParams(
                f"operator {self._operator!r}: the model {self._model!r} has no chat template.",
                hint="Use the operator 'generate', with a prompt that contains what the model expects.",
                operator=self._operator,
                parameter="model",
            )
        messages = [message.value(content) for message, content in zip(draft.messages, contents, strict=True)]
        try:
            filled = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise TemplateFailed(f"the chat template does not take the messages: {error}") from error
        return str(filled)

    def stream(self) -> TokenStream:
        """Begin to read an answer token by token."""
        return TokenStream(self._reading)


class TokenStream:
    """Text of tokens that come one by one: a character of several tokens comes with its last."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def read(self, tokens: Sequence[int]) -> str:
        """Return the text that these tokens add."""
        return "".join(self._stream.step(self._tokenizer, token) or "" for token in tokens)
