"""Requests and answers of the server: those of ``predict``, clear errors, and limits."""

import asyncio
import base64
import hashlib
import io
import re
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx, of the extra test, is not installed")

from detection import predict
from detection.categories import Categories
from detection.models.thresholds import Thresholds
from detection.serve.app import PATHS, picture_of
from tests.support.detectors import make_tiny
from tests.support.serving import encoded, in_parts, served


@pytest.fixture(scope="module")
def model():
    detector = make_tiny("frozen").eval()
    detector.categories, detector.test_size = Categories(("cat", "dog", "a, b"), (3, 9, 11)), (64, 96)
    return detector


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def server(model):
    with served(model, bytes=100_000, pixels=10_000) as server:
        yield server


def test_the_answer_is_that_of_predict(server, model, pixels):
    found = server.predict(encoded(pixels))
    expected = predict(model, pixels, score_threshold=0.0).to_dict()
    assert len(found["detections"]) == 10
    assert found["detections"] == expected["detections"]
    assert (found["height"], found["width"]) == (50, 80)
    assert found["detections"][0]["mask"]["size"] == [50, 80]
    assert 0 < found["milliseconds"]["model"] <= found["milliseconds"]["total"] < 60_000
    assert found.keys() == {"height", "width", "detections", "milliseconds"}


@pytest.mark.parametrize("format", [".jpg", ".webp", ".bmp", ".tiff"])
def test_formats_are_those_of_the_toolkits_reader(server, pixels, format):
    assert server.predict(encoded(pixels, format))["width"] == 80


def test_the_image_is_turned_as_its_exif_says(server, pixels):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "jpeg", exif=exif)
    found = server.predict(file.getvalue())
    assert (found["height"], found["width"]) == (80, 50)


def test_a_query_selects_by_score_and_class(server, pixels):
    body = encoded(pixels)
    everything = server.predict(body)["detections"]
    middle = everything[4]["score"] - 1e-5  # the answers are rounded
    assert server.predict(body, f"?score={middle}")["detections"] == everything[:5]
    for name in ("cat", "a, b"):
        some = server.predict(body, f"?classes={name}")["detections"]
        assert some == [one for one in everything if one["name"] == name]
    both = server.predict(body, "?classes=cat,dog")["detections"]
    assert both == [one for one in everything if one["name"] in ("cat", "dog")]


def test_requests_of_one_batch_keep_their_own_scores(model, pixels):
    body = encoded(pixels)

    async def all_of(server):
        return await asyncio.gather(*(server.send("POST", f"/predict?score={score}", body) for score in scores))

    with served(model, batch=4, wait=5.0) as server:
        everything = server.detecting.run([server.detecting.decode(_asked(body))])[0].prediction.scores
        scores = [0.0, *(float(everything[k]) for k in (2, 5)), 1.0]
        answers = asyncio.run(all_of(server))
    assert server.batches == [4]
    assert [len(one.json()["detections"]) for one in answers] == [10, 3, 6, 0]


def _asked(data):
    from detection.serve.messages import Asked

    return Asked(data, 0.0)


def test_thresholds_and_calibration_of_the_model(model, pixels):
    plain = predict(model, pixels, score_threshold=0.0)
    limit = float(plain.scores[3])
    model.thresholds = Thresholds("best-f1", (limit,) * 3, (0.0,) * 3, (1.0,) * 3, 10, temperature=2.0)
    try:
        expected = predict(model, pixels, score_threshold="model").to_dict()["detections"]
        with served(model, score="model") as server:
            found = server.predict(encoded(pixels))["detections"]
            assert found == expected
            assert len(found) == 4
            least = server.service.about["classes"][0]["score"]
            assert least == pytest.approx(found[-1]["score"], abs=1e-4)
            more = server.predict(encoded(pixels), f"?score={expected[1]['score'] - 1e-5}")["detections"]
            assert more == expected[:2]
    finally:
        model.thresholds = None


