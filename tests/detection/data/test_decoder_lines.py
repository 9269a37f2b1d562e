import io
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data import decoder_lines
from detection.data.decoder_lines import decoded
from detection.data.errors import DamageWarning
from detection.data.image import read_image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs files in memory")

LINE = b"Corrupt JPEG data: 7 extraneous bytes before marker 0xd9\n"


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def damaged_jpeg() -> bytes:
    data = bytearray(cv2.imencode(".jpg", pixels())[1].tobytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    return bytes(data)


def damaged_png() -> bytes:
    data = bytearray(cv2.imencode(".png", pixels())[1].tobytes())
    data[len(data) // 2] ^= 255
    return bytes(data)


def damaged_tiff(compression: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "TIFF", compression=compression)
    data = bytearray(file.getvalue())
    data[1000:1400] = np.random.default_rng(1).integers(0, 256, 400).astype(np.uint8).tobytes()
    return bytes(data)


def test_a_damaged_jpeg_is_read_with_a_warning_that_names_it(tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(damaged_jpeg())
    with pytest.warns(DamageWarning, match=r"a\.jpg: is damaged \(Corrupt JPEG data: .*\); some pixels may be"):
        assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    assert capfd.readouterr().err == ""


def test_a_damaged_png_is_rejected_with_the_reason(tmp_path, capfd):
    (tmp_path / "a.png").write_bytes(damaged_png())
    with pytest.raises(
        ValueError, match=r"a\.png: is not an image that OpenCV can decode \(libpng error: .*\); replace"
    ):
        read_image(tmp_path / "a.png")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"])
def test_a_damaged_tiff_prints_nothing(tmp_path, capfd, compression):
    (tmp_path / "a.tif").write_bytes(damaged_tiff(compression))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read_image(tmp_path / "a.tif")
        except ValueError as error:
            told = str(error)
            assert "a.tif: " in told
    assert capfd.readouterr().err == ""


def test_lines_of_others_pass(capfd):
    def decode() -> int:
        os.write(2, b"before\n" + LINE + b"behind\n")
        return 7

    assert decoded(decode) == (7, [LINE.decode().strip()])
    assert capfd.readouterr().err == "before\nbehind\n"
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"


def test_after_an_error_stderr_is_as_before(capfd):
    def decode() -> None:
        os.write(2, LINE + b"other\n")
        raise KeyError

    with pytest.raises(KeyError):
        decoded(decode)
    assert capfd.readouterr().err == "other\n"
    assert decoder_lines._stderr._decoding == 0


def test_each_thread_gets_its_own_lines(capfd):
    together = threading.Barrier(4, timeout=10)
    tried = [0] * 4

    def decode(k: int) -> int:
        tried[k] += 1
        if tried[k] == 1:  # all four at once; the second time each is alone
            together.wait()
        if k == 2:
            os.write(2, LINE)
        return k

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: decoded(lambda: decode(k)), range(4)))
    assert [one.result for one in found] == [0, 1, 2, 3]
    assert [len(one.lines) for one in found] == [0, 0, 1, 0]
    assert capfd.readouterr().err == ""


def test_damage_is_told_of_the_right_file_from_many_threads(tmp_path, capfd):
    sound = cv2.imencode(".jpg", pixels())[1].tobytes()
    for k in range(40):
        (tmp_path / f"{k}.jpg").write_bytes(damaged_jpeg() if k % 5 == 0 else sound)
    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        list(pool.map(lambda k: read_image(tmp_path / f"{k}.jpg"), range(40)))
    told = {str(one.message).partition(": ")[0] for one in warned}
    assert told == {str(tmp_path / f"{k}.jpg") for k in range(0, 40, 5)}
    assert capfd.readouterr().err == ""


FORKED = """
import os, sys
from detection.data.decoder_lines import decoded
def decode():
    child = os.fork()
    os.write(2, b"child\\n" if child == 0 else b"parent\\n")
    if child == 0:
        def inner(): os.write(2, b"Corrupt JPEG data: x\\nother\\n")
        assert decoded(inner).lines == ["Corrupt JPEG data: x"]
        os._exit(0)
    os.waitpid(child, 0)
decoded(decode)
"""


def test_a_process_that_is_forked_meanwhile_has_the_real_stderr():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stderr.splitlines()) == ["child", "other", "parent"]


@pytest.mark.slow
def test_without_a_stderr_images_are_read_all_the_same(tmp_path):
    (tmp_path / "a.jpg").write_bytes(damaged_jpeg())
    program = "import os, sys; os.close(2); from detection.data.image import read_image; read_image(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.jpg")], timeout=60)
    assert done.returncode == 0


def test_a_child_of_a_process_that_never_decoded_has_nothing_to_close():
    fresh = decoder_lines._Stderr()
    fresh.after_fork_in_child()
    assert decoded(lambda: 7) == (7, [])


def test_a_child_can_decode_at_once():
    """The parent holds the lock while it forks; the child has the lock, but not the thread that would release it."""
    fresh = decoder_lines._Stderr()
    fresh.before_fork()
    fresh.after_fork_in_child()
    assert fresh._change.acquire(blocking=False)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux lists the open files of a process")
def test_decoding_leaves_no_file_open():
    decoded(lambda: None)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        decoded(lambda: None)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("certain", [False, True])
def test_an_image_that_may_have_caused_a_line_of_others_is_decoded_again_alone(certain, monkeypatch):
    calls = []
    monkeypatch.setattr(
        decoder_lines._stderr, "run", lambda decode, alone: calls.append(alone) or (len(calls), certain)
    )
    assert decoder_lines.decoded(lambda: None) == (1 if certain else 2)
    assert calls == ([False] if certain else [False, True])
