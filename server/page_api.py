"""The page at `/`: plain files of the folder `page`, and one description of the models that it shows.

Open http://127.0.0.1:8000/ in a browser; `/#model=newsgroups&example=sci.space-5699` asks at once.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from runtime.manifest import ImagePreprocessing, Manifest, TextPreprocessing
from server.core import Core
from server.predict_api import model_reply
from server.settings import Settings

FOLDER = Path(__file__).parent / "page"
FILES = {
    "/": ("page.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/examples.json": ("examples.json", "application/json"),
}
"""Path -> file and its type. Nothing else of the folder is served."""
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a page must never be older than the server it talks to
}


def add_page(app: FastAPI, core: Core, settings: Settings) -> None:
    """Add the routes of the page to `app`."""
    notes: dict[str, list[str]] = json.loads((FOLDER / "notes.json").read_text(encoding="utf-8"))

    async def describe() -> JSONResponse:
        """Answer with what the page says of the models; 503 until they are warm."""
        models = [
            {**model_reply(card), "sees": _sees(card.manifest), "cannot": notes.get(card.manifest.name, [])}
            for card in core.describe()
        ]  # fmt: skip
        limits = {"max_body_bytes": settings.max_body_bytes}
        return JSONResponse({"version": version("neurotrails"), "models": models, "limits": limits}, headers=HEADERS)

    for path, (file, kind) in FILES.items():
        app.add_api_route(path, _sender((FOLDER / file).read_bytes(), kind), include_in_schema=False)
    app.add_api_route("/page/describe", describe, include_in_schema=False)


def _sender(content: bytes, kind: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send


def _sees(manifest: Manifest) -> dict[str, Any]:
    """What is left of an input when the model gets it."""
    match manifest.preprocessing:
        case ImagePreprocessing() as image:
            resized = {"width": image.width, "height": image.height, "shorter": image.resize_shorter}
            return {**resized, "grey": image.mode == "L"}
        case TextPreprocessing() as text:
            return {"tokens": text.lengths[-1]}
        case _:
            return {}
