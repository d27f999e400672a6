"""The web application: pages, samples, and the REST interface."""

import base64
import errno
import hashlib
import json
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from config import VERSION, PipelineError
from config.commandline import log
from predict.service.guard import HEADERS, Gate, Refusal, check_token, client_of, read_sound
from predict.service.listener import NO_ROOM, Listener, SoundError
from predict.service.shapes import Answer, Health, Problem, Sample, SpeciesFacts, Version
from preprocess.recordings import Recording
from preprocess.whole import whole_file

FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk
PAGES = Path(__file__).with_name("pages")
BODY_SECONDS = 20.0  # for sending a sound
WAIT_SECONDS = 60.0  # for its turn
RUNS_SECONDS = 30.0  # for which the page over the runs is kept
NO_CLEAR_BIRD = "no_clear_bird"
STATIC = {  # address -> file, type
    "/": ("listen.html", "text/html; charset=utf-8"),
    "/listen.css": ("listen.css", "text/css; charset=utf-8"),
    "/listen.js": ("listen.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SOUND = {"schema": {"type": "string", "format": "binary"}}
DETECT_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": SOUND,
        "audio/*": SOUND,
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": SOUND["schema"]}}
        },
    },
}
DETECT_REFUSALS = {
    400: "empty: no sound, or none in it",
    401: "token",
    413: "too_large or too_long",
    415: "not_audio: ffmpeg cannot read it",
    429: "too_many: of this client",
    503: "busy: too many sounds wait",
}


@dataclass(frozen=True)
class Example:
    """A recording that the page offers, with what its licence asks to say."""

    recording: Recording
    path: Path
    species: str


def links(scientific_name: str) -> dict[str, str]:
    """Return where to read on about a species; nothing for names that are no binomials."""
    if not re.fullmatch(r"[A-Z][a-z-]+ [a-z-]+( [a-z-]+)?", scientific_name):
        return {}
    return {
        "xeno-canto": f"https://xeno-canto.org/species/{quote('-'.join(scientific_name.split()[:2]))}",
        "eBird": f"https://ebird.org/explore?q={quote(scientific_name)}",
        "Wikipedia": f"https://en.wikipedia.org/wiki/{quote(scientific_name.replace(' ', '_'))}",
    }


