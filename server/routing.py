"""Answers what no route takes, unknown paths and wrong methods, with the server's own errors."""

from typing import Never

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from server.errors import MethodNotAllowed, NotFound


def answer_router_errors(app: FastAPI, hint: str) -> None:
    """Turn the errors of the router of `app` into ours; `hint` says where to find what there is."""

    async def answer(request: Request, error: Exception) -> Never:
        assert isinstance(error, HTTPException)
        path = request.url.path[:200]
        if error.status_code == 405:
            allowed = sorted(_methods_of(request))
            raise MethodNotAllowed(
                "method_not_allowed",
                f"{path} does not take {request.method[:20]}; use {' or '.join(allowed)}.",
                {"allow": ", ".join(allowed)},
            ) from error
        if error.status_code == 404:
            raise NotFound("not_found", f"There is no {path}; {hint}.") from error
        raise error

    app.add_exception_handler(HTTPException, answer)


def _methods_of(request: Request) -> set[str]:
    """All methods that the path of a request takes: the router itself knows only those of the first route."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found
