"""The ledger beside its model, many examples."""

from __future__ import annotations

from support.ledger_machine import run_ledger_machine

EXAMPLES = 500


def test_the_ledger_does_what_its_model_does_whatever_crashes(valkey_url: str) -> None:
    run_ledger_machine(valkey_url, EXAMPLES)
