"""From a draft to tokens: the model's chat template around the messages, whose columns never become control tokens."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from batchmill_worker.generation.base import TemplateFailed
from batchmill_worker.generation.tools import refuse_control_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Draft, Message


class DraftEncoder:
    """A `Tokenizer`, for `fit`, on top of what an engine has. A subclass makes tokens of text, and fills the template.

    begins_chats: whether the tokens of the model's beginning are put before a filled template; else it contains them.
    """

    begins_chats = True

    def encode_text(self, text: str, *, special: bool, begin: bool) -> tuple[int, ...]:
        """Return the tokens of a text.

        special: whether control tokens in it are read as such. begin: whether those of the model's beginning are put
        before it.
        """
        raise NotImplementedError

    def fill_template(self, draft: Draft, contents: Sequence[str]) -> str:
        """Return the model's chat template, with these contents in place of the messages', and with the tools."""
        raise NotImplementedError

    def encode_draft(self, draft: Draft) -> tuple[int, ...]:
        """Return the tokens of a prompt; those of the model's beginning are put before it.

        Behind it is the beginning of the call that the model has to make, if it has to make one.
        """
        if not draft.is_chat:
            return self._encode_text_of(draft.messages[0])
        refuse_control_tokens(draft, self._has_control_token)
        contents = [message.text for message in draft.messages]
        opening = draft.tools.opening if draft.tools else ""
        if not any(self._has_control_token(content) for content in contents):
            text = self.fill_template(draft, contents) + opening
            return self.encode_text(text, special=True, begin=self.begins_chats)
        return self._encode_apart(draft, contents, opening)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text; what looks like a control token is text."""
        return self.encode_text(text, special=False, begin=False)

    def _has_control_token(self, text: str) -> bool:
        may_have = "<" in text or "[" in text
        return may_have and self.encode_text(text, special=True, begin=False) != self.encode(text)

    def _encode_text_of(self, message: Message) -> tuple[int, ...]:
        """Encode text that is completed as it is: control tokens are those of the template around the columns."""
        segments = message.segments
        if not any(segment.is_column and self._has_control_token(segment.text) for segment in segments):
            return self.encode_text(message.text, special=True, begin=True)
        tokens: list[int] = []
        for place, segment in enumerate(segments):
            tokens += self.encode_text(segment.text, special=not segment.is_column, begin=place == 0)
        return tuple(tokens)

    def _encode_apart(self, draft: Draft, contents: Sequence[str], opening: str) -> tuple[int, ...]:
        """Encode the template and the contents separately, so that no content is read as a part of the template."""
        marks = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in contents]
        rest = self.fill_template(draft, marks) + opening
        tokens: list[int] = []
        for mark, content in zip(marks, contents, strict=True):
            before, found, rest = rest.partition(mark)
            if not found:  # the template leaves a message out, or has them in another order
                raise TemplateFailed("the chat template does not contain a message as it is")
            tokens += self.encode_text(before, special=True, begin=self.begins_chats and not tokens)
            tokens += self.encode(content)
        return (*tokens, *self.encode_text(rest, special=True, begin=False))
