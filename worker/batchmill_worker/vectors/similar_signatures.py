"""Near duplicates by MinHash: the share of equal numbers in two signatures estimates the similarity of their sets.

Signatures are cut into bands; only rows with an equal band are compared (locality-sensitive hashing, Broder 1997, Indyk
and Motwani 1998). Bands are as long as possible while a pair at the threshold is found with a probability of 98 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

MIN_FOUND = 0.98


def kept_of_signatures(signatures: npt.NDArray[np.uint32], threshold: float) -> npt.NDArray[np.int64]:
    """Return for each row the earlier row that it is a near duplicate of; -1: none, so it is kept.

    That one is itself kept, and of those that are at least as similar as `threshold`, the most similar, of these the
    first. signatures: of shape (rows, numbers).
    """
    rows, numbers = signatures.shape
    found = np.full(rows, -1, dtype=np.int64)
    size = band_size(numbers, threshold)
    bands = [_shared_band(signatures[:, start : start + size]) for start in range(0, numbers - size + 1, size)]
    keys = np.stack(bands, axis=1) if rows else np.empty((0, 0), dtype=np.int64)
    buckets: list[dict[int, list[int]]] = [{} for _ in bands]
    for row in np.flatnonzero((keys >= 0).any(axis=1)).tolist():
        own = [buckets[band].setdefault(key, []) for band, key in enumerate(keys[row].tolist()) if key >= 0]
        candidates = np.array(sorted({kept for bucket in own for kept in bucket}), dtype=np.int64)
        if candidates.size:
            likeness = (signatures[candidates] == signatures[row]).mean(axis=1)
            best = int(likeness.argmax())
            if likeness[best] >= threshold:
                found[row] = candidates[best]
                continue
        for bucket in own:
            bucket.append(row)
    return found


def band_size(numbers: int, threshold: float) -> int:
    """Return how many numbers a band has."""
    found = (size for size in range(numbers, 1, -1) if 1 - (1 - threshold**size) ** (numbers // size) >= MIN_FOUND)
    return next(found, 1)


def _shared_band(band: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Return a key of the band of each row; -1 if no other row has it."""
    joined = np.ascontiguousarray(band).view(np.dtype((np.void, band.shape[1] * 4))).ravel()
    _, keys, counts = np.unique(joined, return_inverse=True, return_counts=True)
    return np.where(counts[keys] > 1, keys, -1)