@pytest.mark.parametrize(
    ("path", "accept", "media"),
    [
        ("/predict", "image/png", "image/png"),
        ("/predict", "image/jpeg, */*", "image/jpeg"),
        ("/picture", "*/*", "image/jpeg"),
        ("/picture", "image/png", "image/png"),
    ],
)
def test_a_drawn_image(server, model, pixels, path, accept, media):
    answer = server.request("POST", path, encoded(pixels), headers={"Accept": accept})
    assert answer.headers["content-type"] == media
    seen = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = predict(model, pixels, score_threshold=0.0).plot()
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).mean() < (0.01 if media == "image/png" else 10)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", None), ("*/*", None), ("application/json, image/png", None), ("text/html,Image/PNG;q=0.9", ".png")],
)
def test_the_format_that_a_client_accepts(accept, expected):
    assert picture_of(accept) == expected


def jpeg(pixels):
    return encoded(pixels, ".jpg")


def bomb(side):
    """A PNG of a few bytes that claims a huge image."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        ("/predict", lambda _: b"", 422, "the body is empty; send the bytes of an image"),
        ("/predict", lambda _: b"hello", 415, "no image of a known format"),
        ("/predict", lambda x: jpeg(x)[:-300], 422, "the JPEG is cut short"),
        ("/predict", lambda x: encoded(x)[:-300], 422, "the PNG is cut short"),
        ("/predict", lambda _: bytes(100_001), 413, "the body has more than 100000 bytes"),
        ("/predict", lambda _: bomb(10_000), 413, "the image claims 10000 x 10000 pixels, more than 10000"),
        ("/predict?score=2", jpeg, 422, "score=2: input should be less than or equal to 1"),
        ("/predict?score=nan", jpeg, 422, "score=nan: input should be"),
        ("/predict?score=high", jpeg, 422, "score=high: input should be a valid number"),
        ("/predict?classes=cta", jpeg, 422, "classes: the model has no class cta; did you mean cat?"),
        ("/other", jpeg, 404, "no such page; the server has /, /predict"),
        ("/model", jpeg, 405, "wrong method"),
    ],
)
def test_an_error_is_one_line_of_json(server, pixels, path, body, status, expected):
    answer = server.request("POST", path, body(pixels))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    assert expected in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_form_gets_the_right_line_of_curl(server):
    answer = server.request("POST", "/predict", files={"image": b"x"})
    assert (answer.status_code, "curl --data-binary" in answer.json()["error"]) == (415, True)


def test_bytes_count_while_they_come_without_a_length(server):
    seen = []
    answer = server.request("POST", "/predict", in_parts(bytes(1_000_000), 10_000, seen=seen))
    assert answer.status_code == 413
    assert "content-length" not in answer.request.headers
    assert sum(seen) >= 100_000


def test_a_damaged_image_that_can_be_read_has_a_warning(server, pixels):
    data = bytearray(jpeg(np.tile(pixels, (2, 1, 1))))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    answer = server.request("POST", "/predict", bytes(data))
    assert answer.status_code == 200
    assert "is damaged" in answer.json()["warning"]


class Held:
    """A detector that waits for permission."""

    def __init__(self):
        self.go, self.entered, self.images = threading.Event(), threading.Event(), 0

    def __call__(self, run, batch):
        self.entered.set()
        assert self.go.wait(30)
        self.images += len(batch)
        return run(batch)


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()


def test_a_full_queue_is_a_503_that_says_when_to_come_again(model, pixels, held):
    body = encoded(pixels)

    async def act(server):
        waiting = [asyncio.create_task(server.send("POST", "/predict", body)) for _ in range(3)]
        while server.service.batcher.has_room():
            await asyncio.sleep(0.001)
        rejected, ready = await server.send("POST", "/predict", body), await server.send("GET", "/ready")
        metrics = await server.send("GET", "/metrics")
        held.go.set()
        return rejected, ready, metrics, await asyncio.gather(*waiting)

    with served(model, held, most=3, batch=1) as server:
        rejected, ready, metrics, others = asyncio.run(act(server))
        assert server.request("GET", "/ready").status_code == 200
    assert (rejected.status_code, ready.status_code) == (503, 503)
    assert rejected.json() == {"error": "the queue is full; try again later"}
    assert 1 <= int(rejected.headers["retry-after"]) <= 60
    assert "\nrcnn_queue_length 3\n" in metrics.text
    assert [one.status_code for one in others] == [200] * 3


def test_bodies_share_their_memory(model, pixels):
    with served(model, most=2, bytes=1000) as server, server.service._room.holding() as other:
        other.add(1500)
        answer = server.request("POST", "/predict", bytes(800))
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert server.service._room.held == 1500
    assert server.service._room.held == 0


def test_an_answer_that_takes_too_long_is_a_504_and_is_not_computed(model, pixels, held):
    async def act(server):
        return await asyncio.gather(*(server.send("POST", "/predict", encoded(pixels)) for _ in range(3)))

    with served(model, held, seconds=0.3, batch=1) as server:
        answers = asyncio.run(act(server))
        assert len(server.service.batcher) <= 1
        held.go.set()
    assert [one.status_code for one in answers] == [504] * 3
    assert answers[0].json()["error"].startswith("no answer after 0.3 s")
    assert held.images == 1


def test_a_slow_body_is_a_408(model, pixels):
    with served(model, seconds=0.2) as server:
        answer = server.request("POST", "/predict", in_parts(encoded(pixels), 100, pause=0.05))
    assert (answer.status_code, "did not arrive in 0.2 s" in answer.json()["error"]) == (408, True)


def test_nothing_is_computed_for_a_client_that_has_left(model, pixels, held):
    body, sent = encoded(pixels), []

    async def act(server, leaves):
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            while not leaves.is_set():
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"content-length", str(len(body)).encode())]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
        scope |= {"http_version": "1.1", "raw_path": b"/predict", "root_path": "", "scheme": "http"}
        await server.app(scope | {"client": None, "server": None, "asgi": {"version": "3.0"}}, receive, send)

    async def both(server):
        first_leaves, second_leaves = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(act(server, first_leaves))
        while not held.entered.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.create_task(act(server, second_leaves))
        while len(server.service.batcher) < 2:
            await asyncio.sleep(0.001)
        second_leaves.set()
        await second
        assert len(server.service.batcher) == 1
        held.go.set()
        await first

    with served(model, held, batch=1) as server:
        asyncio.run(both(server))
        metrics = server.request("GET", "/metrics").text
    assert held.images == 1
    assert 'rcnn_requests_total{path="/predict",status="499"} 1' in metrics
    assert 'rcnn_requests_total{path="/predict",status="200"} 1' in metrics


def test_a_failing_detector_is_a_500_without_details_and_the_server_lives(model, pixels, capsys):
    def run(real, batch):
        if any(one.pixels.max() == 0 for one in batch):
            raise RuntimeError("secret place /home/me")
        return real(batch)

    with served(model, run) as server:
        answer = server.request("POST", "/predict", encoded(np.zeros((20, 20, 3), np.uint8)))
        assert (answer.status_code, answer.json()) == (500, {"error": "the server failed; its log says where"})
        assert server.predict(encoded(pixels))["detections"]
    assert "secret place" in capsys.readouterr().err


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_every_response_has_the_headers(server, path):
    for method in ("GET", "POST"):
        headers = server.request(method, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]


def test_the_page_allows_only_its_own_script_and_style(server):
    answer = server.request("GET", "/")
    policy = answer.headers["content-security-policy"]
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"(?s)<{tag}>(.*?)</{tag}>", answer.text)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
        assert len(content) > 1000
    assert "http" not in re.sub(r"(?s)<script>.*?</script>", "", answer.text)
    assert not re.search(r"https?://|import\(|eval\(|innerHTML", answer.text)
    assert not re.search(r"\son\w+=|style=", re.sub(r"(?s)<script>.*?</script>", "", answer.text))
    for label in re.findall(r'<label for="(\w+)"', answer.text):
        assert f'id="{label}"' in answer.text


def test_only_the_addresses_of_this_machine_are_answered(model):
    with served(model, hosts={"localhost", "127.0.0.1", "[::1]"}) as server:
        for host, status in (
            *(("127.0.0.1:8000", 200), ("localhost", 200), ("[::1]:8000", 200), ("[::1]", 200)),
            *(("evil.example", 421), ("evil.example:8000", 421), ("127.0.0.1.evil.example", 421)),
        ):
            assert server.request("GET", "/model", headers={"Host": host}).status_code == status, host


def test_pages_of_other_sites_need_permission(model, pixels):
    crosses = {"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}
    with served(model) as server:
        answer = server.request("POST", "/predict", encoded(pixels), headers=crosses)
        assert (answer.status_code, "--allow-origin" in answer.json()["error"]) == (403, True)
    with served(model, origins=["https://a.example"]) as server:
        answer = server.request("POST", "/predict", encoded(pixels), headers=crosses)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = server.request("POST", "/predict", encoded(pixels), headers=crosses | {"Origin": "https://b.example"})
        assert other.status_code == 403


def test_the_model_is_described_without_a_path(server):
    about = server.request("GET", "/model").json()
    assert (about["model"], about["kind"], about["size"]) == ("a", "Mask R-CNN", [64, 96])
    assert [(one["name"], one["id"], one["score"]) for one in about["classes"]] == [
        ("cat", 3, 0.0),
        ("dog", 9, 0.0),
        ("a, b", 11, 0.0),
    ]
    assert about["limits"] == {"bytes": 100_000, "pixels": 10_000, "seconds": 30.0}
    assert server.request("GET", "/health").json() == {"status": "ok"}


def test_the_metrics_are_in_the_format_of_prometheus(model, pixels):
    with served(model, batch=1) as server:
        for body in (encoded(pixels), encoded(pixels), b"nothing"):
            server.request("POST", "/predict", body)
        answer = server.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]+"(,[a-z]+="[^"]+")*\})? \d+(\.\d+)?', line), line
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    assert values['rcnn_requests_total{path="/predict",status="200"}'] == 2
    assert values['rcnn_requests_total{path="/predict",status="415"}'] == 1
    assert (values["rcnn_batch_size_count"], values["rcnn_batch_size_sum"]) == (2, 2)
    assert values["rcnn_request_seconds_count"] == values['rcnn_request_seconds_bucket{le="+Inf"}'] == 3
    buckets = [value for name, value in values.items() if name.startswith("rcnn_request_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert values["rcnn_queue_length"] == 0


def test_bfloat16_is_used_where_it_is_asked_for(model, pixels):
    from detection.serve.detecting import Detecting

    seen = []
    hook = model.backbone.register_forward_hook(lambda *given: seen.append(given[2][0].dtype))
    try:
        for bf16 in (False, True):
            Detecting(model, dict.fromkeys(model.categories.names, 0.5), bf16=bf16).warm_up()
    finally:
        hook.remove()
    assert seen == [torch.float32, torch.bfloat16]
