"""Broken, huge, slow and wrong uploads, floods, and shutdown."""

from __future__ import annotations

import asyncio
import http.client
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs the extra dev")

from small_service import Client, GatedModel, decoded, encoded, pattern, small_model

from segzoo.registry import ConfigError
from segzoo.workflows.serve import server as server_module
from segzoo.workflows.serve import uploads
from segzoo.workflows.serve.address import bind
from segzoo.workflows.serve.server import make_server
from segzoo.workflows.serve.service import Limits, Service

LABELS: dict[str, Any] = {"method": "POST", "url": "/predict?output=labels"}


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def client(model):
    client = Client(model, max_mb=0.5, max_megapixels=0.25, max_queue=4)
    yield client
    client.service.close()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises a huge image of one color."""
    rows = zlib.compress(bytes(width + 1) * min(height, 2000), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    jpeg = encoded(pattern(0), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * 200 + jpeg[-2:]


PNG = encoded(pattern(0))
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("content", "headers", "status", "sentence"),
    [
        (b"", {}, 400, "has no body"),
        (PNG[:200], {}, 400, "damaged PNG"),
        (PNG[:80] + bytes([PNG[80] ^ 1]) + PNG[81:], {}, 400, "a checksum does not match"),
        (encoded(pattern(0), "JPEG")[:600], {}, 400, "is not a readable image"),
        (encoded(pattern(0), "JPEG")[:-200], {}, 400, "damaged JPEG"),
        (b"--x\r\nbroken", FORM, 400, "form"),
        (b"--x--\r\n", FORM, 400, "has no file"),
        (b'--x\r\nContent-Disposition: form-data; name="output"\r\n\r\nlabels\r\n--x--\r\n', FORM, 422, "'output' is not used"),
        (b"hello", {}, 415, "is text, not an image"),
        (b"%PDF-1.7", {}, 415, "is a PDF"),
        (b"GIF89a......", {}, 415, "is a GIF"),
        (PNG, {"Content-Type": "text/html"}, 415, "text/html is not an image"),
        (PNG, {"Content-Type": "application/json"}, 415, "application/json is not an image"),
        (encoded(pattern(0, 16, 16)), {}, 422, "at least 32 x 32"),
        (bytes(600_000), {}, 413, "exceeds the limit of 0.5 MB"),
        (encoded(np.zeros((600, 600), np.uint8)), {}, 413, "600x600 pixels (W x H) exceed the limit of 0.25 megapixels"),
        (bomb(30000, 4000), {}, 413, "too large"),
        (bomb(60000, 60000), {}, 413, "too large"),
        (many_scans(), {}, 413, "scans, more than 100"),
    ],
)
def test_wrong_uploads_get_their_status_and_a_sentence(client, monkeypatch, content, headers, status, sentence):
    if status == 413:
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    answer = client.post("/predict", content, headers=headers)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text
    assert client.service.in_progress == 0


def file_part(name: str, content: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n%s' % (name.encode(), content)


def test_a_form_that_breaks_off_is_rejected(client):
    body = file_part("a.png", PNG) + b"\r\n" + file_part("b.png", PNG[:300])
    answer = client.post("/predict", body, headers=FORM)
    assert answer.status_code == 400 and "The form ends early" in answer.json()["detail"], answer.text
    unnamed = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + bytes(5000) + b"\r\n--x--\r\n"
    answer = client.post("/predict", unnamed, headers=FORM)
    assert answer.status_code == 400 and "A file needs a filename" in answer.json()["detail"], answer.text


def test_the_damaged_image_of_a_form_is_named(client):
    answer = client.post("/predict", files=[("image", ("a.png", PNG)), ("image", ("bad.png", b"hello"))])
    assert answer.status_code == 415 and answer.json()["detail"].startswith("Image 2 ('bad.png'): The upload is text")


def test_a_form_of_too_many_pixels_is_rejected(client, monkeypatch):
    monkeypatch.setattr("segzoo.workflows.serve.service.LARGEST_IMAGES", 0)
    monkeypatch.setattr("segzoo.workflows.serve.service.LEAST_MEGAPIXELS", 0.02)
    answer = client.post("/predict", files=[("image", ("a.png", PNG))] * 4)
    assert answer.status_code == 413 and "0.02 megapixels are allowed" in answer.json()["detail"], answer.text
    assert client.post("/predict", PNG).status_code == 200 and client.service.pixels_in_progress == 0
    with client.service.hold_pixels(19_000):
        assert client.post("/predict", PNG).status_code == 429


def test_a_form_of_too_many_images_is_rejected(client):
    answer = client.post("/predict", files=[("image", ("a.png", PNG))] * 5)
    assert answer.status_code == 413 and "Maximum number of files is 4" in answer.json()["detail"]
    assert client.post("/predict", files=[("image", ("a.png", PNG))] * 4).status_code == 200


def test_a_body_of_unknown_length_is_counted(client):
    async def endless():
        while True:
            yield bytes(100_000)

    assert client.post("/predict", endless()).status_code == 413


def call(app, receive) -> int:
    """Send a request by hand, and return the status."""
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"", "headers": headers}
    asyncio.run(app(scope | {"http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send))
    return sent[0]["status"]


def test_a_slow_upload_ends(model):
    client = Client(model, timeout_s=0.01)

    async def silent():
        await asyncio.Event().wait()

    assert call(client.app, silent) == 408 and client.service.in_progress == 0
    client.service.close()


def test_an_upload_that_breaks_off_frees_its_place(model):
    client = Client(model)

    async def broken():
        return {"type": "http.disconnect"}

    assert call(client.app, broken) == 400 and client.service.in_progress == 0
    client.service.close()


def test_an_answer_that_takes_too_long_is_given_up(model):
    gated = GatedModel(model)
    client = Client(gated, timeout_s=0.05, batch_wait_ms=0)
    answers = client.gather(*[LABELS | {"content": PNG}] * 2)
    assert [answer.status_code for answer in answers] == [504, 504] and client.service.in_progress == 0
    gated.go.set()
    client.service.close()


def test_a_flood_is_rejected_and_then_answered_again(model):
    gated = GatedModel(model)
    client = Client(gated, max_queue=3)

    async def flood():
        import httpx2

        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=client.app), base_url="http://127.0.0.1", timeout=60
        ) as http_client:
            first = [asyncio.create_task(http_client.request(**LABELS, content=PNG)) for _ in range(3)]
            await asyncio.to_thread(gated.started.wait, 60)
            rest = await asyncio.gather(*(http_client.request(**LABELS, content=PNG) for _ in range(40)))
            gated.go.set()
            return await asyncio.gather(*first), rest

    answered, rejected = asyncio.run(flood())
    assert [answer.status_code for answer in answered] == [200] * 3
    assert {answer.status_code for answer in rejected} == {429}
    assert int(rejected[0].headers["retry-after"]) >= 1 and "queue is full" in rejected[0].json()["detail"]
    assert np.array_equal(decoded(client.post("/predict?output=labels", PNG).content), model.network.predict(pattern(0)).labels)
    client.service.close()


def test_an_error_of_the_network_is_not_the_end(model, monkeypatch):
    client = Client(model)
    monkeypatch.setattr(type(model), "predict", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the server logs it and answers with status 500
        client.post("/predict", PNG)
    monkeypatch.undo()
    assert client.post("/predict", PNG).status_code == 200 and client.service.in_progress == 0
    client.service.close()


def test_an_address_that_no_machine_has_is_named():
    with pytest.raises(ConfigError, match=r"host=nowhere.invalid is not the address of a machine: .*Set host=127.0.0.1"):
        bind(host="nowhere.invalid")
    with pytest.raises(ConfigError, match=r"host=192.0.2.1 port=80: .*Set another one"):  # an address of documentation alone
        bind(host="192.0.2.1", port=80)


@pytest.fixture
def served(model):
    """A server with sockets in a thread, and its gated model."""
    gated: Any = GatedModel(model)
    service, listener = Service({"default": gated}, Limits()), bind(port=0)
    server = make_server(service, listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield server, gated, listener.getsockname()[1], thread
    gated.go.set()
    server.should_exit = True
    thread.join(60)
    service.close()


def ask(port: int, method: str = "POST", url: str = "/predict?output=labels") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, url, PNG if method == "POST" else None)
    response = connection.getresponse()
    return response.status, response.read()


def test_a_signal_drains_the_service(served, model, capsys):
    server, gated, port, thread = served
    answers = []
    clients = [threading.Thread(target=lambda: answers.append(ask(port))) for _ in range(3)]
    for client in clients:
        client.start()
    assert gated.started.wait(60)
    while server.service.in_progress < 3:
        assert ask(port, "GET", "/healthz")[0] == 200
    server.handle_exit(15, None)
    assert ask(port)[0] == ask(port, "GET", "/healthz")[0] == 503
    gated.go.set()
    for client in [*clients, thread]:
        client.join(60)
    assert not thread.is_alive() and "SIGTERM: answering the 3 images in progress" in capsys.readouterr().out
    assert [status for status, _ in answers] == [200] * 3
    assert all(np.array_equal(decoded(content), model.network.predict(pattern(0)).labels) for _, content in answers)


def test_a_second_signal_ends_at_once(served):
    server, gated, port, thread = served
    answers = []
    client = threading.Thread(target=lambda: answers.append(ask(port)))
    client.start()
    assert gated.started.wait(60)
    server.handle_exit(15, None)
    server.handle_exit(15, None)
    for each in (thread, client):
        each.join(60)
    assert not thread.is_alive() and answers == [(503, b'{"detail":"The service was stopped."}')]


def test_silent_connections_are_closed(served, monkeypatch):
    _, gated, port, _ = served
    gated.go.set()
    assert ask(port)[0] == 200
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    connection.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127")  # the rest never comes
    assert connection.sock.recv(100) == b""


def test_the_limit_of_scans_spares_ordinary_images():
    assert uploads.decode_upload(encoded(pattern(0), "JPEG", progressive=True), 10**6).shape == (64, 96, 3)
