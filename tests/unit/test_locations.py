"""No path or URI leads out of the roots, and no message repeats a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.errors import InvalidOutput, InvalidSettings, InvalidSource
from batchmill.settings import CoordinatorSettings
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill.storage.objects import s3_options
from batchmill.workspace import Workspace

ANYWHERE = Locations(UNRESTRICTED, s3_endpoint="http://127.0.0.1:9", s3_region="us-east-1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (tmp_path / "root" / "inner").symlink_to(tmp_path / "root" / "sub")
    (tmp_path / "root" / "outer").symlink_to(tmp_path / "root2")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root" / "loop")
    return tmp_path / "root"


@pytest.mark.parametrize("name", ["", "/", "/sub", "/sub/../sub", "/./sub//x.txt", "/inner/new", "/loop", "/a b?=#%"])
def test_what_lies_below_a_root_is_allowed(root: Path, name: str) -> None:
    location = Locations([str(root)]).resolve(f"{root}{name}")
    assert location.path == os.path.normpath(f"{root}{name}")
    assert location.is_local


@pytest.mark.parametrize(
    "name", ["2", "/..", "/../root2", "/outer", "/outer/x", "/sub/../../root2", "/outer/../outer/x"]
)
def test_what_lies_outside_is_refused_links_followed(root: Path, name: str) -> None:
    with pytest.raises(InvalidSource, match="outside the folders this service may use"):
        Locations([str(root)]).resolve(f"{root}{name}")


def test_a_link_that_leads_into_a_root_is_allowed_and_a_root_may_be_a_link(root: Path) -> None:
    (root.parent / "way in").symlink_to(root)
    Locations([str(root)]).resolve(f"{root.parent}/way in/sub")
    Locations([f"{root.parent}/way in"]).resolve(f"{root}/sub")


def test_a_file_that_became_a_link_after_it_was_listed_is_refused(root: Path) -> None:
    locations = Locations([str(root)])
    child = locations.resolve(str(root)).child("data.txt")
    locations.check(child)
    (root / "data.txt").symlink_to("/etc/passwd")
    with pytest.raises(InvalidSource):
        locations.check(child)


@pytest.mark.parametrize("name", ["../root2", "sub/../../root2", "outer/x"])
def test_a_child_of_an_allowed_place_is_checked_by_where_it_lies(root: Path, name: str) -> None:
    locations = Locations([str(root)])
    with pytest.raises(InvalidSource):
        locations.check(locations.resolve(str(root)).child(name))


def test_the_error_is_of_the_kind_that_was_asked_for_and_names_the_roots(root: Path) -> None:
    with pytest.raises(InvalidOutput) as caught:
        Locations([str(root), "s3://bucket/pre"]).resolve("/etc/passwd", error=InvalidOutput)
    assert f"Use a path below one of: {root}, s3://bucket/pre;" in caught.value.hint
    assert caught.value.details == {"path": "/etc/passwd"}


def test_without_roots_nothing_is_allowed() -> None:
    with pytest.raises(InvalidSource, match="outside"):
        Locations([]).resolve("/")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/x", "/data/x"),
        ("FILE://localhost/data/x", "/data/x"),
        ("file:///data/a%20b%25%C3%A9", "/data/a b%é"),
        ("file:///data/%2e%2e/x", "/x"),
        ("file:///data/x-?.txt", "/data/x-?.txt"),
        ("//data//x/", "/data/x"),
        ("/data/a://b", "/data/a:/b"),
    ],
)
def test_local_paths_and_file_uris_are_the_same_places(uri: str, path: str) -> None:
    location = ANYWHERE.resolve(uri)
    assert (location.path, location.uri) == (path, path)


def test_percent_encoding_leads_no_way_out(root: Path) -> None:
    for way in ("..%2froot2", "%2e%2e/root2", "..%2Froot2%2fx", "sub/%2e./../root2"):
        with pytest.raises(InvalidSource, match="outside"):
            Locations([str(root)]).resolve(f"file://{root}/{way}")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("/data/" + "ä" * 128, "256 bytes; file systems take at most 255"),
        ("", "no absolute path"),
        ("data/x", "no absolute path"),
        ("~/x", "no absolute path"),
        ("file:x", "no absolute path"),
        ("s3:/bucket", "no absolute path"),
        ("file://", "no absolute path"),
        ("file://host/x", "names another host"),
        ("http://host/x", "the scheme http:// of a URI is not supported"),
        ("abfss://container@account.dfs.core.windows.net/x", "the scheme abfss:// of a URI is not supported"),
        ("/a\0b", "character"),
        ("file:///a%00b", "character"),
        ("s3://bucket/a\0b", "character"),
        ("/a\ud800", "character"),
        ("file:///a%FF", "no UTF-8"),
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
        ("s3://bu cket/key", "names no bucket"),
        ("s3://../key", "names no bucket"),
        ("s3://bucket//key", "holds '//'"),
        ("s3://bucket/a//b", "holds '//'"),
        ("s3://bucket/a/../b", "holds '//', '.' or '..'"),
        ("s3://bucket/a/./b", "holds '//', '.' or '..'"),
        ("s3://bucket/..", "holds '//', '.' or '..'"),
    ],
)
def test_a_malformed_place_is_refused_with_the_reason(uri: str, reason: str) -> None:
    with pytest.raises(InvalidSource, match=reason) as caught:
        ANYWHERE.resolve(uri)
    caught.value.message.encode()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hunter2@bucket/x",
        "s3://hunter2@bucket/x",
        "gs://key:hunter2@bucket",
        "https://user:hunter2@host/x",
        "file://user:hunter2@localhost/x",
        "s3://bucket/x?access_key=a&secret_key=hunter2",
        "s3://bucket?secret_key=hunter2",
        "file:///x?token=hunter2",
        "https://host/x?X-Amz-Signature=hunter2",
    ],
)
def test_credentials_and_queries_are_refused_and_never_repeated(uri: str) -> None:
    with pytest.raises(InvalidSource) as caught:
        ANYWHERE.resolve(uri)
    assert "hunter2" not in repr(caught.value.envelope())
    with pytest.raises(InvalidSettings) as refused:
        Locations([uri])
    assert "hunter2" not in repr(refused.value.envelope())


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_prefix_admits_what_lies_below_it_and_not_its_namesakes(scheme: str) -> None:
    locations = Locations([f"{scheme}://bucket/pre"], s3_region="us-east-1")
    for inside in ("bucket/pre", "bucket/pre/", "bucket/pre/x/y", "bucket/pre/a%20b*?.txt"):
        location = locations.resolve(f"{scheme}://{inside}")
        assert location.path == inside.rstrip("/")
        assert location.uri == f"{scheme}://{inside.rstrip('/')}"
        assert not location.is_local
    for outside in ("bucket", "bucket/prefix2", "bucket/pre2/x", "bucket2/pre", "Bucket/pre/x"):
        with pytest.raises(InvalidSource, match="outside"):
            locations.resolve(f"{scheme}://{outside}")
    with pytest.raises(InvalidSource, match="outside"):
        locations.resolve("/bucket/pre/x")
    with pytest.raises(InvalidSource, match="outside"):
        locations.check(locations.resolve(f"{scheme}://bucket/pre").child("../other"))


def test_a_whole_bucket_and_a_whole_service_can_be_roots() -> None:
    Locations(["s3://bucket"], s3_region="us-east-1").resolve("s3://bucket/x")
    Locations(["s3://"], s3_region="us-east-1").resolve("s3://any/x")
    with pytest.raises(InvalidSource, match="outside"):
        Locations(["s3://bucket"], s3_region="us-east-1").resolve("s3://bucket2/x")


@pytest.mark.parametrize("root", ["data", "", "http://host", "s3://a/../b"])
def test_a_root_that_is_none_is_an_invalid_setting(root: str) -> None:
    with pytest.raises(InvalidSettings):
        Locations([root])


@pytest.mark.parametrize("endpoint", ["localhost:9000", "host", "ftp://host", "http://key:hunter2@host", "http://"])
def test_an_endpoint_that_is_no_address_is_an_invalid_setting(endpoint: str) -> None:
    with pytest.raises(InvalidSettings, match="BATCHMILL_S3_ENDPOINT") as caught:
        Locations([], s3_endpoint=endpoint)
    assert "hunter2" not in repr(caught.value.envelope())


@given(st.lists(st.sampled_from(["..", ".", "", "sub", "outer", "inner", "x", "%2e%2e", "loop"]), max_size=6))
def test_no_path_made_of_awkward_parts_leads_out(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    base = tmp_path_factory.getbasetemp() / "awkward"
    if not base.exists():
        (base / "root" / "sub").mkdir(parents=True)
        (base / "root" / "outer").symlink_to(base)
        (base / "root" / "inner").symlink_to("sub")
        (base / "root" / "loop").symlink_to("loop")
    locations = Locations([str(base / "root")])
    for uri in ("/".join([str(base / "root"), *parts]), "/".join([f"file://{base}/root", *parts])):
        try:
            location = locations.resolve(uri)
        except InvalidSource:
            continue
        assert Path(os.path.realpath(location.path)).is_relative_to(base / "root")


def test_an_object_store_without_an_account_is_an_invalid_setting_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(InvalidSettings, match=r"az:// cannot be used by this service: .*Account") as caught:
        ANYWHERE.resolve("az://container/x").look_up()
    assert "environment" in caught.value.hint


def test_keys_come_from_the_credentials_file_of_aws_when_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
        "[other]\naws_access_key_id = C\naws_secret_access_key = D%\naws_session_token = E\nregion = here\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert s3_options(None, None) == {"access_key_id": "A", "secret_access_key": "B"}
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert s3_options(None, "r") == {
        "region": "r",
        "access_key_id": "C",
        "secret_access_key": "D%",
        "session_token": "E",
    }
    monkeypatch.setenv("AWS_PROFILE", "missing")
    assert s3_options("http://host:1", None) == {"endpoint": "http://host:1", "allow_http": True}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "F")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert s3_options(None, None) == {}


@pytest.mark.parametrize("inner", ["root", "blobs"])
def test_a_blob_store_and_a_root_that_overlap_are_refused_with_both_names(tmp_path: Path, inner: str) -> None:
    root = tmp_path if inner == "blobs" else tmp_path / "blobs" / "root"
    settings = CoordinatorSettings(blob_root=str(tmp_path / "blobs"), roots=(str(tmp_path / "apart"), str(root)))
    with pytest.raises(InvalidSettings, match=r"blob store .*/blobs and the root .* overlap") as refused:
        Workspace.open(settings)
    assert f"the root {root} " in refused.value.message
    Workspace.open(settings.model_copy(update={"roots": (str(tmp_path / "apart"), str(tmp_path / "blobs-too"))}))


def test_a_link_does_not_hide_that_the_blob_store_is_in_a_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    with pytest.raises(InvalidSettings, match="overlap"):
        Workspace.open(CoordinatorSettings(blob_root=str(tmp_path / "link/blobs"), roots=(str(tmp_path / "root"),)))
