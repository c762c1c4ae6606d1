from __future__ import annotations

import pytest

from batchmill_coordinator.status.shown_request import HIDDEN, shown_request
from support.records import spec_of


@pytest.mark.parametrize("name", ["password", "api_key", "hf_token", "client-secret", "Credentials"])
def test_a_parameter_that_is_named_like_a_secret_is_hidden_at_any_depth(name: str) -> None:
    spec = spec_of("x", params={name: "s3cret", "inner": [{name: "s3cret", "size": 3}], "text": "shown"})
    shown = shown_request(spec).params
    assert shown == {name: HIDDEN, "inner": [{name: HIDDEN, "size": 3}], "text": "shown"}


@pytest.mark.parametrize("name", ["max_tokens", "tokenizer", "passwords_column", "key"])
def test_other_parameters_are_shown(name: str) -> None:
    assert shown_request(spec_of("x", params={name: "text"})).params == {name: "text"}


def test_a_user_name_in_a_url_is_hidden() -> None:
    spec = spec_of("x", params={"url": "https://me:pw@example.org/a"})
    assert shown_request(spec).params == {"url": f"https://{HIDDEN}@example.org/a"}
