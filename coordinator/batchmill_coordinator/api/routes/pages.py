"""What a browser sees without a token: how to use the API, and the OpenAPI document. No data."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

router = APIRouter(include_in_schema=False)

HOW = (
    "This is a Batchmill coordinator. Its API needs a bearer token with every request:\n\n"
    "    curl -H 'Authorization: Bearer TOKEN' {base}v1/jobs\n\n"
    "{base}docs lists the routes, {base}openapi.json describes them for tools. "
    "The commands of `batchmill` read the token from BATCHMILL_TOKEN.\n"
)
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Batchmill API</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}td{{padding:.2rem 1rem .2rem 0;
vertical-align:top}}code,pre{{font:14px monospace}}</style></head><body><h1>Batchmill API</h1><pre>{how}</pre>
<table>{rows}</table></body></html>"""
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/")
async def home(request: Request) -> Response:
    """Explain how to send the token."""
    return PlainTextResponse(HOW.format(base=request.base_url), headers=_SAFE)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Give the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def docs(request: Request) -> Response:
    """List the routes, from the OpenAPI document."""
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(about.get('description', ''))}</td></tr>"
        for path, methods in request.app.openapi()["paths"].items()
        for method, about in methods.items()
    ]
    how = escape(HOW.format(base=request.base_url))
    return HTMLResponse(_PAGE.format(how=how, rows="\n".join(rows)), headers=_SAFE)
