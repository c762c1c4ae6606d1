"""An operator as a class with parameters; failed rows are not in the results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import batchmill

Row = dict[str, Any]


@batchmill.operator("keywords", columns=["text"], batch_size=100)
class Keywords:
    """The most frequent words of a text."""

    def __init__(self, *, limit: int = 3, ignore: list[str] = []) -> None:  # noqa: B006  # read only
        self._limit = limit
        self._ignore = {word.lower() for word in ignore}

    def infer(self, rows: list[Row]) -> list[Row | batchmill.RowError]:
        return [self._keywords(row["text"]) for row in rows]

    def _keywords(self, text: str) -> Row | batchmill.RowError:
        words = Counter(word for word in text.lower().split() if word not in self._ignore)
        if not words:
            return batchmill.RowError("the text has no words")
        return {"keywords": [word for word, _ in words.most_common(self._limit)]}


def main() -> None:
    rows = [{"id": 0, "text": "the cat and the other cat"}, {"id": 1, "text": ""}, {"id": 2, "text": "a dog"}]
    with batchmill.local(workers=1, operators=["own_operator"]) as client:
        job = client.submit("keywords", rows=rows, params={"limit": 2, "ignore": ["the", "a", "and"]}, carry=["id"])
        for row in job.results():
            print(row)
        print(job.status().rows_dead, "row failed")
        try:
            client.submit("keywords", rows=rows, params={"limt": 2})
        except batchmill.InvalidParams as error:
            print(error)


if __name__ == "__main__":
    main()
