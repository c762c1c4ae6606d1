"""Qdrant's HTTP interface for tests: no server of Qdrant can be installed from a package.

Points are stored, filtered, searched and fenced by the real engine, from the wheel `qdrant-edge-py`. Collections,
aliases, metadata and the HTTP around them are a stand-in, made after the documentation of the API, version 1.16. The
engine's Python interface takes booleans in filters for numbers, so filters by them cannot be tested.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qdrant_edge as engine

MAX_BODY_BYTES = 32 * 2**20
_KINDS = {"keyword": engine.PayloadSchemaType.Keyword, "integer": engine.PayloadSchemaType.Integer}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Kept:
    """One collection."""

    shard: engine.EdgeShard
    config: dict[str, Any]
    lock: threading.Lock = field(default_factory=threading.Lock)


class QdrantServer:
    """One server; `requests` has what it was asked."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="batchmill-qdrant-"))
        self.collections: dict[str, Kept] = {}
        self.aliases: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.max_body_bytes = MAX_BODY_BYTES
        self.api_key: str | None = None
        self.lock = threading.RLock()
        self._made = 0
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"qdrant+http://127.0.0.1:{self.port}"

    def start(self) -> None:
        methods = {f"do_{method}": _Handler._handle for method in ("GET", "PUT", "POST", "PATCH", "DELETE")}
        handler = type("Handler", (_Handler,), {"owner": self, **methods})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def clear(self) -> None:
        for name in list(self.collections):
            self.drop(name)

    def close(self) -> None:
        self.stop()
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, name: str, body: dict[str, Any]) -> None:
        if name in self.collections or name in self.aliases:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        self._made += 1
        folder = self.folder / str(self._made)
        folder.mkdir()
        vectors, hnsw = body["vectors"], body["hnsw_config"]
        params = engine.EdgeVectorParams(size=vectors["size"], distance=getattr(engine.Distance, vectors["distance"]))
        graph = engine.HnswIndexConfig(m=hnsw["m"], ef_construct=hnsw["ef_construct"], full_scan_threshold=10)
        optimizers = engine.EdgeOptimizersConfig(indexing_threshold=1)
        config = engine.EdgeConfig(vectors=params, hnsw_config=graph, optimizers=optimizers)
        self.collections[name] = Kept(
            engine.EdgeShard.create(str(folder), config),
            {
                "params": {"vectors": vectors},
                "hnsw_config": hnsw,
                "optimizer_config": body["optimizers_config"],
                "metadata": body.get("metadata"),
            },
        )

    def drop(self, name: str) -> None:
        found = self.collections.pop(name, None)
        self.aliases = {alias: target for alias, target in self.aliases.items() if target != name}
        if found is not None:
            with found.lock:
                found.shard.close()

    def kept(self, name: str) -> Kept:
        found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def points(self, name: str) -> list[dict[str, Any]]:
        """The payloads of all points of a collection."""
        kept = self.kept(name)
        with kept.lock:
            found, _ = kept.shard.scroll(engine.ScrollRequest(limit=1_000_000, with_payload=True))
        return [point.payload or {} for point in found]


