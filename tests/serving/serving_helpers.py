"""A server in this process, its drawing thread beside it, and a client in few lines."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection

import numpy as np
from PIL import Image

from ondevice import serve
from ondevice.drawing import engine
from ondevice.serving.app import make_app
from ondevice.serving.desk import Desk
from ondevice.serving.events import News
from ondevice.serving.gallery import Gallery
from ondevice.serving.guard import Guard
from ondevice.serving.jobs import Jobs
from ondevice.serving.model import Served
from ondevice.serving.painter import Painter
from ondevice.serving.server import Server, listen


class Gated(Jobs):
    """A queue whose drawing thread waits, before it reports a step of `hold`, until `gate` is open."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gate, self.hold = threading.Event(), ()
        self.gate.set()

    def report(self, **fields):
        if fields.get("step") in self.hold:
            self.gate.wait(60)
        super().report(**fields)

    @contextmanager
    def held(self, *steps):
        """While the block runs, nothing is drawn beyond the step before these."""
        self.hold = steps
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()


class Client:
    """Asks the server; what it answers is (status, JSON or bytes)."""

    def __init__(self, port):
        self.port = port

    def __call__(self, method, path, body=None, **headers):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = None if body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(
            method, path, data, ({"Content-Type": "application/json"} if body is not None else {}) | named
        )
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.headers = dict(answer.getheaders())
        kind = answer.getheader("content-type") or ""
        return answer.status, json.loads(content) if kind.startswith("application/json") else content

    def state(self, name):
        """The row of a job."""
        return next(row for row in self("GET", "/api/jobs")[1]["jobs"] if row["id"] == name)

    def wait(self, name, *states):
        """The row of a job once it is in one of the states."""
        for _ in range(3000):
            row = self.state(name)
            if row["state"] in (states or ("done", "failed", "stopped")):
                return row
            time.sleep(0.01)
        raise AssertionError(row)


class Running:
    """The whole of `ondevice serve` but for its process."""

    def __init__(self, bundle, folder, *flags):
        import argparse

        parser = argparse.ArgumentParser()
        serve.add_arguments(parser)
        args = parser.parse_args([str(bundle), "--device", "cpu", *map(str, flags)])
        news = News()
        self.jobs = Gated(news.ring, most=3)
        draws = engine.engine_of(args)
        self.gallery = Gallery(folder)
        self.model = Served(draws.open(args.bundle), args.lora_dir)
        self.painter = Painter(draws.open(args.bundle), self.jobs, self.gallery)
        self.news, sock = news, listen("127.0.0.1", 0)
        self.app = make_app(Desk(self.model, self.jobs, self.gallery, news))
        self.server = Server(Guard(self.app), sock)
        self.ask = Client(sock.getsockname()[1])
        self.server.start()
        threading.Thread(target=self.painter.run, daemon=True).start()

    def stop(self):
        self.jobs.close()
        self.news.close()
        self.server.stop()


def encoded(pixels, kind="PNG"):
    """base64 of a picture's file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=kind)
    return base64.b64encode(out.getvalue()).decode()


def decoded(text):
    """(pixels, texts) of a picture in base64."""
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    return np.asarray(image), image.text
