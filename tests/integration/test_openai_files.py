"""Files through OpenAI's own client, against a real service."""

from __future__ import annotations

import asyncio
import http.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = b'{"custom_id": "a"}\n'
HOUR, DAY = 3600, 86_400


@pytest.fixture
def api(service_record: dict[str, str]) -> Iterator[openai.OpenAI]:
    """OpenAI's client, at the session's service."""
    with openai.OpenAI(
        base_url=f"{service_record['url']}/v1", api_key=service_record["token"], max_retries=0
    ) as client:
        yield client


def upload(api: openai.OpenAI, content: bytes = LINE, name: str = "lines.jsonl") -> str:
    return api.files.create(file=(name, content), purpose="batch").id


def test_a_file_is_uploaded_shown_read_and_deleted(api: openai.OpenAI) -> None:
    content = LINE * 200_000  # 3.8 MB, which is read in pieces
    file = api.files.create(file=("lines.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "lines.jsonl", "batch")
    assert file.id.startswith("file-")
    assert file.expires_at == file.created_at + 30 * DAY
    assert api.files.retrieve(file.id) == file
    assert api.files.content(file.id).read() == content
    deleted = api.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    for call in (api.files.retrieve, api.files.content, api.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file.id)
        assert (caught.value.code, caught.value.type) == ("not_found", "invalid_request_error")


def test_an_empty_file_is_kept_as_it_is(api: openai.OpenAI) -> None:
    assert api.files.content(upload(api, b"")).read() == b""


def test_a_file_expires_when_its_client_says(api: openai.OpenAI) -> None:
    file = api.files.create(
        file=("a.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": HOUR}
    )
    assert file.expires_at == file.created_at + HOUR
    for seconds in (HOUR - 1, 30 * DAY + 1):
        with pytest.raises(openai.BadRequestError) as caught:
            api.files.create(
                file=("a.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": seconds}
            )
        assert caught.value.param == "expires_after.seconds"


def test_files_are_listed_page_by_page_in_both_orders_and_by_purpose(api: openai.OpenAI) -> None:
    ids = [upload(api, name=f"{number}.jsonl") for number in range(5)]
    other = api.files.create(file=("notes.txt", b"x"), purpose="user_data").id
    page = api.files.list(limit=2, purpose="batch")
    assert [file.id for file in page.data] == ids[:2:-1]
    assert page.has_more
    listed = [file.id for file in api.files.list(limit=2, purpose="batch")]  # the client asks for the later pages
    assert listed[:5] == ids[::-1]
    assert other not in listed
    oldest_first = [file.id for file in api.files.list(limit=3, order="asc")]
    assert oldest_first[-6:] == [*ids, other]
    assert [file.id for file in api.files.list(after=ids[1], order="asc", limit=1).data] == [ids[2]]
    raw = api.files.with_raw_response.list(limit=2).http_response.json()
    assert (raw["object"], raw["first_id"], raw["last_id"]) == ("list", other, ids[-1])
    with pytest.raises(openai.NotFoundError):
        api.files.list(after="file-unknown")


@pytest.mark.parametrize(
    ("name", "purpose", "param"),
    [("lines.json", "batch", "file"), ("a.jsonl", "other", "purpose"), ("a.jsonl", "batch_output", "purpose")],
)
def test_what_is_no_file_for_a_batch_is_refused(api: openai.OpenAI, name: str, purpose: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.files.create(file=(name, LINE), purpose=purpose)  # type: ignore[arg-type]  # on purpose
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def post(record: dict[str, str], body: bytes | None, **headers: str) -> int:
    """Send a body as it is, or with `None` only its headers; return the status of the answer."""
    connection = http.client.HTTPConnection(urlsplit(record["url"]).netloc, timeout=60)
    connection.putrequest("POST", "/v1/files")
    sent = {"Authorization": f"Bearer {record['token']}", "Content_Length": str(len(body or b"")), **headers}
    for name, value in sent.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_file_over_the_limit_is_refused_before_it_is_sent(service_record: dict[str, str]) -> None:
    assert post(service_record, None, Content_Length=str(10**9)) == 413


FIELD = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FORMS = {
    "JSON": ("application/json", b"{}"),
    "no boundary": ("multipart/form-data", b"--x--"),
    "nothing": ("multipart/form-data; boundary=x", b""),
    "no end": ("multipart/form-data; boundary=x", b"--x\r\n\r\n" + b"y" * 10_000),
    "a text": ("multipart/form-data; boundary=x", FIELD % (b"file", b"text") + b"--x--\r\n"),
    "a long field": ("multipart/form-data; boundary=x", FIELD % (b"purpose", b"x" * 10_000) + b"--x--\r\n"),
    "many fields": ("multipart/form-data; boundary=x", FIELD % (b"n", b"v") * 99 + b"--x--\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_none_is_refused(service_record: dict[str, str], form: str) -> None:
    kind, body = FORMS[form]
    assert post(service_record, body, Content_Type=kind) == 400


def test_the_asynchronous_client_does_the_same(service_record: dict[str, str]) -> None:
    async def run() -> None:
        url, token = f"{service_record['url']}/v1", service_record["token"]
        async with openai.AsyncOpenAI(base_url=url, api_key=token, max_retries=0) as api:
            file = await api.files.create(file=("a.jsonl", LINE), purpose="batch")
            assert await api.files.retrieve(file.id) == file
            assert (await api.files.content(file.id)).content == LINE
            assert file.id in [found.id async for found in api.files.list(limit=1)]
            assert (await api.files.delete(file.id)).deleted

    asyncio.run(run())
