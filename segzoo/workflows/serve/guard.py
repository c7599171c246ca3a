"""Checks of requests, security headers, request counts and answers to errors."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Literal
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segzoo.messages import did_you_mean
from segzoo.workflows.serve.metrics import Metrics
from segzoo.workflows.serve.service import QueueFull
from segzoo.workflows.serve.uploads import CLOSE

OPEN_PATHS = ("/", "/healthz", "/docs", "/openapi.json", "/static/")  # need no token: they hold nothing of the models
REPEATED = ("hide",)  # parameters that may be given more than once
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src 'self' blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware.

    Without a token, a service that listens on the loopback address answers only requests whose Host is one: otherwise a web page could
    reach it under a name of its own. Requests that pages of other sites send are rejected everywhere.

    Args:
        app: the application.
        metrics: counts every request.
        paths: the paths that are counted by name; all others are counted as ``other``.
        token: what clients have to send as ``Authorization: Bearer <token>``. None lets everyone in.
        loopback: whether only this machine can reach the service.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str], token: str | None, loopback: bool):
        self.app, self.metrics, self.paths, self.loopback = app, metrics, paths, loopback
        self.digest = None if token is None else _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or reject it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, path = time.perf_counter(), 500, scope["path"]

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            error = self._error(path, Headers(scope=scope))
            await (error or self.app)(scope, receive, send_guarded)
        finally:
            seconds = time.perf_counter() - start if path == "/predict" else None
            self.metrics.count_request(path if path in self.paths else "other", status, seconds)

    def _error(self, path: str, headers: Headers) -> JSONResponse | None:
        """Return the response that rejects a request, None for a valid one."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.loopback and self.digest is None and _address(f"//{host}", "hostname") not in LOOPBACK:
            return _rejection(421, f"This service answers to {', '.join(LOOPBACK)} only, not to {host[:80]!r}.")
        if origin is not None and _address(origin, "netloc") != host:
            return _rejection(403, f"Requests from pages of {origin[:80]!r} are not answered.")
        if self.digest is None or path in OPEN_PATHS or path.startswith("/static/"):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(token.strip()), self.digest):
            return None
        response = _rejection(401, "This service needs a token: send the header Authorization: Bearer <token>.")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def _rejection(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)


def _address(url: str, part: Literal["hostname", "netloc"]) -> str | None:
    try:
        return getattr(urlsplit(url), part)
    except ValueError:
        return None


def _digest(token: str) -> bytes:
    """Hash a token, so that the comparison does not tell its length."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


async def check_parameters(request: Request) -> None:
    """Reject parameters that the route does not have, and repeated ones.

    Those of GET are left alone: probes and links carry their own.
    """
    if request.method != "POST":
        return
    fields = {field.alias: field for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in fields:
            valid = f"Valid: {', '.join(fields)}." if fields else "There are none here."
            raise HTTPException(422, f"There is no parameter {name[:40]!r}.{did_you_mean(name, fields)} {valid}")
        if len(request.query_params.getlist(name)) > 1 and name not in REPEATED:
            raise HTTPException(422, f"The parameter {name!r} is given more than once.")


async def invalid_parameters(request: Request, error: Exception) -> JSONResponse:
    """Say in one sentence which parameters are invalid."""
    assert isinstance(error, RequestValidationError)
    reasons = [f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors()]
    return JSONResponse({"detail": f"{'; '.join(reasons)}. See /docs."}, 422)


async def queue_full(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QueueFull)
    headers = {"Retry-After": str(error.seconds)}
    return JSONResponse({"detail": f"The queue is full. Try again in {error.seconds} s."}, 429, headers)


async def draining_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The service is shutting down."}, 503, {"Retry-After": "10", **CLOSE})
