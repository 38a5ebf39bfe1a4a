"""Who may ask the server, and how much."""

import asyncio
import json

import pytest

from ondevice.serving.guard import HEADERS, Guard

HOST = ("host", "127.0.0.1:7860")


def ask(method="GET", headers=(HOST,), body=(b"",), names=(), limit=100):
    """(status, headers, body, what the application behind got) of a request."""
    got, sent = [], []

    async def behind(scope, receive, send):
        got.append((await receive())["body"] if method not in ("GET", "HEAD") else b"")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
        await send({"type": "http.response.body", "body": b"yes"})

    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts[-1]["more_body"] = False

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": "/", "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }  # fmt: skip
    asyncio.run(Guard(behind, names, limit)(scope, receive, send))
    start, *rest = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(part["body"] for part in rest), got


@pytest.mark.parametrize(
    "host, allowed",
    [
        ("127.0.0.1:7860", True),
        ("127.0.0.1", True),
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("[::1]:7860", True),
        ("192.168.1.7:7860", True),  # no name: no page can be called so
        ("box.lan:7860", True),
        ("evil.example", False),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example:7860", False),
        ("localhost.evil.example", False),
        ("127.0.0.1:7860@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_name_that_somebody_led_here_is_refused(host, allowed):
    status, _, body, got = ask(headers=[("host", host)], names=["Box.lan"])
    assert (status == 200) is allowed and bool(got) is allowed
    if not allowed:
        assert status == 403 and "the server is not called" in json.loads(body)["detail"]


SITES = [
    ([], 200),
    ([("origin", "http://127.0.0.1:7860")], 200),
    ([("origin", "http://127.0.0.1:8000")], 403),
    ([("origin", "https://127.0.0.1:7860")], 403),
    ([("origin", "http://evil.example")], 403),
    ([("origin", "null")], 403),
    ([("sec-fetch-site", "same-origin")], 200),
    ([("sec-fetch-site", "none")], 200),
    ([("sec-fetch-site", "cross-site")], 403),
    ([("sec-fetch-site", "same-site")], 403),  # another port of this machine
]


@pytest.mark.parametrize("headers, status", SITES)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_sites_pages_are_refused(method, headers, status):
    assert ask(method, [HOST, *headers])[0] == status


def test_a_link_of_another_site_may_be_followed():
    followed = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    assert ask("GET", [HOST, *followed])[0] == 200
    assert ask("POST", [HOST, *followed])[0] == 403  # a form that sends itself
    framed = [*followed[:2], ("sec-fetch-dest", "iframe")]
    assert ask("GET", [HOST, *framed])[0] == 403


JSON = ("content-type", "application/json; charset=utf-8")


def test_bodies_are_json_and_bounded():
    assert ask("POST", [HOST, JSON], [b"{", b"}"])[3] == [b"{}"]
    assert ask("POST", [HOST])[3] == [b""]
    status, _, body, got = ask("POST", [HOST, ("content-type", "text/plain")], [b"{}"])
    assert (status, got) == (415, []) and "only JSON is taken (got text/plain)" in json.loads(body)["detail"]
    assert ask("POST", [HOST], [b"{}"])[0] == 415
    for headers, parts in (([("content-length", "101")], [b""]), ([], [b"x" * 60, b"x" * 41])):
        status, _, body, got = ask("POST", [HOST, JSON, *headers], parts)
        assert (status, got) == (413, []) and "at most 100 bytes" in json.loads(body)["detail"]
    assert ask("POST", [HOST, JSON, ("content-length", "100")], [b"x" * 100])[0] == 200
    assert ask("POST", [HOST, JSON, ("content-length", "9" * 5000)], [b""])[0] == 413


def test_every_answer_says_what_a_page_may_do():
    for status, headers, _, _ in (ask(), ask(headers=[("host", "evil.example")])):
        assert status in (200, 403) and headers.items() >= HEADERS.items()
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
