"""The command ``rcnn serve`` as a process: many clients, damaged images, slow clients, signals."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from detection import predict, save_model
from detection.categories import Categories
from tests.detection.serve.test_app import bomb
from tests.support.detectors import make_tiny
from tests.support.serving import encoded

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
GROWTH = 8
"""Largest growth of the server's memory over a hundred requests, in MB."""


class Server:
    """A running ``rcnn serve``."""

    def __init__(self, process, lines):
        self.process, self.lines = process, lines
        self.port = int(lines[-1].split(" (")[0].rpartition(":")[2])

    def request(self, method, path, body=None, headers=()):
        """Return status, body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def memory(self):
        """Return resident memory in MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def queue(self):
        """Return the number of images that wait or are being computed."""
        text = self.request("GET", "/metrics")[1].decode()
        return int(text.split("\nrcnn_queue_length ")[1].split()[0])


@pytest.fixture(scope="module")
def model():
    model = make_tiny("frozen").eval()
    model.categories, model.test_size = Categories(("cat", "dog", "bird"), (3, 9, 11)), (64, 96)
    return model


@pytest.fixture(scope="module")
def start(model, tmp_path_factory):
    """A function that starts a server."""
    path = tmp_path_factory.mktemp("served") / "tiny.ckpt"
    save_model(model, path)

    @contextmanager
    def running(*options):
        words = [
            sys.executable,
            "-m",
            "detection",
            "serve",
            str(path),
            "--port",
            "0",
            "--device",
            "cpu",
            "--score",
            "0",
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        process = subprocess.Popen([*words, *options], env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)
        try:
            lines = []
            while not lines or "Ctrl-C" not in lines[-1]:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                lines.append(line)
            yield Server(process, lines)
        finally:
            process.kill()
            process.communicate()

    return running


@pytest.fixture(scope="module")
def server(start):
    with start() as server:
        yield server


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    sides = generator.integers(40, 300, (20, 2))
    return [generator.integers(0, 255, (*side, 3), np.uint8) for side in sides]


def test_no_request_of_16_clients_is_lost_and_memory_stays_flat(server, model, images):
    bodies = [encoded(image, ".png" if k % 2 else ".bmp") for k, image in enumerate(images)]
    expected = [predict(model, image, score_threshold=0.0).to_dict()["detections"] for image in images]

    def ask(number):
        status, body, _ = server.request("POST", "/predict", bodies[number % 20])
        return status, json.loads(body)["detections"] == expected[number % 20]

    used = []
    with ThreadPoolExecutor(16) as clients:
        for _ in range(3):
            assert list(clients.map(ask, range(100))) == [(200, True)] * 100
            used.append(server.memory())
    print("memory after each hundred requests, MB:", *(f"{one:.1f}" for one in used))
    assert used[2] - used[1] < GROWTH
    assert server.queue() == 0
    metrics = server.request("GET", "/metrics")[1].decode()
    batches = int(metrics.split("\nrcnn_batch_size_count ")[1].split()[0])
    assert batches < 300  # some images shared a batch


def mutated(data, generator):
    """Change, remove or repeat some bytes of a file."""
    data = bytearray(data)
    for _ in range(int(generator.integers(1, 6))):
        place = int(generator.integers(len(data)))
        match int(generator.integers(4)):
            case 0:
                data[place] ^= 1 << int(generator.integers(8))
            case 1:
                data[place : place + 8] = generator.bytes(8)
            case 2:
                del data[place : place + int(generator.integers(1, 40))]
            case 3:
                data[place:place] = data[place : place + 60]
        if not data:
            break
    return bytes(data)


def test_a_thousand_modified_images_end_nothing(server, images):
    generator = np.random.default_rng(1)
    formats = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".jp2", ".avif", ".ppm")
    files = [encoded(images[k][:60, :60], format) for k, format in enumerate(formats)]
    bodies = [mutated(files[k % len(files)], generator) for k in range(1000)]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda body: server.request("POST", "/predict", body), bodies))
    counts = {status: sum(answer[0] == status for answer in answers) for status in {answer[0] for answer in answers}}
    print("statuses:", dict(sorted(counts.items())))
    assert counts.keys() <= {200, 413, 415, 422}
    assert counts[200] > 100
    assert counts[422] > 100
    assert all("\n" not in json.loads(body).get("error", "") for _, body, _ in answers)
    assert server.request("GET", "/ready")[0] == 200


