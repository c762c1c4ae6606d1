"""Which model an operator asks for, and the errors about what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill.errors import InvalidParams, MissingExtra


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Which model an operator asks for, and how it wants to use it. The fields are the operators' parameters."""

    operator: str
    extra: str  # of Batchmill, that installs the libraries
    model: str
    precision: str = "auto"
    max_tokens: int | None = None
    truncate: bool = True
    backend: str = "torch"

    def refusal(self, message: str, *, hint: str, parameter: str) -> InvalidParams:
        """Make the error for a parameter that does not fit."""
        return InvalidParams(
            f"operator {self.operator!r}: {message}", hint=hint, operator=self.operator, parameter=parameter
        )


def missing_extra(operator: str, extra: str, what: object) -> MissingExtra:
    """Make the error for a library that is not installed."""
    return MissingExtra(
        f"operator {operator!r} needs the libraries of the extra {extra!r}: {what}.",
        hint=f"Install it on every worker: pip install 'batchmill[{extra}]'.",
    )
