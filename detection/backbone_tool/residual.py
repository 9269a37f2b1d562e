"""Compare the training of plain and residual networks on synthetic images.

He et al. 2015, "Deep residual learning for image recognition", section 4.1: without shortcuts, a deeper network has a
higher training error. All networks train on the same images in the same order.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import parameters_of
from backbones.resnet import VARIANTS, ResNet

SHAPES = ("triangle", "square", "pentagon", "star", "cross", "disc", "ring", "bar")
"""The classes; each shape has a random position, size, angle and colour."""
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


@dataclass
class Curve:
    """Training error and gradients of a network over time."""

    name: str
    steps: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """Fraction of images with a wrong class since the last entry."""
    gradients: list[list[float]] = field(default_factory=list)
    """Mean norm of the gradient of each of :data:`STAGES` since the last entry."""


def make_images(count: int, size: int, seed: int, shapes: Sequence[str] = SHAPES) -> tuple[Tensor, Tensor]:
    """Return images (count, 3, size, size), with values of about -1..1, and their classes (count,)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(shapes), size=count)
    images = np.stack([_draw(shapes[label], size, generator) for label in labels])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def train(
    name: str, data: tuple[Tensor, Tensor], steps: int, batch: int, lr: float, width: int, seed: int, every: int = 10
) -> Curve:
    """Train a network of :data:`VARIANTS` and record its curve."""
    torch.manual_seed(seed)
    network = ResNet(VARIANTS[name], width=width, num_classes=len(SHAPES))
    return fit(network, name, data, steps, batch, lr, seed, every)


def fit(
    network: ResNet, name: str, data: tuple[Tensor, Tensor], steps: int, batch: int, lr: float, seed: int, every: int
) -> Curve:
    """Train a network and record its curve, which gets the name."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    curve, wrong, norms = Curve(name), 0.0, np.zeros(len(STAGES))
    for step, (images, labels) in enumerate(_batches(data, steps, batch, seed), 1):
        logits = network.classify(images)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        wrong += float((logits.argmax(dim=1) != labels).float().mean())
        norms += gradient_norms(network)
        optimizer.step()
        if step % every == 0:
            curve.steps.append(step)
            curve.errors.append(wrong / every)
            curve.gradients.append((norms / every).tolist())
            wrong, norms = 0.0, np.zeros(len(STAGES))
    return curve


def gradient_norms(network: ResNet) -> list[float]:
    """Return the gradient norm of all parameters in each of :data:`STAGES`."""
    gradients = [[p.grad for p in parameters_of(stage) if p.grad is not None] for stage in network.stages()]
    return [float(torch.stack([g.norm() for g in stage]).norm()) for stage in gradients]


def write_csv(curves: Sequence[Curve], path: Path) -> None:
    """Write a CSV file with one line for each entry of each network."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "step", "training_error", *(f"gradient_{stage}" for stage in STAGES)])
        for curve in curves:
            for step, error, norms in zip(curve.steps, curve.errors, curve.gradients, strict=True):
                writer.writerow([curve.name, step, f"{error:.4f}", *(f"{norm:.6g}" for norm in norms)])


def plot(curves: Sequence[Curve], path: Path, title: str) -> None:
    """Plot the training error of all networks, and the gradient of each stage for each network, to a PNG file."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(4 * (1 + len(curves)), 3.6), layout="constrained")
    panels = figure.subplots(1, 1 + len(curves))
    for curve in curves:
        style = "--" if curve.name.startswith("plain") else "-"
        panels[0].plot(curve.steps, [100 * error for error in curve.errors], style, label=curve.name)
    panels[0].set(title="training error, %", xlabel="step", ylim=(0, 100))
    panels[0].legend()
    norms = [norm for curve in curves for row in curve.gradients for norm in row if norm > 0]
    for panel, curve in zip(panels[1:], curves, strict=True):
        for i, stage in enumerate(STAGES):
            panel.semilogy(curve.steps, [row[i] for row in curve.gradients], label=stage, color=f"C{i + 4}")
        panel.set(title=f"gradient norm, {curve.name}", xlabel="step", ylim=(min(norms) / 1.5, max(norms) * 1.5))
    panels[1].legend(fontsize="small")
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=80)


def _batches(data: tuple[Tensor, Tensor], steps: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of epochs in random order, the same for every network."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(data[1]), generator=generator)])
        chosen, order = order[:batch], order[batch:]
        yield data[0][chosen], data[1][chosen]


def _draw(shape: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a shape on a noisy background."""
    image = generator.normal(0, 0.25, (size, size, 3)).astype(np.float32)
    radius = generator.uniform(0.2, 0.4) * size
    centre = generator.uniform(radius, size - radius, 2)
    angle = generator.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mask = np.zeros((size, size), np.uint8)
    for outline in _outlines(shape):
        points = np.rint(16 * (radius * outline @ rotation.T + centre)).astype(np.int32)
        cv2.fillPoly(mask, [points], 1, shift=4)
    if shape == "ring":
        cv2.circle(mask, np.rint(centre).astype(int).tolist(), round(radius / 2), 0, -1)
    colour = generator.uniform(0.5, 1, 3) * generator.choice([-1, 1], 3)
    image[mask == 1] += colour.astype(np.float32)
    return image


def _outlines(shape: str) -> list[np.ndarray]:
    """Return polygons inside the unit circle whose union is the shape."""
    corners = {"triangle": 3, "square": 4, "pentagon": 5, "star": 10, "disc": 24, "ring": 24}
    if shape in corners:
        turns = 2 * np.pi * np.arange(corners[shape]) / corners[shape]
        radii = np.where(np.arange(corners[shape]) % 2, 0.4, 1.0) if shape == "star" else 1.0
        return [np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1)]
    bar = np.array([[-1, -0.25], [1, -0.25], [1, 0.25], [-1, 0.25]])
    return [bar, bar[:, ::-1]] if shape == "cross" else [bar]
