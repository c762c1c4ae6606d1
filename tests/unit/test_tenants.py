from __future__ import annotations

import pytest

from batchmill.errors import InvalidSettings
from batchmill_coordinator.api.tenants import parse_tokens, tenant_of


def test_a_token_belongs_to_the_tenant_before_it_or_to_default() -> None:
    tenants = parse_tokens(["plain", "acme:one", "acme:two", "b.c-d_e:with:colon"])
    owners = {token: tenant_of(token, tenants) for token in (b"plain", b"one", b"two", b"with:colon", b"acme", b"")}
    assert owners == {
        b"plain": "default",
        b"one": "acme",
        b"two": "acme",
        b"with:colon": "b.c-d_e",
        b"acme": None,
        b"": None,
    }


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("a b:secret", "a tenant that is no name"),
        (":secret", "a tenant that is no name"),
        ("x" * 65 + ":secret", "a tenant that is no name"),
        ("acme:", "no token behind its tenant"),
        ("acme:first", "the token of another tenant"),
    ],
)
def test_an_entry_that_is_none_is_named_by_its_place_and_not_shown(entry: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=f"entry 2 of BATCHMILL_TOKENS has {said}") as refused:
        parse_tokens(["first", entry])
    assert "secret" not in str(refused.value)
