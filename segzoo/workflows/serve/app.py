"""HTTP routes of the service."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from importlib.resources import files
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from segzoo.messages import did_you_mean
from segzoo.reporting.html import render_template
from segzoo.types import PlainDict
from segzoo.workflows.serve.answers import PNG, ZIP, Options, Output, accepted_output, encode
from segzoo.workflows.serve.corrections import correction_record, read_correction
from segzoo.workflows.serve.guard import Guard, check_parameters, draining_error, invalid_parameters, queue_full
from segzoo.workflows.serve.models import ServedModel
from segzoo.workflows.serve.service import Draining, QueueFull, Service
from segzoo.workflows.serve.uploads import Upload, decode_upload, read_uploads

STATIC = str(files("segzoo.workflows.serve") / "static")
BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
    },
}
STATUSES: dict[int | str, PlainDict] = {
    200: {"content": {PNG: {}, "application/json": {}, ZIP: {}}, "description": "One image: the file. Several: a zip, or one JSON."},
    400: {"description": "The image is damaged, or there is none."},
    401: {"description": "The token is missing or wrong."},
    404: {"description": "There is no such model."},
    406: {"description": "The Accept header fits none of the answers."},
    408: {"description": "The upload was too slow."},
    413: {"description": "Too many bytes, pixels or images."},
    415: {"description": "The upload is not an image of a known format."},
    422: {"description": "The image is too small for the model, or a parameter is not valid."},
    429: {"description": "The queue is full. Retry-After says when to try again."},
    503: {"description": "The service is shutting down."},
    504: {"description": "The answer took too long."},
}  # fmt: skip
TOLERANCE = Query(ge=0, le=100, description="How far a polygon may lie from the outline of its region, in pixels. 0 is exact.")
ModelName = Annotated[str | None, Query(description="Name of the model; the first one by default.")]


def create_app(service: Service, *, token: str | None = None, loopback: bool = True) -> FastAPI:
    """Create the application.

    Args:
        service: the models and their queue.
        token, loopback: see ``Guard``.
    """
    checks = [Depends(check_parameters)]
    app = FastAPI(
        title="segzoo", description="Semantic segmentation of images.", docs_url=None, redoc_url=None, dependencies=checks
    )
    app.add_exception_handler(RequestValidationError, invalid_parameters)
    app.add_exception_handler(QueueFull, queue_full)
    app.add_exception_handler(Draining, draining_error)
    _add_predict(app, service)
    _add_labelme(app, service)
    _add_status(app, service)
    _add_pages(app)
    for route in [route for route in app.routes if isinstance(route, APIRoute) and "GET" in (route.methods or ())]:
        app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)  # load balancers ask so
    app.mount("/static", StaticFiles(directory=STATIC))
    paths = frozenset(app.openapi()["paths"]) | {"/", "/docs"}
    app.add_middleware(Guard, metrics=service.metrics, paths=paths, token=token, loopback=loopback)  # type: ignore[arg-type]
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    limits = service.limits
    max_bytes = int(limits.max_mb * 1e6)

    @app.post("/predict", responses=STATUSES, openapi_extra={"requestBody": BODY}, response_class=Response)
    async def predict(
        request: Request,
        output: Annotated[
            Output | None,
            Query(description="What to return. By default, what the Accept header says: PNG for labels, JSON for areas."),
        ] = None,
        model: ModelName = None,
        alpha: Annotated[float, Query(ge=0, le=1, description="Opacity of the class colors in the overlay.")] = 0.5,
        hide: Annotated[
            list[str] | None, Query(description="Classes that stay clear in the overlay. The background by default.")
        ] = None,
        tolerance: Annotated[float, TOLERANCE] = 1.0,
    ) -> Response:
        """Segment the image in the body, or the images of a form.

        ``labels``: PNG of class ids in the colors of the classes, as ``tools/predict.py`` writes it; ``overlay``: PNG with a legend;
        ``confidence``: gray PNG of the highest class probability; ``polygons``: LabelMe JSON; ``areas``: JSON with pixels and regions of
        each class; ``all``: the same with the class ids and confidence of each pixel.
        """
        served = _find_model(service, model)
        wanted = output or accepted_output(request.headers.get("accept", ""))
        options = Options(alpha, None if hide is None else _known_classes(served, hide), tolerance)
        if wanted == "confidence" and not served.has_probabilities:
            raise HTTPException(
                422, f"The model {served.name!r} returns labels only. Export it with output=both for its confidence."
            )
        try:
            with service.admit():
                uploads = await read_uploads(request, max_bytes=max_bytes, max_images=limits.max_queue, seconds=limits.timeout_s)
                with service.admit_more(len(uploads) - 1):
                    async with asyncio.timeout(limits.timeout_s):
                        return await _answer(service, served, uploads, wanted, options)
        except TimeoutError:
            raise _too_slow(limits.timeout_s) from None
        except asyncio.CancelledError:  # by a second signal
            raise HTTPException(503, "The service was stopped.") from None


async def _answer(service: Service, served: ServedModel, uploads: list[Upload], output: Output, options: Options) -> Response:
    """Decode, label and encode the images of a request."""
    max_pixels, images, total = int(service.limits.max_megapixels * 1e6), [], 0
    with ExitStack() as held:
        for number, upload in enumerate(uploads, 1):
            try:
                image = await service.in_thread(decode_upload, upload.data, max_pixels, served.info.pixels)
            except HTTPException as error:
                if len(uploads) > 1:
                    error.detail = f"Image {number} ({upload.name[:80]!r}): {error.detail}"
                raise
            pixels = image.shape[0] * image.shape[1]
            images.append(image)
            total += pixels
            if total > service.max_pixels_in_progress:
                limit = f"{service.max_pixels_in_progress / 1e6:g} megapixels"
                raise HTTPException(
                    413, f"The first {len(images)} images have {total / 1e6:.1f} megapixels, and {limit} are allowed."
                )
            held.enter_context(service.hold_pixels(pixels))
        try:
            results = await service.predict(served, images, output in ("all", "confidence") and served.has_probabilities)
        except ValueError as error:  # an image is too small for the model
            raise HTTPException(422, str(error)) from None
        names = [upload.name or f"{number:04}.png" for number, upload in enumerate(uploads)]
        answer = await service.in_thread(encode, results, names, output, served.name, options)
    return Response(answer.content, media_type=answer.media_type)


def _add_labelme(app: FastAPI, service: Service) -> None:
    limits = service.limits
    body = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    statuses: dict[int | str, PlainDict] = {key: STATUSES[key] for key in (400, 401, 404, 408, 413, 422, 429, 503, 504)}

    @app.post("/labelme", responses=statuses, openapi_extra={"requestBody": body}, response_description="LabelMe JSON.")
    async def labelme(
        request: Request,
        width: Annotated[int, Query(ge=1, le=65535)],
        height: Annotated[int, Query(ge=1, le=65535)],
        name: Annotated[str, Query(max_length=255, description="File name of the image, for imagePath in the JSON.")],
        model: ModelName = None,
        tolerance: Annotated[float, TOLERANCE] = 0.0,
    ) -> JSONResponse:
        """Turn corrected labels into LabelMe JSON, to train from.

        The body is the class id of each pixel, row by row, as bytes; above 255 classes two bytes, the lower first.
        """
        served = _find_model(service, model)
        with service.admit():
            labels = await read_correction(request, (height, width), served.info, service.limits)
            try:
                async with asyncio.timeout(limits.timeout_s):
                    return JSONResponse(await service.in_thread(correction_record, labels, served.info, name, tolerance))
            except TimeoutError:
                raise _too_slow(limits.timeout_s) from None


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", responses={503: STATUSES[503]}, response_description="The service takes images.")
    async def healthz() -> JSONResponse:
        """Say whether the service takes images."""
        return JSONResponse({"status": "draining" if service.draining else "ok"}, 503 if service.draining else 200)

    @app.get("/models", responses={401: STATUSES[401]}, response_description="The models and the limits.")
    async def models() -> PlainDict:
        """List the models with their classes, and the limits of requests."""
        limits = {"mb": service.limits.max_mb, "megapixels": service.limits.max_megapixels, "images": service.limits.max_queue}
        return {"models": [served.describe() for served in service.models.values()], "limits": limits}

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: STATUSES[401]}, response_description="The counters.")
    async def metrics() -> PlainTextResponse:
        """Counters in the text format of Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        """Page of the API, without files from a network."""
        return HTMLResponse(
            render_template("service_api.html", schema=app.openapi(), address=str(request.base_url), values=_allowed_values)
        )

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """Page that segments and corrects images."""
        return FileResponse(f"{STATIC}/index.html")


def _allowed_values(schema: PlainDict) -> str:
    """Describe the values of a parameter of OpenAPI."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    words = []
    for option in options:
        bounds = f" {option['minimum']} to {option['maximum']}" if {"minimum", "maximum"} <= option.keys() else ""
        words.append(", ".join(option.get("enum", [])) or option["type"] + bounds)
    return " or ".join(words)


def _find_model(service: Service, name: str | None) -> ServedModel:
    """Find a model by name, the default for None."""
    if name is None:
        return service.default_model
    if name not in service.models:
        hint = did_you_mean(name, service.models)
        raise HTTPException(404, f"There is no model {name[:40]!r}.{hint} Models: {', '.join(service.models)}.")
    return service.models[name]


def _too_slow(seconds: float) -> HTTPException:
    return HTTPException(504, f"The answer took more than {seconds:g} seconds.")


def _known_classes(served: ServedModel, names: list[str]) -> tuple[str, ...]:
    """Check the names of hidden classes."""
    for name in names:
        if name and name not in served.info.classes:
            raise HTTPException(422, f"hide: there is no class {name[:40]!r}. Classes: {', '.join(served.info.classes)}.")
    return tuple(name for name in names if name)  # ?hide= hides nothing
