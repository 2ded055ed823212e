"""The admin API: what is desired, what is served, and writing `serving.yaml`. It does nothing else; translates only.

curl -H "Authorization: Bearer $KEY" -X PUT 127.0.0.1:8001/admin/models/fashion-mnist -d '{"version": "1"}'
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from server.catalog import LATEST
from server.core import Core
from server.errors import InvalidRequest
from server.keys import Keys
from server.metrics import Observer
from server.middleware import RequestEnvelope
from server.reconcile import ModelState
from server.routing import answer_router_errors
from server.serving_file import Entry
from server.settings import Settings

Shape = TypeVar("Shape", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class IndexRequest(_Body):
    """What the open protocol asks of the index."""

    ready: bool = False
    """Only what is served."""


class LoadRequest(_Body):
    """What the open protocol asks of a load; configurations and files are never taken from a request."""

    parameters: dict[str, JsonValue] = {}


class UnloadParameters(_Body):
    """Models here depend on nothing, so both values mean the same."""

    unload_dependents: bool = False


class UnloadRequest(_Body):
    """What the open protocol asks of an unload."""

    parameters: UnloadParameters = UnloadParameters()


def create_admin_app(core: Core, settings: Settings, observer: Observer, keys: Keys) -> FastAPI:
    """Return the application of the admin port: every path of it, also one that is not there, wants the key."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(RequestEnvelope, settings=settings, observer=observer, keys=keys, open_paths=frozenset())
    answer_router_errors(app, "docs/models.md lists what the admin port answers")

    async def models() -> JSONResponse:
        """List what is desired and what is served."""
        states = [asdict(state) for state in core.states()]
        return JSONResponse({"models": states, "problems": list(core.problems())})

    async def want(request: Request) -> JSONResponse:
        """Write that a model is to be served, in a version."""
        entry = await _read(request, Entry)
        name = request.path_params["name"]
        await core.want(name, entry)
        return JSONResponse({"name": name, "version": entry.version}, status_code=202)

    async def unwant(request: Request) -> JSONResponse:
        """Write that a model is not to be served."""
        name = request.path_params["name"]
        await core.unwant(name)
        return JSONResponse({"name": name, "version": None}, status_code=202)

    async def index(request: Request) -> JSONResponse:
        """List all versions with their states, as the open protocol has it."""
        wanted = await _read(request, IndexRequest)
        rows = [row for state in core.states() for row in index_rows(state)]
        return JSONResponse([row for row in rows if row["state"] == "READY" or not wanted.ready])

    async def load(request: Request) -> JSONResponse:
        """Write that a model is to be served as before, or in its highest version; try again if that had failed."""
        if (await _read(request, LoadRequest)).parameters:
            raise InvalidRequest(
                "bad_parameters", "A load takes no parameters; write how a model is to be served to serving.yaml."
            )
        await core.want(request.path_params["name"], None)
        return JSONResponse({})

    async def unload(request: Request) -> JSONResponse:
        """Write that a model is not to be served."""
        await _read(request, UnloadRequest)
        await core.unwant(request.path_params["name"])
        return JSONResponse({})

    app.add_api_route("/admin/models", models, methods=["GET"])
    app.add_api_route("/admin/models/{name}", want, methods=["PUT"])
    app.add_api_route("/admin/models/{name}", unwant, methods=["DELETE"])
    app.add_api_route("/v2/repository/index", index, methods=["POST"])
    app.add_api_route("/v2/repository/models/{name}/load", load, methods=["POST"])
    app.add_api_route("/v2/repository/models/{name}/unload", unload, methods=["POST"])
    return app


def index_rows(state: ModelState) -> Iterator[dict[str, str]]:
    """One row of the open protocol's index for each version of a model; one without version where there is none."""
    newest = state.available[0] if state.available else ""
    desired = newest if state.desired == LATEST else state.desired
    states = {state.retiring: "UNLOADING", state.loading: "LOADING", state.live: "READY"}
    for version in dict.fromkeys((*state.available, desired, *states)):
        if version is not None:
            yield {
                "name": state.name,
                "version": version,
                "state": states.get(version, "UNAVAILABLE"),
                "reason": state.failure or "" if version == desired else "",
            }


async def _read(request: Request, shape: type[Shape]) -> Shape:
    """Read a body, which may be empty. Raises InvalidRequest naming what is wrong."""
    try:
        return shape.model_validate_json(await request.body() or b"{}", strict=True)
    except ValidationError as error:
        found: list[Any] = error.errors(include_url=False, include_context=False, include_input=False)[:5]
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))[:100] or 'the body'}: {e['msg'][:200]}" for e in found)
        raise InvalidRequest("bad_body", f"The body is not what this path takes: {problems}.") from error
