"""Run an exported file: arrays in, arrays out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detection.documents import parse_json
from detection.export.extras import needed
from detection.foreign import shown

ENTRIES = ("rcnn", "export", "gate")
"""The toolkit's entries in a file's metadata: the detector, the export, the comparison."""


class Session(Protocol):
    """A file that an engine has loaded."""

    engine: str
    """Name and version of the engine."""
    metadata: dict[str, Any]
    """What the file says of itself."""

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        """Return boxes, scores, labels and what the heads add, for a batch on its canvas.

        A file that resizes images takes images (B, H, W, C) as decoded, without sizes.
        Without ``sizes``: logits and scores of a classifier.
        """


class RunError(ValueError):
    """An engine cannot compute an exported file, which may be damaged."""


@contextmanager
def run_errors(engine: str) -> Iterator[None]:
    """Raise :class:`RunError` for whatever an engine raises; each has its own classes of errors."""
    try:
        yield
    except Exception as error:
        raise RunError(f"{engine} cannot compute the exported file ({shown(error, 200)}); export it again") from error


def _inputs(images: np.ndarray, sizes: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"images": images} if sizes is None else {"images": images, "sizes": sizes}


class OnnxSession:
    """An ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: the file.
        threads: number of threads.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: ONNX Runtime cannot read the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        needed("onnxruntime")
        import onnxruntime

        self.engine = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            content = path.read_bytes()  # as bytes, the file cannot refer to other files
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has its own classes of errors, one per code
            raise ValueError(f"{path}: ONNX Runtime cannot read it ({shown(error, 200)})") from error
        self.metadata = parsed(self._session.get_modelmeta().custom_metadata_map, path)

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        """Return boxes, scores, labels and what the heads add, for a batch on its canvas."""
        with run_errors(self.engine):
            return list(self._session.run(None, _inputs(images, sizes)))


class OpenVinoSession:
    """OpenVINO's files in OpenVINO, on the CPU, in float32.

    Args:
        path: of the ``.xml``.
        threads: number of threads.

    Raises:
        ModuleNotFoundError: openvino is not installed.
        ValueError: OpenVINO cannot read the files.
    """

    def __init__(self, path: Path, threads: int) -> None:
        needed("openvino")
        import openvino

        self.engine = f"openvino {openvino.__version__}"
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            model = openvino.Core().read_model(path)
            names = [name for name in ENTRIES if model.has_rt_info([name])]
            self.metadata = parsed({name: model.get_rt_info([name]).astype(str) for name in names}, path)
            self._compiled = openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ValueError(f"{path}: OpenVINO cannot read it ({shown(error, 200)})") from error

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        """Return boxes, scores, labels and what the heads add, for a batch on its canvas."""
        with run_errors(self.engine):
            found = self._compiled(_inputs(images, sizes))
        return [np.array(found[k]) for k in range(len(found))]  # copies: the engine reuses its memory


class TorchSession:
    """A program of ``torch.export``, on the CPU, with PyTorch's number of threads.

    Raises:
        ValueError: PyTorch cannot read the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        self.engine, self._torch = f"torch {torch.__version__}", torch
        try:
            program, texts = read_program(path)
        except Exception as error:  # PyTorch raises many kinds
            raise ValueError(f"{path}: PyTorch cannot read it ({shown(error, 200)})") from error
        # The tracer's guards reject canvases with one cell on a level, which compute correctly.
        self._run, self.metadata = program.module(check_guards=False), parsed(texts, path)

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        """Return boxes, scores, labels and what the heads add, for a batch on its canvas."""
        with self._torch.no_grad(), run_errors(self.engine):
            found = self._run(*map(self._torch.from_numpy, _inputs(images, sizes).values()))
        return [value.numpy() for value in found]


SESSIONS: Mapping[str, type[OnnxSession] | type[OpenVinoSession] | type[TorchSession]] = {
    ".onnx": OnnxSession,
    ".xml": OpenVinoSession,
    ".pt2": TorchSession,
}
"""The engine for each ending."""


def open_session(path: Path, threads: int) -> Session:
    """Load an exported file with the engine for its ending.

    Raises:
        ModuleNotFoundError, ValueError: as for the engine.
    """
    return SESSIONS[path.suffix](path, threads)


def read_program(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a program of ``torch.export``, and the texts in its archive. A damaged or hostile file can run code."""
    import torch

    import detection.export.align
    import detection.ops.keypoints
    import detection.ops.selection  # noqa: F401  # registers the operators

    texts = dict.fromkeys(ENTRIES, "")
    program = torch.export.load(str(path), extra_files=texts)
    return program, {name: text for name, text in texts.items() if text}


def parsed(texts: dict[str, str], path: Path) -> dict[str, Any]:
    """Return the toolkit's entries of a file's metadata.

    Raises:
        ValueError: an entry is not JSON.
    """
    try:
        return {name: parse_json(texts[name].encode(), f"{path}: {name}") for name in ENTRIES if name in texts}
    except ValueError as error:
        raise ValueError(f"{path}: its metadata is damaged ({shown(error)})") from error
