"""The page, and the HTTP API that it draws by. FastAPI makes /openapi.json of what is said here."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as HTTPError

from ondevice import __version__
from ondevice.errors import CheckpointError, OnDeviceError, PlanError, UsageError
from ondevice.serving import webui
from ondevice.serving.asked import Asked, job_of
from ondevice.serving.desk import REFUSALS, Desk, Refusal
from ondevice.serving.jobs import Job, error_json

log = logging.getLogger(__name__)
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/form.js": ("form.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}
"""The files of the page, by their addresses: nothing else of the package is given out."""

KINDS = {".png": "image/png", ".webp": "image/webp"}
"""What the gallery holds."""

ASKED_WRONG = (UsageError, PlanError, CheckpointError)  # what somebody else may ask for otherwise


class Accepted(BaseModel):
    """A job that was put in the queue."""

    id: str
    place: int = Field(description="in the queue, from 1 on; 0: it is drawn already")
    seed: int
    width: int
    height: int
    notes: list[str] = Field(default_factory=list, description="how much of each adapter is for this model")


def make_app(desk: Desk) -> FastAPI:
    """All routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.news.bind()
        yield

    app = FastAPI(
        title="ondevice serve",
        version=__version__,
        description="Draws pictures with one bundle, one at a time, in the order in which they were asked for.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_page(app)
    _add_errors(app)
    _add_jobs(app, desk)
    _add_gallery(app, desk)
    webui.add_routes(app, desk)
    return app


def _add_page(app: FastAPI) -> None:
    folder = files("ondevice.serving") / "page"

    def give(content: bytes, kind: str) -> Any:
        async def route() -> Response:
            return Response(content, media_type=kind)

        return route

    for address, (name, kind) in PAGE.items():
        route = give((folder / name).read_bytes(), kind)
        app.add_api_route(address, route, include_in_schema=False, response_class=Response)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(OnDeviceError)
    async def ours(_: Request, error: OnDeviceError) -> JSONResponse:
        return JSONResponse(error_json(error), 422 if isinstance(error, ASKED_WRONG) else 500)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        """The first thing that is wrong with the JSON, as one of ours."""
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        what = f"{first['msg']}."
        if first["type"] == "json_invalid":
            place, what = "", "it is not JSON."
        return JSONResponse(error_json(UsageError(what, where=place[:100] or "the request")), 422)

    @app.exception_handler(HTTPError)
    async def refused(_: Request, error: HTTPError) -> JSONResponse:
        content = {"error": "Refused", "detail": str(error.detail)}
        return JSONResponse(content, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        what = f"an error of ondevice's own ({type(error).__name__})."
        return JSONResponse(error_json(OnDeviceError(what, where="serve", fix="report it")), 500)


def _add_jobs(app: FastAPI, desk: Desk) -> None:
    def known(name: str) -> Job:
        if (job := desk.jobs.find(name)) is None:
            raise HTTPException(404, "no such job.")
        return job

    @app.get("/api/model", tags=["page"])
    def model() -> dict[str, Any]:
        """What the model takes: sizes, samplers, defaults, pictures, adapters."""
        return desk.model.facts()

    @app.post("/api/jobs", tags=["page"], status_code=202, response_model=Accepted, responses=REFUSALS)
    def ask(asked: Asked) -> Accepted:
        """Ask for pictures. They are drawn after what was asked for before, and put in the gallery."""
        job = job_of(asked, desk.model)
        assert job.request is not None, "it is not over"
        seed, notes = job.request.seed, job.notes()
        return Accepted(id=job.id, place=desk.put(job), seed=seed, width=job.size[0], height=job.size[1], notes=notes)

    @app.get("/api/jobs", tags=["page"])
    async def jobs() -> dict[str, Any]:
        """The jobs that are over (the last of them), the one that is drawn, and those that wait."""
        return desk.jobs.state()

    @app.delete("/api/jobs/{name}", tags=["page"], responses={404: {"model": Refusal}})
    async def stop(name: str) -> dict[str, Any]:
        """Take a job out of the queue, or end the one that is drawn after its step."""
        known(name)
        return {"stopped": desk.jobs.stop(name)}

    @app.get("/api/jobs/{name}/preview", tags=["page"], response_class=Response, responses={404: {"model": Refusal}})
    async def preview(name: str) -> Response:
        """What the picture that is drawn looks like so far: a PNG file."""
        if (data := known(name).preview) is None:
            raise HTTPException(404, "there is no preview of it.")
        return Response(data, media_type="image/png")

    @app.get("/api/events", tags=["page"], response_class=StreamingResponse)
    async def events() -> StreamingResponse:
        """Server-sent events: what `/api/jobs` gives, whenever it changed."""
        if desk.news.full():
            raise HTTPException(503, "as many pages listen as may listen.")
        return StreamingResponse(desk.news.stream(desk.jobs.state), media_type="text/event-stream")


def _add_gallery(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/gallery", tags=["page"])
    def gallery(count: int = Query(default=24, ge=1, le=200), before: str | None = None) -> dict[str, Any]:
        """Pictures that were drawn, the newest first; `before`: those that are older than the one of that name."""
        return {"pictures": [entry.to_json() for entry in desk.gallery.page(count, before)]}

    @app.get("/api/gallery/{name}", tags=["page"], response_class=FileResponse, responses={404: {"model": Refusal}})
    def picture(name: str) -> FileResponse:
        """A picture's file, with what it was drawn with inside."""
        if (path := desk.gallery.find(name)) is None:
            raise HTTPException(404, "no such picture.")
        return FileResponse(path, media_type=KINDS[path.suffix])
