#!/usr/bin/env python3
"""A web page and a REST service that listen to birds with a trained run.

python predict/serveModel.py                                     # the last run, on http://127.0.0.1:8000
python predict/serveModel.py --run runs/demo-residual --port 9000 --seconds 60 --names names.csv
BIRDSONG_TOKEN=open-sesame python predict/serveModel.py --host 0.0.0.0   # asks for Authorization: Bearer open-sesame
curl --data-binary @bird.mp3 http://127.0.0.1:8000/api/detect
curl --form file=@bird.mp3 http://127.0.0.1:8000/api/detect

The page works on phones and offline: upload, drag and drop, microphone, detections drawn on a spectrogram. /runs
compares the trained runs. /api/openapi.json describes the interface: /api/detect, /api/species, /api/species/ID,
/api/samples, /api/health, /api/version. Errors are {"error": REASON, "detail": WORDS}: 400 empty, 401 token, 404
unknown, 413 too_large or too_long, 415 not_audio, 429 too_many (of one client), 503 busy (of all). "reason":
"no_clear_bird" says that nothing was detected. A sound is deleted with its answer, unless --keep names a folder.

Names in several languages: a CSV with a column class_id or scientific_name, and one per language (de, fr, pt-BR),
as --names or as names.csv in the run. ffmpeg opens what is given. docs/deployment.md tells how to put this on a server.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import os
import shutil
import socket
import time
from pathlib import Path

from config import LARGEST, PipelineError
from config.commandline import job_count, log, run
from predict.scores import find_run
from preprocess.manifest import read_description
from preprocess.metadata import read_truth
from preprocess.recordings import Recording, read_table
from train.run import Run

MOST_EXAMPLES = 6
KEEP_ALIVE_SECONDS = 10
MOST_CONNECTIONS = 500
SHORTEST_TOKEN = 8


def find_examples(target: Run, count: int) -> list:
    """Return up to `count` test recordings of a run's corpus, each of another species, as far as they are there."""
    from predict.service.app import Example

    corpus = target.read_config().corpus_dir
    if not (corpus / "recordings.csv").exists():
        return []
    root = Path(read_description(corpus).get("root", ""))
    truth = read_truth(corpus / "truth.csv") if (corpus / "truth.csv").exists() else {}
    names = {kind.class_id: kind.vernacular_name or kind.scientific_name for kind in target.read_species()}
    examples: dict[str, Example] = {}
    for row in read_table(corpus / "recordings.csv", Recording):
        if len(examples) == count:
            break
        species = row.class_id or truth.get(row.media_id, ("",))[0]
        if row.part == "test" and species not in examples and (root / row.file).is_file():
            examples[species] = Example(row, root / row.file, names.get(species) or species or row.media_id)
    return list(examples.values())


def listen_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        PipelineError: if the address is taken or not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(MOST_CONNECTIONS)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"{host}:{port} cannot be listened on: {reason}. Choose another --port.") from None
    return listening


def main() -> None:
    """Serve a page and a REST interface that find the species of birds in sounds."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run directory (default: the last one of runs/)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1, this machine only)")
    port = os.environ.get("PORT", "8000")
    parser.add_argument("--port", type=int, default=port, help="(default: $PORT or 8000; 0: a free one)")
    parser.add_argument("--seconds", type=float, default=120, help="longest sound (default: 120)")
    parser.add_argument("--megabytes", type=float, default=30, help="largest file (default: 30)")
    parser.add_argument("--queue", type=int, default=64, help="sounds that may wait; then 503 (default: 64)")
    parser.add_argument("--per-minute", type=int, default=120, help="sounds of one client; then 429 (default: 120)")
    parser.add_argument("--proxies", type=int, default=0, help="that append to X-Forwarded-For in front (default: 0)")
    parser.add_argument("--names", type=Path, help="CSV of names (default: names.csv of the run)")
    parser.add_argument("--samples", type=int, default=MOST_EXAMPLES, help="recordings to try, of the run's corpus")
    parser.add_argument("--runs", type=Path, help="folder of the runs that /runs compares (default: that of the run)")
    parser.add_argument("--keep", type=Path, help="folder to keep sounds and answers in (default: they are deleted)")
    parser.add_argument("--jobs", type=job_count, default="0", help="sounds decoded at once (default: one per core)")
    args = parser.parse_args()
    for name in ("seconds", "megabytes", "queue", "per_minute"):
        if not 0 < getattr(args, name) < LARGEST:
            parser.error(f"--{name.replace('_', '-')} is a number of more than 0")
    if args.proxies < 0:
        parser.error("--proxies is a number of at least 0")
    started = time.monotonic()
    token = os.environ.get("BIRDSONG_TOKEN", "")
    if token and len(token) < SHORTEST_TOKEN:
        raise PipelineError(f"BIRDSONG_TOKEN has fewer than {SHORTEST_TOKEN} characters. Choose a longer one.")
    if not (token.isascii() and token.isprintable()):
        raise PipelineError(
            "BIRDSONG_TOKEN holds what no header can: choose one of letters, digits and signs of ASCII."
        )
    for program in ("ffmpeg", "sox"):
        if not shutil.which(program):
            raise PipelineError(f"{program} is missing. Install it: apt-get install {program}")
    try:
        import uvicorn

        from predict.service.app import create_app
    except ImportError as error:
        raise PipelineError(f"The service needs {error.name}: pip install fastapi uvicorn python-multipart") from None
    from predict.service.guard import Gate
    from predict.service.listener import Limits, Listener

    target = find_run(args.run)
    listening = listen_on(args.host, args.port)
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    own_names = target.folder / "names.csv"
    names = args.names or (own_names if own_names.exists() else None)
    listener = Listener(target, Limits(int(args.megabytes * 1e6), args.seconds), names)
    examples = find_examples(target, args.samples)
    gate, runs = Gate(args.queue, args.per_minute), args.runs or target.folder.resolve().parent
    app = create_app(listener, gate, token, examples, runs, args.keep, args.jobs, args.proxies)
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log(f"{target.folder.name} listens on {address} after {time.monotonic() - started:.1f} s; end it with Ctrl+C")
    if args.host not in ("127.0.0.1", "localhost", "::1") and not token:
        log("warning: other machines can reach this service, and it asks for no token (BIRDSONG_TOKEN)")
    settings = uvicorn.Config(
        app,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=MOST_CONNECTIONS,
        server_header=False,
    )
    uvicorn.Server(settings).run(sockets=[listening])
    log("the service has ended")


if __name__ == "__main__":
    run(main)
