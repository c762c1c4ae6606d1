"""The tokenizer of a Hugging Face model, with its chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams
from batchmill_worker.generation.base import TemplateFailed
from batchmill_worker.generation.draft_encoder import DraftEncoder
from batchmill_worker.generation.tools import find_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Draft, Message, ToolFormat


class HfTokenizer(DraftEncoder):
    """See `DraftEncoder`. Thread-safe. Raises `InvalidParams` for a tokenizer that is written in Python.

    tool_format: how the chat template writes calls of functions; None: it has no tools.
    """

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
        self._arguments_are_text = False
        self.tool_format = self._find_tool_format()
        if self.tool_format is not None:
            self._reading = _showing(self._reading, self.tool_format.opening)

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
        """Return the text of tokens, without control tokens, but for those with which a call begins."""
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
        messages = [self._value(message, content) for message, content in zip(draft.messages, contents, strict=True)]
        tools = json.loads(draft.tools.functions) if draft.tools else None
        try:
            filled = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise TemplateFailed(f"the chat template does not take the messages: {error}") from error
        return str(filled)

    def _value(self, message: Message, content: str) -> dict[str, Any]:
        value = message.value(content)
        if not self._arguments_are_text:
            for call in value.get("tool_calls", ()):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return value

    def _find_tool_format(self) -> ToolFormat | None:
        """Templates expect the arguments of a call as JSON text, as OpenAI's API has them, or as an object."""
        for self._arguments_are_text in (True, False):
            found = find_format(self.fill_template)
            if found is not None:
                return found
        return None

    def stream(self) -> TokenStream:
        """Begin to read an answer token by token."""
        return TokenStream(self._reading)


def _showing(tokenizer: Any, opening: str) -> Any:
    """Return a tokenizer which does not leave out the control tokens of a text when it decodes."""
    from tokenizers import Tokenizer

    written = json.loads(tokenizer.to_str())
    for token in written["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in opening
    return Tokenizer.from_str(json.dumps(written))


class TokenStream:
    """Text of tokens that come one by one: a character of several tokens comes with its last."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def read(self, tokens: Sequence[int]) -> str:
        """Return the text that these tokens add."""
        return "".join(self._stream.step(self._tokenizer, token) or "" for token in tokens)