class _Handler(BaseHTTPRequestHandler):
    owner: QdrantServer
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def _handle(self) -> None:
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        size = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(size)
        try:
            if self.owner.api_key is not None and self.headers.get("api-key") != self.owner.api_key:
                raise Refused(401, "Must provide an API key or an Authorization bearer token")
            if size > self.owner.max_body_bytes:
                raise Refused(413, f"JSON payload ({size} bytes) is larger than allowed")
            self.owner.requests.append((self.command, self.path))
            answer = self._answer(path, json.loads(data) if data else {})
            status, body = 200, {"result": answer, "status": "ok", "time": 0.0}
        except Refused as error:
            status, body = error.status, {"status": {"error": str(error)}, "time": 0.0}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            status, body = 400, {"status": {"error": f"Wrong input: {error!r}"}, "time": 0.0}
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def _answer(self, path: list[str], body: dict[str, Any]) -> Any:
        owner = self.owner
        match self.command, path:
            case "GET", ["aliases"]:
                found = owner.aliases.items()
                return {"aliases": [{"alias_name": alias, "collection_name": target} for alias, target in found]}
            case "GET", ["collections"]:
                return {"collections": [{"name": name} for name in owner.collections]}
            case "POST", ["collections", "aliases"]:
                with owner.lock:
                    return self._change_aliases(body["actions"])
            case "GET", ["collections", name]:
                return {"status": "green", "config": owner.kept(name).config}
            case "PUT", ["collections", name]:
                with owner.lock:
                    owner.make(name, body)
                return True
            case "PATCH", ["collections", name]:
                return self._change(owner.kept(name), body)
            case "DELETE", ["collections", name]:
                owner.kept(name)
                owner.drop(name)
                return True
            case _, ["collections", name, *action]:
                kept = owner.kept(name)
                with kept.lock:
                    return self._on_points(kept.shard, action, body)
        raise Refused(404, "no such path")

    def _change_aliases(self, actions: list[dict[str, Any]]) -> bool:
        for action in actions:
            if "delete_alias" in action:
                self.owner.aliases.pop(action["delete_alias"]["alias_name"], None)
            else:
                made = action["create_alias"]
                self.owner.kept(made["collection_name"])
                if made["alias_name"] in self.owner.collections:
                    raise Refused(409, f"Wrong input: Collection `{made['alias_name']}` already exists!")
                self.owner.aliases[made["alias_name"]] = made["collection_name"]
        return True

    def _change(self, kept: Kept, body: dict[str, Any]) -> bool:
        if "metadata" in body:
            kept.config["metadata"] = {**(kept.config["metadata"] or {}), **body["metadata"]}
        if "optimizers_config" in body:
            kept.config["optimizer_config"] = {**kept.config["optimizer_config"], **body["optimizers_config"]}
            with kept.lock:
                kept.shard.optimize()
        return True

    def _on_points(self, shard: engine.EdgeShard, action: list[str], body: dict[str, Any]) -> Any:
        match self.command, action:
            case "PUT", ["index"]:
                kind = _KINDS[body["field_schema"]]
                shard.update(engine.UpdateOperation.create_field_index(body["field_name"], kind))
            case "PUT", ["points"]:
                batch = body["batch"]
                rows = zip(batch["ids"], batch["vectors"], batch["payloads"], strict=True)
                points = [engine.Point(*row) for row in rows]
                condition = _filter(body["update_filter"]) if "update_filter" in body else None
                shard.update(engine.UpdateOperation.upsert_points(points, condition))
            case "POST", ["points", "count"]:
                return {"count": shard.count(engine.CountRequest(exact=body["exact"]))}
            case "POST", ["points", "delete"]:
                shard.update(engine.UpdateOperation.delete_points_by_filter(_filter(body["filter"])))
            case "POST", ["points", "scroll"]:
                found, following = shard.scroll(
                    engine.ScrollRequest(
                        offset=body.get("offset"), limit=body["limit"], with_payload=True, with_vector=True
                    )
                )
                page = [{"id": str(one.id), "payload": one.payload, "vector": one.vector} for one in found]
                return {"points": page, "next_page_offset": None if following is None else str(following)}
            case "POST", ["points", "query"]:
                request = engine.QueryRequest(
                    query=engine.Query.Nearest(body["query"]),
                    limit=body["limit"],
                    filter=_filter(body["filter"]) if body.get("filter") else None,
                    params=engine.SearchParams(hnsw_ef=body["params"]["hnsw_ef"]),
                    with_payload=True,
                    with_vector=body["with_vector"],
                )
                return {
                    "points": [
                        {"id": str(one.id), "score": one.score, "payload": one.payload, "vector": one.vector}
                        for one in shard.query(request)
                    ]
                }
            case _:
                raise Refused(404, "no such path")
        return {"status": "completed"}


def _filter(found: dict[str, Any]) -> engine.Filter:
    """A filter of the HTTP interface as one of the engine."""
    unknown = found.keys() - {"must", "should", "must_not"}
    if unknown:
        raise ValueError(f"unknown field `{unknown.pop()}`")
    kinds: dict[str, Any] = {kind: [_condition(one) for one in conditions] for kind, conditions in found.items()}
    return engine.Filter(**kinds)


def _condition(found: dict[str, Any]) -> Any:
    if "is_empty" in found:
        return engine.IsEmptyCondition(found["is_empty"]["key"])
    if "key" not in found:
        return _filter(found)
    if "range" in found:
        return engine.FieldCondition(
            key=found["key"], range=engine.RangeFloat(**{name: float(one) for name, one in found["range"].items()})
        )
    match found["match"]:
        case {"value": value}:
            return engine.FieldCondition(key=found["key"], match=engine.MatchValue(value))
        case {"any": values}:
            return engine.FieldCondition(key=found["key"], match=engine.MatchAny(values))
    raise ValueError(f"unknown match {found['match']}")
