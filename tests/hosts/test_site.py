"""The gate before the standalone app: names, pages of other sites, sizes, and what an answer may lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from lib_lycoris.hosts.site import LOOPBACK, SiteGuard, is_own_page, name_of

HOST = "127.0.0.1:7870"
PAGE = (
    '<html><head><link rel="preconnect" href="https://fonts.example" /><link rel="preconnect" href="//other.example" crossorigin="x"/>'
    '<script src="https://cdn.example/x.js" async></script><script type="module" src="./assets/a.js"></script></head>'
    '<body><a href="https://arxiv.org">paper</a><script>x = "</b>"</script><img src="/file=a.png"></body></html>'
)


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    @app.get("/go")
    def go(to: str) -> RedirectResponse:
        return RedirectResponse(to)

    @app.post("/upload")
    @app.post("/take")
    async def take(request: Request) -> int:
        return len(await request.body())

    @app.post("/silent")
    async def silent(request: Request) -> Response:
        async for _ in request.stream():
            pass
        raise RuntimeError

    @app.get("/file={path:path}")
    def file(path: str) -> str:
        return path

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]), media_type="text/event-stream")

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    @app.websocket("/waits")
    async def waits(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_json()

    return app


@pytest.fixture
def client() -> TestClient:
    return TestClient(SiteGuard(application(), largest=1000, largest_file=3000), base_url=f"http://{HOST}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200), ({"host": "localhost"}, 200), ({"host": "[::1]:7870"}, 200), ({"host": "LOCALHOST:1"}, 200),
        ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example:7870"}, 403), ({"host": ""}, 403), ({"host": "["}, 403),
        ({"host": "evil@127.0.0.1"}, 403), ({"host": "127.0.0.1:x"}, 403), ({"host": "localhost/x"}, 403), ({"host": "ſ"}, 403),
        ({"origin": f"http://{HOST}"}, 200), ({"origin": "null"}, 403), ({"origin": "http://127.0.0.1:9999"}, 403), ({"origin": ""}, 403),
        ({"origin": "http://["}, 403), ({"origin": f"file://{HOST}"}, 403), ({"origin": "http://localhost:7870"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200), ({"sec-fetch-site": "same-site"}, 403), ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"content-length": "x"}, 400), ({"content-length": "9" * 5000}, 413),
    ],
)  # fmt: skip
def test_only_this_machine_and_its_own_pages_are_let_in(client: TestClient, headers: dict[str, str], status: int) -> None:
    encoded = {name: value.encode("utf-8") for name, value in headers.items()}
    answer = client.get("/", headers=encoded)
    assert answer.status_code == status, answer.text
    assert "access-control-allow-origin" not in answer.headers


def test_two_hosts_are_none(client: TestClient) -> None:
    assert client.get("/", headers=[("host", HOST), ("host", "evil.example")]).status_code in (400, 403)
    assert client.get("/", headers=[("origin", f"http://{HOST}"), ("origin", "http://evil.example")]).status_code in (400, 403)


def test_another_name_can_be_allowed() -> None:
    client = TestClient(SiteGuard(application(), (*LOOPBACK, "Studio.example")), base_url="https://studio.example")
    assert client.get("/", headers={"origin": "https://studio.example"}).status_code == 200
    assert client.get("/", headers={"origin": "https://other.example"}).status_code == 403


def test_a_page_loads_nothing_from_another_host(client: TestClient) -> None:
    answer = client.get("/")
    assert "fonts.example" not in answer.text and "cdn.example" not in answer.text and "other.example" not in answer.text
    for kept in ('src="./assets/a.js"', 'href="https://arxiv.org"', 'x = "</b>"', 'src="/file=a.png"', "</head>", "</html>"):
        assert kept in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert client.get("/stream").text == "ab"


@pytest.mark.parametrize(
    ("to", "status"),
    [
        ("/x", 307),
        (f"http://{HOST}/x", 307),
        ("https://evil.example", 404),
        ("//evil.example", 404),
        ("http://[", 404),
    ],
)
def test_nobody_is_sent_to_another_host(client: TestClient, to: str, status: int) -> None:
    answer = client.get("/go", params={"to": to}, follow_redirects=False)
    assert answer.status_code == status and (status == 307 or "location" not in answer.headers)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/file=a/b.png", 200), ("/file=C:/a.png", 200), ("/file=https://evil.example", 404), ("/file=%20https:x", 404),
        ("/file=" + "a" * 256, 404), ("/" + "é" * 128, 404),
        ("/file=//evil.example", 404), ("/file=%5C%5Cevil", 404), ("/proxy=https://x.hf.space", 404),
    ],
)  # fmt: skip
def test_addresses_are_no_files(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_large_bodies_are_refused_before_they_are_read(client: TestClient) -> None:
    read = []

    def pieces() -> Any:
        for _ in range(50):
            read.append(1)
            yield b"x" * 100

    assert client.post("/take", content=b"x" * 1000).json() == 1000
    assert client.post("/take", content=b"x" * 1001).status_code == 413
    assert client.post("/take", content=pieces()).status_code == 413  # of no announced length
    assert client.post("/silent", content=pieces()).status_code == 413
    assert client.post("/upload", content=b"x" * 3000).json() == 3000  # files may be larger than what pages say
    assert client.post("/upload", content=b"x" * 3001).status_code == client.post("/upload", content=pieces()).status_code == 413


def test_sockets_are_held_to_the_same(client: TestClient) -> None:
    ours = {"host": HOST, "origin": f"http://{HOST}"}
    with client.websocket_connect("/ws", headers=ours) as socket:
        assert socket.receive_text() == "hello"
    for headers in ({"origin": "null"}, {"origin": "http://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers={**ours, **headers}):
            pass


def test_a_page_that_is_closed_is_no_error(client: TestClient) -> None:
    headers = {"host": HOST, "origin": f"http://{HOST}"}
    with pytest.raises(WebSocketDisconnect), TestClient(application()).websocket_connect("/waits"):
        pass
    with client.websocket_connect("/waits", headers=headers):
        pass


def test_errors_of_the_application_are_not_hidden() -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        TestClient(SiteGuard(broken), base_url=f"http://{HOST}").get("/")


@pytest.mark.parametrize("path", ["/queue/join", "/run/predict", "/call/x", "/upload", "/file=a"])
def test_what_gradios_routes_make_of_requests_of_no_page_is_a_sentence(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def odd(*_: Any) -> None:
        raise IndexError("no such function")

    found = TestClient(SiteGuard(odd), base_url=f"http://{HOST}").post(path)
    assert (found.status_code, found.text) == (422, "the pages of this app send no such request")
    assert f"{path} was sent what no page of the app sends: IndexError: no such function" in caplog.text


def test_errors_behind_an_answer_are_not_hidden_by_a_large_body() -> None:
    async def broken(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        TestClient(SiteGuard(broken, largest=10), base_url=f"http://{HOST}").post("/", content=iter([b"x" * 20]))


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (name_of, "a.example:80", "a.example"), (name_of, "[::1]:80", "::1"), (name_of, "a:99999999", None), (name_of, "a?b", None),
        (name_of, "", None),
        (lambda origin: is_own_page(origin, "A.example:80"), "http://a.example:80", True),
        (lambda origin: is_own_page(origin, "a.example:80"), "http://a.example", False),
    ],
)  # fmt: skip
def test_names_and_origins(check: Callable[[str], Any], value: str, expected: Any) -> None:
    assert check(value) == expected
