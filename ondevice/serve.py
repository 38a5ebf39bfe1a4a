"""A page to try a bundle, and an HTTP API that AUTOMATIC1111's clients know, on this machine.

python -m ondevice.serve sd14.ondevice
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ondevice import cli
from ondevice.base.process import signals
from ondevice.drawing import engine, memory, say
from ondevice.errors import UsageError

HELP = "serve a page that draws, and an HTTP API"
PORT = 7860
GALLERY = Path("ondevice-pictures")
log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", type=Path, help="what `convert` or `pack` wrote")
    parser.add_argument("--port", type=int, default=PORT, help=f"to listen on; 0: any that is free (default {PORT})")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="to listen on (default 127.0.0.1, which only this machine reaches; there is no password)",
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        default=GALLERY,
        metavar="DIR",
        help=f"where pictures are kept, and read back from at the start (default ./{GALLERY})",
    )
    parser.add_argument(
        "--lora-dir", type=Path, metavar="DIR", help="LoRA files (.safetensors) that may be drawn with, by their names"
    )
    memory.add_arguments(parser)
    engine.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    if not 0 <= args.port < 1 << 16:
        raise UsageError(f"no such port (got {args.port}, expected 0 to 65535).", where="--port", fix=f"use {PORT}")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        what = f"the packages that serve are missing ({error.name})."
        raise UsageError(what, where="serve", fix="pip install 'ondevice[serve]'") from None
    from ondevice.serving.app import make_app
    from ondevice.serving.desk import Desk
    from ondevice.serving.events import News
    from ondevice.serving.gallery import Gallery
    from ondevice.serving.guard import Guard
    from ondevice.serving.jobs import Jobs
    from ondevice.serving.model import Served
    from ondevice.serving.painter import Painter
    from ondevice.serving.server import Server, address_of, is_loopback, listen, names_of

    draws = engine.engine_of(args)
    news = News()
    jobs, served = Jobs(news.ring), Served(draws.open(args.bundle), args.lora_dir)
    sock = listen(args.host, args.port)
    with sock:
        gallery = Gallery(args.gallery)  # no folder is made where nothing can be served
        painter = Painter(draws.open(args.bundle), jobs, gallery)
        if not is_loopback(args.host):
            log.warning(
                "--host %s: whoever reaches this machine can draw with it and see all pictures; there is no password",
                args.host,
            )
        server = Server(Guard(make_app(Desk(served, jobs, gallery, news)), names_of(args.host)), sock)
        server.start()
        try:
            print(address_of(sock), flush=True)
            say(f"pictures go to {gallery.folder}; Ctrl-C ends it")
            painter.run()
        finally:
            signals.cleaning()  # a second signal must not leave half of it
            if dropped := jobs.close():
                say(f"{dropped} {'picture was' if dropped == 1 else 'pictures were'} not drawn: the server ends")
            news.close()
            server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("serve"))
