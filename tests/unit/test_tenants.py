from __future__ import annotations

import pytest

from batchmill.errors import Forbidden, InvalidSettings
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.api.tenants import Access, find_access, parse_tokens


def test_a_token_belongs_to_the_tenant_before_it_or_to_default() -> None:
    known = parse_tokens(["plain", "acme:one", "acme:two", "b.c-d_e:with:colon"])
    found = {token: find_access(token, known) for token in (b"plain", b"one", b"two", b"with:colon", b"acme", b"")}
    assert {token: access and access.tenant for token, access in found.items()} == {
        b"plain": "default",
        b"one": "acme",
        b"two": "acme",
        b"with:colon": "b.c-d_e",
        b"acme": None,
        b"": None,
    }
    assert not any(access.sees_all for access in found.values() if access)


def test_the_tokens_of_a_service_without_tenants_are_admin_tokens() -> None:
    assert parse_tokens(["one", "read:two"]) == {
        b"one": Access("default", sees_all=True),
        b"two": Access("default", sees_all=True, read_only=True),
    }


@pytest.mark.parametrize(
    ("entry", "access"),
    [
        ("read:secret", Access("default", read_only=True)),
        ("admin:secret", Access("default", sees_all=True)),
        ("read:acme:secret", Access("acme", read_only=True)),
        ("admin:acme:secret", Access("acme", sees_all=True)),
        ("read:admin:secret", Access("default", sees_all=True, read_only=True)),
    ],
)
def test_prefixes_of_a_token_say_what_it_allows(entry: str, access: Access) -> None:
    assert parse_tokens(["other:x", entry])[b"secret"] == access
    assert {"x", "secret"} < set(CoordinatorSettings(tokens=("other:x", entry)).secret_values())  # logs hide them


def test_a_read_only_token_changes_nothing_and_only_an_admin_token_acts_for_all() -> None:
    reader, owner, admin = Access("acme", read_only=True), Access("acme"), Access("acme", sees_all=True)
    reader.require_method("GET")
    with pytest.raises(Forbidden, match="read-only"):
        reader.require_method("POST")
    with pytest.raises(Forbidden, match="only an admin token may clear the row cache"):
        owner.require_admin("clear the row cache")
    admin.require_admin("clear the row cache")
    assert [each.may_see("beta") for each in (reader, owner, admin)] == [False, False, True]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("a b:secret", "a tenant that is no name"),
        (":secret", "a tenant that is no name"),
        ("x" * 65 + ":secret", "a tenant that is no name"),
        ("admin:read:secret", "a tenant that is no name"),
        ("acme:", "no token after its tenant"),
        ("acme:first", "the token of another tenant"),
        ("read:first", "the token of another tenant or with other rights"),
    ],
)
def test_an_entry_that_is_none_is_named_by_its_place_and_not_shown(entry: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=f"entry 2 of BATCHMILL_TOKENS has {said}") as refused:
        parse_tokens(["first", entry])
    assert "secret" not in str(refused.value)
