"""The ledger beside its model, some examples; `tests/slow` takes many more."""

from __future__ import annotations

from support.ledger_machine import run_ledger_machine

EXAMPLES = 25


def test_the_ledger_does_what_its_model_does_whatever_crashes(valkey_url: str) -> None:
    run_ledger_machine(valkey_url, EXAMPLES)