def create_app(
    listener: Listener,
    gate: Gate,
    token: str = "",
    examples: Sequence[Example] = (),
    runs: Path | None = None,
    keep: Path | None = None,
    workers: int = 2,
    proxies: int = 0,
) -> FastAPI:
    """Return the application.

    Args:
        listener: a loaded run.
        gate: who may enter.
        token: that requests under /api/ and of /runs must carry; empty: none.
        examples: recordings that the page offers.
        runs: folder of runs that the second page shows; None: there is no such page.
        keep: folder that sounds and answers are kept in; None: they are forgotten.
        workers: sounds that are decoded at the same time.
        proxies: in front of the service, see `guard.client_of`.
    """
    app = FastAPI(
        title="Bird song classification",
        version=VERSION,
        description="Finds the species of birds in sounds. Errors are {error, detail} with the status of the reason.",
        docs_url=None,  # both want a network
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    turns, refreshing = anyio.Semaphore(workers), anyio.Lock()
    texts = {address: ((PAGES / name).read_bytes(), kind) for address, (name, kind) in STATIC.items()}
    overview: dict[str, Any] = {"until": -1.0}

    @app.middleware("http")
    async def protect(request: Request, go_on: Any) -> Response:
        try:
            if token and request.url.path.startswith(("/api/", "/runs")) and request.url.path != "/api/health":
                check_token(request, token)
            response = await go_on(request)
        except Refusal as refusal:
            response = refusal.answer()
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return refusal.answer()

    @app.exception_handler(HTTPException)
    async def no_such(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": "unknown", "detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def no_such_value(_: Request, error: RequestValidationError) -> JSONResponse:
        return Refusal("unknown", error.errors()[0]["msg"]).answer()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        words = {"error": "internal", "detail": "Something went wrong here; the log tells more."}
        return JSONResponse(words, 500, HEADERS)  # this one does not pass `protect`

    def serve(address: str) -> None:
        content, kind = texts[address]

        @app.api_route(address, methods=["GET", "HEAD"], include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=kind)

    for address in STATIC:
        serve(address)

    @app.get("/runs", include_in_schema=False)
    async def show_runs() -> Response:
        if runs is None:
            raise Refusal("unknown", "This service shows no runs.")
        from train.compareRuns import comparison  # here, as matplotlib takes 2 s that the start need not wait for

        async with refreshing:
            if time.monotonic() > overview["until"]:
                try:
                    overview["page"] = await anyio.to_thread.run_sync(comparison, [runs])
                except PipelineError as error:
                    raise Refusal("unknown", str(error)) from None
                overview["until"] = time.monotonic() + RUNS_SECONDS
        return Response(
            overview["page"],
            media_type="text/html; charset=utf-8",
            headers={"Content-Security-Policy": own_scripts(overview["page"])},
        )

    @app.get("/api/health")
    async def health() -> Health:
        """Tell that the network is loaded; needs no token."""
        return Health(status="ok", inside=gate.inside)

    @app.get("/api/version")
    async def version() -> Version:
        """Tell what listens, and what it takes."""
        return Version(
            version=VERSION,
            model=listener.facts.model,
            species=len(listener.species),
            recipe=json.loads(listener.facts.options),
            most_bytes=listener.limits.bytes,
            most_seconds=listener.limits.seconds,
            languages=sorted({code for names in listener.names for code in names}),
            keeps=keep is not None,
        )

    def facts_of(column: int) -> SpeciesFacts:
        kind, minimum = listener.species[column], float(listener.facts.minimum[column])
        return SpeciesFacts(
            class_id=kind.class_id,
            scientific_name=kind.scientific_name,
            vernacular_name=kind.vernacular_name,
            names=listener.names[column],
            order=kind.order,
            family=kind.family,
            minimum=minimum if minimum <= 1 else None,
            links=links(kind.scientific_name),
        )

    columns = {kind.class_id: column for column, kind in enumerate(listener.species)}

    @app.get("/api/species")
    async def list_species() -> list[SpeciesFacts]:
        """Return what is known of all species, in the order of the network's outputs."""
        return [facts_of(column) for column in range(len(columns))]

    @app.get("/api/species/{class_id:path}", responses={404: {"model": Problem}})
    async def one_species(class_id: str) -> SpeciesFacts:
        """Return what is known of one species."""
        if class_id not in columns:
            raise Refusal("unknown", f"The run knows no species {class_id[:100]!r}.")
        return facts_of(columns[class_id])

    @app.get("/api/samples")
    async def list_samples() -> list[Sample]:
        """Return recordings to try the service with."""
        return [
            Sample(
                name=example.recording.media_id,
                species=example.species,
                author=example.recording.author,
                licence=example.recording.licence,
                address=f"/api/samples/{number}",
            )
            for number, example in enumerate(examples)
        ]

    @app.get("/api/samples/{number}", responses={404: {"model": Problem}}, response_class=FileResponse)
    async def one_sample(number: int) -> FileResponse:
        """Return the sound of one of them."""
        if not 0 <= number < len(examples) or not examples[number].path.is_file():
            raise Refusal("unknown", "There is no such sample.")
        return FileResponse(examples[number].path)

    @app.post(
        "/api/detect",
        response_model=Answer,
        response_model_exclude_none=True,
        openapi_extra={"requestBody": DETECT_BODY},
        responses={status: {"model": Problem, "description": words} for status, words in DETECT_REFUSALS.items()},
    )
    async def detect(request: Request) -> dict[str, Any]:
        """Return the species that are heard in a sound: the body itself, or the part called file of a form."""
        client = client_of(request, proxies)
        gate.enter(client)
        try:
            with anyio.fail_after(BODY_SECONDS):
                sound = await read_sound(request, listener.limits.bytes)
            with anyio.fail_after(WAIT_SECONDS):
                await turns.acquire()
            try:
                found = await anyio.to_thread.run_sync(listener.listen, sound)
            finally:
                turns.release()
        except TimeoutError:
            raise Refusal("busy", "That took too long. Try again in a moment.") from None
        except ClientDisconnect:
            raise Refusal("empty", "The sound ended before it was whole.") from None
        except SoundError as error:
            raise Refusal(error.reason, error.detail) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise Refusal("busy", NO_ROOM) from None
        finally:
            gate.leave(client)
        for entry in (*found["detections"], *found["ranking"]):
            entry["names"] = listener.names[columns[entry["class_id"]]]
        found |= {"model": listener.facts.model, "version": VERSION}
        if not found["detections"]:
            found["reason"] = NO_CLEAR_BIRD
        if keep is not None:
            try:
                await anyio.to_thread.run_sync(store, keep, sound, found)
            except OSError as error:
                log(f"warning: a sound was not kept in {keep}: {error.strerror}")
        return found

    return app


def store(folder: Path, sound: bytes, answer: dict[str, Any]) -> None:
    """Keep a sound and its answer under a name that is made here."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:12]}"
    for ending, content in (
        (".sound", sound),
        (".json", json.dumps({key: value for key, value in answer.items() if key != "picture"}).encode()),
    ):
        with whole_file(folder / (name + ending)) as partial:
            partial.write_bytes(content)


def own_scripts(page: str) -> str:
    """Return the Content-Security-Policy of a page of ours that carries its script and its style inside."""
    digests = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    )
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
