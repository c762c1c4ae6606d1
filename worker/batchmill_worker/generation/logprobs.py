"""How likely the tokens of an answer were, and what else could have stood there: in OpenAI's form, as a list column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_LOGPROBS = 20
"""Alternatives of a token at most, as OpenAI's API has it."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer. logprob: natural logarithm of its probability. top: the likeliest tokens there."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    def value(self) -> dict[str, Any]:
        """Return it as a value of the column."""
        return {
            "token": self.token,
            "logprob": self.logprob,
            "top": [{"token": token, "logprob": logprob} for token, logprob in self.top],
        }


def read_logprobs(about: Any) -> tuple[TokenLogprob, ...]:
    """Read the `logprobs` of a choice, of a chat or of an older completion. Raises `TypeError` for another form."""
    if about is None:
        return ()
    if "content" in about:
        return tuple(_read(one) for one in about["content"] or ())
    tops = about.get("top_logprobs") or [{}] * len(about["tokens"])
    return tuple(
        TokenLogprob(token, float(logprob), tuple((name, float(number)) for name, number in (top or {}).items()))
        for token, logprob, top in zip(about["tokens"], about["token_logprobs"], tops, strict=True)
    )


def _read(one: Any) -> TokenLogprob:
    top = tuple((other["token"], float(other["logprob"])) for other in one.get("top_logprobs") or ())
    return TokenLogprob(one["token"], float(one["logprob"]), top)