def test_a_bomb_is_rejected_before_it_is_decoded(server):
    before, begin = server.memory(), time.monotonic()
    status, body, _ = server.request("POST", "/predict", bomb(10_000))
    seconds = time.monotonic() - begin
    print(f"100 megapixels: {status} after {1e3 * seconds:.0f} ms")
    assert (status, "10000 x 10000 pixels" in json.loads(body)["error"]) == (413, True)
    assert seconds < 1
    assert server.memory() - before < GROWTH


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_too_much_sees_the_error(server, chunked):
    body = (bytes(100_000) for _ in range(300)) if chunked else bytes(30_000_000)
    status, content, headers = server.request("POST", "/predict", body)
    assert (status, json.loads(content)) == (
        413,
        {"error": "the body has more than 20000000 bytes; send a smaller image"},
    )
    assert headers["connection"] == "close"


def test_slow_clients_are_cut_and_others_are_served(start, images):
    with start("--timeout", "1") as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(40)]
        idle = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        idle.sendall(b"POST /predict HTTP/1.1\r\nHost: 127")
        begin = time.monotonic()
        for one in slow:
            one.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
        assert server.request("POST", "/predict", encoded(images[0]))[0] == 200
        for one in slow:
            one.sendall(b"x")
        answers = [one.makefile("rb").readline() for one in slow]
        seconds = time.monotonic() - begin
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
        assert 0.9 < seconds < 5
        assert idle.recv(100) == b""  # cut without a header
        assert 8 < time.monotonic() - begin < 20
        for one in (*slow, idle):
            one.close()


def test_clients_that_close_the_connection_leave_nothing_behind(server, images):
    body = encoded(np.tile(images[0], (8, 8, 1)))
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number in range(30):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as one:
            one.sendall(head + body[: len(body) // 2 if number % 2 else None])
    end = time.monotonic() + 30
    while server.queue():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert server.request("POST", "/predict", body)[0] == 200
    assert 'path="/predict",status="499"' in server.request("GET", "/metrics")[1].decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_the_accepted_requests(start, images, number):
    body = encoded(np.tile(images[0], (6, 6, 1)))
    with start("--size", "400", "600", "--batch", "1") as server, ThreadPoolExecutor(8) as clients:
        waiting = [clients.submit(server.request, "POST", "/predict", body) for _ in range(8)]
        while server.queue() < 6:
            time.sleep(0.001)
        server.process.send_signal(number)
        assert [one.result()[0] for one in waiting] == [200] * 8
        assert server.process.wait(30) == 0
        assert server.process.stderr.read() == ""
        with pytest.raises(OSError, match="refused"):
            server.request("GET", "/health")


def test_a_port_in_use_is_one_line(server, tmp_path):
    words = [sys.executable, "-m", "detection", "serve", str(tmp_path), "--port", str(server.port)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: --host 127.0.0.1 --port {server.port}: Address already in use; choose another port with --port"
    ]


def test_an_address_that_others_reach_gets_a_warning(start):
    with start("--host", "0.0.0.0") as server:
        errors = []
        reader = threading.Thread(target=lambda: errors.append(server.process.stderr.readline()))
        reader.start()
        reader.join(10)
        assert errors[0].startswith("warning: every machine that reaches 0.0.0.0 can use this server")
        assert server.request("GET", "/health", headers={"Host": "name.example"})[0] == 200
