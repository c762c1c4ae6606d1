"""The address of Redis: every spelling, and what is refused."""

from __future__ import annotations

import pytest

from batchmill.errors import InvalidSettings
from batchmill.redis_access.address import Login, RedisAddress, Sentinels, Tls

PASSWORD, SPECIAL = "secret", "p@ss/w#rd%:?&ü"
FILE = "/run/secrets/r"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisAddress()),
        ("redis://h", RedisAddress(host="h")),
        ("redis://h:7/3", RedisAddress(host="h", port=7, database=3)),
        ("redis://h:7?db=3", RedisAddress(host="h", port=7, database=3)),
        ("valkey://[::1]:7/1", RedisAddress(host="::1", port=7, database=1)),
        ("redis://:secret@h", RedisAddress(host="h", login=Login(password=PASSWORD))),
        (
            "redis://me:p%40ss%2Fw%23rd%25%3A%3F%26%C3%BC@h",
            RedisAddress(host="h", login=Login("me", SPECIAL)),
        ),
        ("rediss://h", RedisAddress(host="h", tls=Tls())),
        ("valkeys://h?ssl_cert_reqs=CERT_NONE", RedisAddress(host="h", tls=Tls(cert_reqs="none"))),
        ("rediss://h/2?ssl_ca_certs=/ca.pem", RedisAddress(host="h", database=2, tls=Tls(ca_certs="/ca.pem"))),
        ("rediss://h?ssl_check_hostname=false", RedisAddress(host="h", tls=Tls(check_hostname=False))),
        ("unix:///run/r.sock", RedisAddress(path="/run/r.sock")),
        (
            "unix://me:secret@/run/r.sock?db=2",
            RedisAddress(path="/run/r.sock", database=2, login=Login("me", PASSWORD)),
        ),
        (
            "redis://me@h?password_file=/run/secrets/r",
            RedisAddress(host="h", login=Login("me", password_file=FILE)),
        ),
        (
            "redis+sentinel://a:1,b,[::1]:2/mymaster",
            RedisAddress(sentinels=Sentinels((("a", 1), ("b", 26379), ("::1", 2)), "mymaster")),
        ),
        (
            "valkey+sentinel://me:secret@a/my%20master/3",
            RedisAddress(database=3, login=Login("me", PASSWORD), sentinels=Sentinels((("a", 26379),), "my master")),
        ),
        (
            "rediss+sentinel://a/m?ssl_ca_certs=/ca.pem&sentinel_username=s&sentinel_password_file=/run/secrets/r&db=1",
            RedisAddress(
                database=1,
                tls=Tls(ca_certs="/ca.pem"),
                sentinels=Sentinels((("a", 26379),), "m", Login("s", password_file=FILE)),
            ),
        ),
    ],
)
def test_every_spelling_is_understood(url: str, expected: RedisAddress) -> None:
    assert RedisAddress.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "scheme"),
        ("localhost:6379", "scheme"),
        ("http://h", "scheme"),
        ("redi://h", "redis"),
        ("redis://h/one", "number of a database"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h?password=secret", "unknown option"),
        ("redis://h?ssl_cert_reqs=none", "unknown option"),
        ("rediss://h?ssl_cert_reqs=maybe", "one of"),
        ("rediss://h?ssl_ca_cert=x", "ssl_ca_certs"),
        ("redis://:secret/word@h", "port number"),
        ("redis://:sec#ret@h", "'#'"),
        ("unix://run/r.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("redis+sentinel://h:1", "name of the primary"),
        ("redis+sentinel:///mymaster", "hosts of the sentinels"),
        ("redis+sentinel://a,,b/mymaster", "hosts of the sentinels"),
        ("redis+sentinel://a:b/mymaster", "port number"),
        ("redis+sentinel://a/mymaster/one", "number of a database"),
        ("redis+sentinel://a/mymaster?ssl_cert_reqs=none", "unknown option"),
        ("redis+sentinel://" + ",".join("abcdefghijklmnopq") + "/mymaster", "at most 16"),
        ("redi+sentinel://h/m", "redis+sentinel"),
        ("redis://:secret@h?password_file=/f", "password_file"),
    ],
)
def test_a_wrong_one_is_refused_with_what_is_wrong_and_without_its_password(url: str, expected: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        RedisAddress.parse(url)
    assert expected in str(refused.value)
    assert "secret" not in refused.value.message


def test_an_address_that_is_shown_has_no_password() -> None:
    address = RedisAddress.parse("redis://me:secret@h:7/3")
    assert (str(address), "secret" in repr(address)) == ("redis://h:7/3", False)
