"""Where the manifest of an output folder is: beside the folder, `out.manifest.json` for `out`.

Readers of folders take every file in them for rows, so an output folder has nothing but parts. The manifest is
in the folder, as `_manifest.json`, where nothing may be written beside it: the folder is a root or a complete bucket.
Earlier versions always put it there, so it is looked for in both places. An output that is written roll by roll has a
folder of manifests in the same place: `out.manifests`, or `_manifests`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import NotFound
from batchmill.sinks.manifest import Manifest
from batchmill.storage.blobs import BlobStore

if TYPE_CHECKING:
    from batchmill.storage.locations import Location, Locations

MANIFEST_ENDING = ".manifest.json"
MANIFEST_INSIDE = "_manifest.json"
ROLLS_ENDING = ".manifests"
ROLLS_INSIDE = "_manifests"
_CHECK_ENDING = ".manifest.check"


class ManifestFile:
    """The manifest of one output folder. Safe to use from several threads and processes at once."""

    def __init__(self, folder: Location, locations: Locations) -> None:
        self._inside = BlobStore(folder)
        self._folder_name = folder.path.rstrip("/").rpartition("/")[2]
        parent = folder.parent()
        is_allowed = parent is not None and locations.holds(parent.child(self._folder_name + MANIFEST_ENDING))
        self._beside = BlobStore(parent, has_any_name=True) if parent is not None and is_allowed else None
        place = folder.child(ROLLS_INSIDE) if self._beside is None else self._rolls_beside(self._beside)
        self.rolls = BlobStore(place)
        """Where the manifests of rolls are."""

    @property
    def uri(self) -> str:
        """The path or URI where it is written."""
        store, name = self._places[0]
        return store.location(name).uri

    def read(self) -> Manifest | None:
        """Read the manifest; None if there is none. Raises `StorageError`, also for a broken one."""
        for store, name in self._places:
            try:
                return Manifest.parse(store.get(name).to_pybytes(), store.location(name).uri)
            except NotFound:
                continue
        return None

    def write(self, manifest: Manifest) -> None:
        """Put the manifest in its place, and delete that of an earlier version. Raises `StorageError`."""
        (store, name), *others = self._places
        store.put(name, manifest.to_json())
        for other, other_name in others:
            other.delete(other_name)

    def delete(self) -> None:
        """Delete the manifest; without one, do nothing. Raises `StorageError`."""
        for store, name in self._places:
            store.delete(name)

    def check_writable(self) -> None:
        """Raise `StorageError` if nothing can be written beside the folder, and the manifest goes there."""
        if self._beside is not None:
            name = self._folder_name + _CHECK_ENDING
            self._beside.put(name, b"")
            self._beside.delete(name)

    def delete_rolls(self) -> None:
        """Delete the folder of the manifests of rolls; without one, do nothing. Raises `StorageError`."""
        if self._beside is None:
            self._inside.delete_folder(ROLLS_INSIDE)
        else:
            self._beside.delete_folder(self._folder_name + ROLLS_ENDING)

    def _rolls_beside(self, beside: BlobStore) -> Location:
        return beside.location(self._folder_name + ROLLS_ENDING)

    @property
    def _places(self) -> list[tuple[BlobStore, str]]:
        inside = [(self._inside, MANIFEST_INSIDE)]
        return inside if self._beside is None else [(self._beside, self._folder_name + MANIFEST_ENDING), *inside]
