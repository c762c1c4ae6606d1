"""Files that clients upload for batches, and those that batches write, each a blob and a document of its tenant.

The blob is written first, so that a file that is listed can be read. A process that dies in between leaves a blob that
no document names, which the ledger keeper deletes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from batchmill.errors import InvalidRequest, NotFound, PayloadTooLarge
from batchmill.jobs.frozen import Frozen
from batchmill.jobs.ids import new_id
from batchmill.ledger.documents import UNLIMITED, Quota

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill.ledger import Ledger
    from batchmill.ledger.documents import Document
    from batchmill.settings import CoordinatorSettings
    from batchmill.storage.blobs import BlobStore

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
"""What clients say that a file is for. Only those for batches are used."""

Purpose = UploadPurpose | Literal["batch_output"]
BATCH_ENDING = ".jsonl"
NO_QUOTA = Quota(UNLIMITED, UNLIMITED)


class StoredFile(Frozen):
    """What is known of a file. Times are in seconds since the epoch."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


class Viewer(Protocol):
    """Who asks for a file."""

    def may_see(self, tenant: str) -> bool:
        """Whether what belongs to a tenant exists for them."""
        ...


class Files:
    """The files of all tenants. One that who asks may not see is `NotFound`."""

    def __init__(self, ledger: Ledger, blobs: BlobStore, settings: CoordinatorSettings) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._max_bytes = settings.max_file_bytes
        self._ttl_s = settings.file_ttl_s
        self._quota = Quota(settings.max_files_per_tenant, settings.max_file_bytes_per_tenant)

    def require_room(self, tenant: str) -> None:
        """Raise `Overloaded` if a tenant has as many files as it may have, or as many bytes in them."""
        self._ledger.files.require_room(tenant, self._quota)

    def store(
        self,
        tenant: str,
        filename: str,
        purpose: UploadPurpose,
        nbytes: int,
        ttl_s: int | None,
        fill: Callable[[str], None],
    ) -> StoredFile:
        """Store a file that a client has sent. fill: writes it to a path.

        Raises `InvalidRequest`, `PayloadTooLarge`, `Overloaded` where the tenant has used up its quota, `StorageError`.
        """
        if purpose == "batch" and not filename.lower().endswith(BATCH_ENDING):
            raise InvalidRequest("Invalid file format for Batch API. Must be .jsonl.", field="file")
        if nbytes > self._max_bytes:
            raise PayloadTooLarge(
                f"the file has {nbytes:,} bytes, at most {self._max_bytes:,} are allowed.",
                hint="Split it, or raise BATCHMILL_MAX_FILE_BYTES.",
                field="file",
            )
        return self._store(new_id("file"), tenant, filename, purpose, ttl_s or self._ttl_s, fill, self._quota)

    def store_output(
        self, file_id: str, tenant: str, filename: str, ttl_s: int | None, fill: Callable[[str], None]
    ) -> StoredFile:
        """Store a file that a batch has written, which no quota refuses; it may be stored already."""
        return self._store(file_id, tenant, filename, "batch_output", ttl_s or self._ttl_s, fill, NO_QUOTA)

    def _store(
        self,
        file_id: str,
        tenant: str,
        filename: str,
        purpose: Purpose,
        ttl_s: float,
        fill: Callable[[str], None],
        quota: Quota,
    ) -> StoredFile:
        nbytes = self._blobs.put_file(content_name(file_id), fill)
        created_at = self._ledger.now_ms() // 1000
        expires_at = created_at + int(ttl_s) if ttl_s else None
        file = StoredFile(
            id=file_id,
            bytes=nbytes,
            created_at=created_at,
            expires_at=expires_at,
            filename=filename,
            purpose=purpose,
        )
        due_ms = None if expires_at is None else expires_at * 1000
        try:
            self._ledger.files.add(file_id, tenant, file.model_dump_json(), due_ms=due_ms, quota=quota, nbytes=nbytes)
        except BaseException:
            self._blobs.delete_folder(folder_of(file_id))
            raise
        return file

    def find(self, file_id: str, access: Viewer) -> tuple[StoredFile, str]:
        """Return a file and its tenant. Raises `NotFound`."""
        found = self._ledger.files.find(file_id)
        if found is None or not access.may_see(found.tenant):
            raise NotFound(f"No such File object: {file_id[:128]}", field="id")
        return _file(found), found.tenant

    def content(self, file: StoredFile) -> Iterator[bytes]:
        """Yield a file's bytes in pieces. Raises `StorageError`."""
        return self._blobs.pieces(content_name(file.id))

    def page(
        self, tenant: str, limit: int, after: str | None, purpose: str | None, *, oldest_first: bool
    ) -> tuple[list[StoredFile], bool]:
        """Return at most `limit` files behind `after`, and whether there are more. Raises `NotFound`."""
        found: list[StoredFile] = []
        more = True
        while more and len(found) <= limit:
            page, more = self._ledger.files.page(tenant, limit, after, oldest_first=oldest_first)
            after = page[-1].id if page else after
            found += [file for file in map(_file, page) if purpose in (None, file.purpose)]
            more = more and bool(page)
        return found[:limit], more or len(found) > limit

    def delete(self, file_id: str, access: Viewer) -> None:
        """Delete a file. Raises `NotFound`, `StorageError`."""
        _, tenant = self.find(file_id, access)
        self._delete(file_id, tenant)

    def delete_expired(self, now_ms: int, limit: int = 100) -> None:
        """Delete files whose time is over, as the leader. Raises `StorageError`."""
        for document in self._ledger.files.due(now_ms, limit):
            self._delete(document.id, document.tenant)

    def _delete(self, file_id: str, tenant: str) -> None:
        self._ledger.files.remove(file_id, tenant)
        self._blobs.delete_folder(folder_of(file_id))


def folder_of(file_id: str) -> str:
    """Name the folder of a file's blob."""
    return f"files/{file_id}"


def content_name(file_id: str) -> str:
    """Name the blob of a file."""
    return f"files/{file_id}/content"


def _file(document: Document) -> StoredFile:
    return StoredFile.model_validate_json(document.body)
