"""Answers, access and pages of the service."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs the extra dev")

from predictions import predict_source
from small_service import INFO, Client, GatedModel, decoded, encoded, pattern, small_model

from segzoo.data.datasets.labelme import LabelMeShapes
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.inference.threshold import with_threshold
from segzoo.workflows.serve.answers import accepted_output
from segzoo.workflows.serve.models import ServedModel

STATIC = Path(__file__).parents[2] / "segzoo/workflows/serve/static"


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def client(model):
    client = Client(model, small_model("other", seed=1))
    yield client
    client.service.close()


def test_labels_are_the_files_of_predict(client, model, tmp_path):
    turned = Image.Exif()
    turned[274] = 6
    files = {
        "a.png": encoded(pattern(0)),
        "b.jpg": encoded(pattern(1, 72, 80), "JPEG", exif=turned),
        "c.png": encoded(pattern(2)[..., 0]),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    predict_source(model.network, INFO, tmp_path / "out", tmp_path, confidence="max")
    for name, content in files.items():
        answer = client.post("/predict?output=labels", content)
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        assert answer.content == (tmp_path / "out/labels" / f"{name[0]}.png").read_bytes()
        confidence = client.post("/predict?output=confidence", content)
        assert confidence.content == (tmp_path / "out/confidence" / f"{name[0]}.png").read_bytes()
        overlay = client.post("/predict?output=overlay", content)
        assert np.array_equal(decoded(overlay.content), decoded((tmp_path / "out/overlays" / f"{name[0]}.png").read_bytes()))


@pytest.mark.integration
def test_no_request_is_lost_or_mixed_up(client, model):
    images = [pattern(seed, 64, (64, 96)[seed % 2]) for seed in range(48)]
    requests = [{"method": "POST", "url": "/predict?output=labels", "content": encoded(image)} for image in images]
    before = sum(client.service.metrics.batch.counts[1:])
    answers = [answer for start in range(0, 48, 16) for answer in client.gather(*requests[start : start + 16])]
    assert len({image.tobytes() for image in images}) == 48
    for image, answer in zip(images, answers, strict=True):
        assert np.array_equal(decoded(answer.content), model.network.predict(image).labels)
    assert sum(client.service.metrics.batch.counts[1:]) > before, "some went together"
    assert client.service.in_progress == 0


def test_areas_and_regions_of_a_form_keep_its_order(client, model):
    images = [pattern(seed, 64, 64 + 8 * seed) for seed in range(3)]
    files = [("image", (name, encoded(image))) for name, image in zip(("../../b.png", "a.png", "a.png"), images, strict=True)]
    answer = client.post("/predict", files=files)
    document = answer.json()
    assert document["model"] == "default" and [image["width"] for image in document["images"]] == [64, 72, 80]
    for described, image in zip(document["images"], images, strict=True):
        prediction = model.network.predict(image)
        assert {name: area["pixels"] for name, area in described["areas"].items()} == {
            name: area.pixels for name, area in prediction.areas.items()
        }
        assert [region["box"] for region in described["regions"]] == [list(region.box) for region in prediction.regions]
        assert described["ms"].keys() == {"waited", "network", "batch"}
    archive = zipfile.ZipFile(io.BytesIO(client.post("/predict?output=labels", files=files).content))
    assert archive.namelist() == ["0000.png", "0001.png", "0002.png"]
    assert all(
        np.array_equal(decoded(archive.read(name)), model.network.predict(image).labels)
        for name, image in zip(archive.namelist(), images, strict=True)
    )


def test_the_page_gets_ids_and_confidence_of_each_pixel(client, model):
    image = pattern(5)
    [described] = client.post("/predict?output=all", encoded(image)).json()["images"]
    ids, confidence = (
        np.frombuffer(zlib.decompress(base64.b64decode(described[key])), np.uint8).reshape(64, 96)
        for key in ("labels", "confidence")
    )
    prediction = model.network.predict(image, probabilities=True)
    assert np.array_equal(ids, prediction.labels)
    expected = prediction.probabilities.max(0)
    assert np.abs(confidence / 255 - expected).max() <= 0.5 / 255 + 1e-6
    assert described["mean_confidence"] == pytest.approx(expected.mean(), abs=0.003)
    largest = np.bincount(ids.flat).argmax()
    area = described["areas"][model.info.classes[largest]]
    assert area["confidence"] == pytest.approx(expected[ids == largest].mean(), abs=0.003)
    gray = client.post("/predict?output=confidence", encoded(image))
    assert np.array_equal(decoded(gray.content), confidence)


def test_a_model_without_probabilities_has_no_confidence(model):
    class LabelsOnly(GatedModel):
        has_probabilities = False

    labels_only = LabelsOnly(model)
    labels_only.go.set()
    client = Client(labels_only)
    [described] = client.post("/predict?output=all", encoded(pattern(0))).json()["images"]
    assert described["confidence"] is None and "confidence" not in described["areas"]["bolt"]
    answer = client.post("/predict?output=confidence", encoded(pattern(0)))
    assert answer.status_code == 422 and "output=both" in answer.json()["detail"]
    client.service.close()


def test_polygons_and_corrections_are_labels_to_train_from(client, model, tmp_path):
    reader = LabelMeShapes(INFO.classes, {}, 2.0)
    image = pattern(6)
    labels = model.network.predict(image).labels.copy()
    labels[10:30, 20:50] = 2
    labels[15:20, 25:45] = 0
    query = "/labelme?width=96&height=64&name=C:%5Cx%5Cpart.png"
    answer = client.post(query, labels.tobytes(), headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 200 and answer.json()["imagePath"] == "part.png"
    (tmp_path / "part.json").write_bytes(answer.content)
    assert np.array_equal(reader(tmp_path / "part.json", (64, 96)), labels)
    files = {"image": ("..\\x/part.png", encoded(image))}
    record = client.post("/predict?output=polygons&tolerance=0", files=files).json()
    assert record["imagePath"] == "part.png" and record["imageData"] is None
    (tmp_path / "part.json").write_text(json.dumps(record))
    assert np.array_equal(reader(tmp_path / "part.json", (64, 96)), model.network.predict(image).labels)
    for address, body, status in [
        (query, b"123", 400),
        (query.replace("64", "9999999"), b"", 422),
        (query, bytes([7]) * 96 * 64, 422),
    ]:
        assert client.post(address, body, headers={"Content-Type": "application/octet-stream"}).status_code == status


@pytest.mark.parametrize(
    ("accept", "output"),
    [
        ("", "areas"),
        ("*/*", "areas"),
        ("image/png", "labels"),
        ("application/json;q=0.5, image/*", "labels"),
        ("text/html, application/json;q=0.9", "areas"),
        ("image/png;q=\u00b2, application/json;q=0.1", "areas"),
    ],
)
def test_the_accept_header_chooses_the_answer(accept, output):
    assert accepted_output(accept) == output


def test_an_accept_header_that_fits_nothing_is_rejected(client):
    answer = client.post("/predict", encoded(pattern(0)), headers={"Accept": "text/html, image/png;q=0"})
    assert answer.status_code == 406 and "?output=" in answer.json()["detail"]
    assert client.post("/predict", encoded(pattern(0)), headers={"Accept": "image/png"}).headers["content-type"] == "image/png"


def test_models_are_chosen_by_name(client):
    labels = [client.post(f"/predict?output=labels&model={name}", encoded(pattern(7))).content for name in ("default", "other")]
    assert labels[0] != labels[1] and labels[0] == client.post("/predict?output=labels", encoded(pattern(7))).content
    answer = client.post("/predict?model=othr", encoded(pattern(7)))
    assert answer.status_code == 404 and "'other'" in answer.json()["detail"]
    document = client.get("/models").json()
    assert [model["name"] for model in document["models"]] == ["default", "other"]
    assert document["models"][0]["classes"][1] == {"name": "bolt", "color": [200, 0, 0]}


def test_parameters_are_checked_in_one_sentence(client):
    answer = client.post("/predict?alpha=2&output=x", encoded(pattern(0)))
    assert answer.status_code == 422 and re.match(r"output: .*; alpha: .*\. See /docs\.", answer.json()["detail"])
    answer = client.post("/predict?output=overlay&hide=bold", encoded(pattern(0)))
    assert answer.status_code == 422 and "Classes: background, bolt" in answer.json()["detail"]
    for query, message in (
        ("?threshold=0.3", "There is no parameter 'threshold'. Valid: output, model, "),
        ("?Output=labels", "There is no parameter 'Output'. Did you mean 'output'?"),
        ("?output=labels&output=areas", "The parameter 'output' is given more than once."),
    ):
        answer = client.post(f"/predict{query}", encoded(pattern(0)))
        assert answer.status_code == 422 and message in answer.json()["detail"], answer.text
    assert client.get("/healthz?probe=1").status_code == 200
    assert client.post("/predict?output=overlay&hide=bolt&hide=background", encoded(pattern(0))).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/metrics"])
def test_pages_answer_head_requests(client, path):
    (answer,) = client.gather({"method": "HEAD", "url": path})
    assert answer.status_code == 200 and answer.content == b""


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/static/page.js", "/healthz", "/models", "/metrics", "/nowhere"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_other_hosts_and_other_sites_are_rejected(client):
    """Otherwise DNS rebinding lets a web page use the service."""
    assert client.gather({"method": "GET", "url": "/healthz"}, host="http://evil.example:8000")[0].status_code == 421
    assert client.gather({"method": "GET", "url": "/healthz"}, host="http://[::1]:8000")[0].status_code == 200
    for origin, status in [("http://evil.example", 403), ("null", 403), ("http://[", 403), ("http://127.0.0.1:8000", 200)]:
        assert client.post("/predict", encoded(pattern(0)), headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize("asked", [None, {"bolt": 0.4}])
def test_no_threshold_is_none_even_if_a_file_records_one(asked):
    class Exported:  # which takes the recorded threshold unless it is told
        def predict(self, images, *, threshold, **settings):
            given.append(threshold)
            return []

    given: list[dict | None] = []
    protocol = with_threshold(SINGLE_PASS, INFO, threshold=asked)
    ServedModel("default", "tiny", Exported(), protocol).predict([pattern(0)], False)  # type: ignore[arg-type]
    assert given == [None if asked else {}]


def test_a_token_is_asked_for(model):
    token = "a-long-token-of-letters"
    client = Client(model, token=token, loopback=False)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {token}"}, {"Authorization": b"Bearer \xe9"}):
        answer = client.post("/predict", encoded(pattern(0)), headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/metrics").status_code == client.get("/models").status_code == 401
    assert client.get("/").status_code == client.get("/healthz").status_code == client.get("/static/page.js").status_code == 200
    assert client.post("/predict", encoded(pattern(0)), headers={"Authorization": f"Bearer {token}"}).status_code == 200
    client.service.close()


def test_a_proxy_with_the_token_may_pass_its_own_host(model):
    client = Client(model, token="a-long-token-of-letters", loopback=True)
    request = {"method": "GET", "url": "/models", "headers": {"Authorization": "Bearer a-long-token-of-letters"}}
    assert client.gather(request, host="http://line4.example:8000")[0].status_code == 200
    assert client.gather(request | {"headers": {}}, host="http://line4.example:8000")[0].status_code == 401
    client.service.close()


def test_metrics_are_in_the_format_of_prometheus(model):
    client = Client(model)
    client.post("/predict", encoded(pattern(0)))
    client.post("/predict", b"no image")
    client.get("/secret-path")
    lines = client.get("/metrics").text.splitlines()
    sample = r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+'
    assert all(re.fullmatch(rf"# (HELP|TYPE) \w+ .+|{sample}", line) for line in lines), lines
    for expected in (
        'segzoo_requests_total{path="/predict",status="200"} 1',
        'segzoo_requests_total{path="/predict",status="415"} 1',
        'segzoo_requests_total{path="other",status="404"} 1',
        'segzoo_images_total{model="default"} 1',
        'segzoo_batch_images_bucket{le="1"} 1',
        'segzoo_batch_images_bucket{le="+Inf"} 1',
        "segzoo_request_seconds_count 2",
        "segzoo_images_in_progress 0",
    ):
        assert expected in lines
    client.service.close()


def test_the_page_of_the_api_lists_every_route(client):
    schema, page = client.get("/openapi.json").json(), client.get("/docs").text
    assert schema["paths"].keys() == {"/predict", "/labelme", "/healthz", "/models", "/metrics"}
    for path, methods in schema["paths"].items():
        assert f"{path}</h2>" in page
        for route in methods.values():
            assert all(f"<code>{parameter['name']}</code>" in page for parameter in route.get("parameters", ()))
    assert {"429", "413", "415", "504", "503"} <= schema["paths"]["/predict"]["post"]["responses"].keys()


def test_the_pages_load_nothing_from_a_network(client):
    texts = [path.read_text(encoding="utf-8") for path in STATIC.iterdir()] + [client.get("/docs").text]
    found = {address for text in texts for address in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<]*", text)}
    assert found <= {"//127.0.0.1:8000/predict?output=labels", "//127.0.0.1:8000/predict?output=areas"} | {
        f"http://127.0.0.1:8000/predict?output={output}" for output in ("labels", "areas")
    }
    html = client.get("/").text
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]+src=)", html), "the policy would block it"
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', html):
        assert client.get(name).status_code == 200
