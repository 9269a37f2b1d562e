"""The page "Why residual networks": one command trains and counts, and writes the page with its plots.

He et al. 2015, "Deep residual learning for image recognition", sections 1 and 4.1.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detection.backbone_tool import residual
from detection.backbone_tool.classifier_costs import ClassifierCosts, classifier_costs
from detection.backbone_tool.residual import STAGES, Curve
from detection.backbone_tool.transfer import FIRST, OTHERS, Accuracy, Settings, compare, interval
from detection.checkpoint_files import replacing
from detection.report.frame import frame
from detection.report.page import table
from detection.wording import plural


@dataclass(frozen=True)
class Experiment:
    """Settings of the whole page; ``rcnn backbones why-residual --help`` describes each one."""

    depths: tuple[int, ...] = (18, 34, 50)
    steps: int = 1000
    every: int = 25
    batch: int = 32
    lr: float = 0.02
    width: int = 16
    side: int = 32
    images: int = 2048
    counts: tuple[int, ...] = (16, 64, 256)
    """Images of the trainings with little data."""
    seeds: int = 5
    first_steps: int = 1000
    """Steps of the training whose weights are transferred."""
    transfer_steps: int = 150
    seed: int = 0


@dataclass(frozen=True)
class Results:
    """All results of an experiment."""

    curves: list[Curve]
    costs: list[ClassifierCosts]
    first_error: float
    """Training error at the end of the training whose weights are transferred."""
    transfer: list[Accuracy]


def run(experiment: Experiment, report: Callable[[str], None] = print) -> Results:
    """Train all networks and count all costs.

    Args:
        experiment: settings.
        report: gets a line for each finished part.
    """
    data = residual.make_images(experiment.images, experiment.side, experiment.seed)
    curves = []
    for depth in experiment.depths:
        for name in (f"plain{depth}", f"resnet{depth}"):
            settings = (experiment.steps, experiment.batch, experiment.lr, experiment.width, experiment.seed)
            curves.append(residual.train(name, data, *settings, experiment.every))
            report(f"{name}: training error {100 * curves[-1].errors[-1]:.1f} %")
    costs = classifier_costs()
    later = Settings(
        width=experiment.width,
        side=experiment.side,
        lr=experiment.lr,
        batch=experiment.batch,
        first_images=experiment.images,
        first_steps=experiment.first_steps,
        steps=experiment.transfer_steps,
    )
    error, transfer = compare(experiment.counts, experiment.seeds, later)
    for one in transfer:
        report(
            f"{plural(one.images, 'image')}: transferred {_mean(one.transferred)}, from scratch {_mean(one.scratch)}"
        )
    return Results(curves, costs, error, transfer)


def write(folder: Path, experiment: Experiment, results: Results, command: str) -> Path:
    """Write ``why-residual.html``, its plots as PNG files, ``curves.csv`` and ``results.json``; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {name: draw(results) for name, draw in PLOTS.items()}
    for name, content in plots.items():
        _write(folder / f"{name}.png", content)
    residual.write_csv(results.curves, folder / "curves.csv")
    numbers = {"experiment": asdict(experiment), **asdict(results)}
    _write(folder / "results.json", json.dumps(numbers, indent=1).encode())
    rows = [(one.images, *one.transferred, *one.scratch) for one in results.transfer]
    seeds = range(experiment.seeds)
    with (folder / "transfer.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads = (f"{start}_seed{seed}" for start in ("transferred", "scratch") for seed in seeds)
        writer.writerows([("images", *heads), *rows])
    _write(folder / "why-residual.html", page(experiment, results, plots, command).encode())
    return folder / "why-residual.html"


def page(experiment: Experiment, results: Results, plots: Mapping[str, bytes], command: str) -> str:
    """Return the page as HTML, with the plots inside."""
    urls = {name: f"data:image/png;base64,{base64.b64encode(content).decode()}" for name, content in plots.items()}
    images = {name: f'<figure><img src="{url}" alt="{name}"></figure>' for name, url in urls.items()}
    by_name = {curve.name: curve for curve in results.curves}
    ends = [
        [f"{depth}", *(f"{100 * by_name[f'{kind}{depth}'].errors[-1]:.1f}" for kind in ("plain", "resnet"))]
        for depth in experiment.depths
    ]
    gradients = [[curve.name, *(f"{value:.2g}" for value in middle_gradients(curve))] for curve in results.curves]
    costs = [[one.name, f"{one.parameters / 1e6:.1f}", f"{one.multiply_adds / 1e9:.1f}"] for one in results.costs]
    transfer = [[str(one.images), _mean(one.transferred), _mean(one.scratch)] for one in results.transfer]
    chance = 100 / len(residual.SHAPES)
    body = f"""<h2>A deeper plain network has a higher training error</h2>
<p>All networks classify the same synthetic shapes, in the same order, for {plural(experiment.steps, "step")}.
Random guesses are wrong for {100 - chance:.1f} %.</p>{images["errors"]}
{table(["layers", "plain, % wrong at the end", "residual, % wrong at the end"], ends, numeric=(1, 2))}
<h2>Gradients by depth</h2>
<p>Norm of the gradient of the parameters of each stage, halfway through the training. The stem is the first stage.</p>
{images["gradients"]}{table(["network", *STAGES], gradients, numeric=range(1, 1 + len(STAGES)))}
<h2>Residual networks are deeper, and cost less than VGG</h2>
<p>Classifiers with 1000 classes, for an image of 224 x 224 pixels; a multiply-add is one operation.</p>
{images["costs"]}{table(["network", "million parameters", "billion operations"], costs, numeric=(1, 2))}
<h2>Transfer with little data</h2>
<p>A ResNet-18 learned the shapes {", ".join(FIRST)}; its training error at the end is
{100 * results.first_error:.1f} %. Its weights start a training on a few images of the shapes
{", ".join(OTHERS)}. The table has the accuracy in percent on other images, the mean over
{plural(experiment.seeds, "seed")} with its 95 % interval.</p>
{images["transfer"]}{table(["images", "from these weights", "from random weights"], transfer, numeric=(0, 1, 2))}
<p class="note">The files results.json, curves.csv and transfer.csv beside this page have all numbers.</p>"""
    return frame("Why residual networks", body, f"<p>Made by <code>{command}</code>.</p>")


def middle_gradients(curve: Curve) -> list[float]:
    """Return the gradient norm of each stage, the mean over the entries in the middle fifth of a training."""
    count = len(curve.gradients)
    part = curve.gradients[int(0.4 * count) : max(int(0.6 * count), int(0.4 * count) + 1)]
    return [sum(values) / len(part) for values in zip(*part, strict=True)]


def _errors(results: Results) -> bytes:
    figure, axis = _figure()
    for curve in results.curves:
        axis.plot(curve.steps, [100 * error for error in curve.errors], **_style(curve))
    axis.set(xlabel="step", ylabel="training error, %", ylim=(0, 100))
    axis.legend(fontsize="small", ncols=2)
    return _png(figure)


def _gradients(results: Results) -> bytes:
    figure, axis = _figure()
    places = range(len(STAGES))
    for curve in results.curves:
        axis.semilogy(places, middle_gradients(curve), marker="o", **_style(curve))
    axis.set_xticks(list(places), STAGES)
    axis.set(ylabel="gradient norm, halfway")
    axis.legend(fontsize="small", ncols=2)
    return _png(figure)


def _costs(results: Results) -> bytes:
    figure, axis = _figure()
    for k, family in enumerate(dict.fromkeys(one.family for one in results.costs)):
        own = [one for one in results.costs if one.family == family]
        x, y = [one.multiply_adds / 1e9 for one in own], [one.parameters / 1e6 for one in own]
        axis.plot(x, y, "o-", color=f"C{k}", label=family)
        for n, (one, left, top) in enumerate(zip(own, x, y, strict=True)):
            depth = one.name.removeprefix("vgg").removeprefix("resnet")
            axis.annotate(depth, (left, top), (5, -12 if n % 2 else 5), textcoords="offset points", fontsize="small")
    axis.set(xlabel="billion multiply-adds for an image", ylabel="million parameters", ylim=(0, None), xlim=(0, None))
    axis.legend()
    return _png(figure)


def _transfer(results: Results) -> bytes:
    figure, axis = _figure()
    counts = [one.images for one in results.transfer]
    for key, label in (("transferred", "from transferred weights"), ("scratch", "from random weights")):
        means, halves = zip(*(interval(getattr(one, key)) for one in results.transfer), strict=True)
        values, errors = ([100 * value for value in part] for part in (means, halves))
        axis.errorbar(counts, values, errors, marker="o", capsize=4, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.axhline(100 / len(OTHERS), color="0.6", linestyle=":", label="random guesses")
    axis.set(xlabel="training images", ylabel="accuracy on other images, %", ylim=(0, 100))
    axis.legend(fontsize="small")
    return _png(figure)


PLOTS: Mapping[str, Callable[[Results], bytes]] = {
    "errors": _errors,
    "gradients": _gradients,
    "costs": _costs,
    "transfer": _transfer,
}
"""The plots of the page, by the names of their files."""


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.add_subplot()
    axis.grid(alpha=0.3)
    return figure, axis


def _style(curve: Curve) -> dict[str, Any]:
    """Return colour by depth, line style by kind, and label."""
    plain = curve.name.startswith("plain")
    depth = curve.name.removeprefix("plain").removeprefix("resnet")
    color = {"18": "C0", "34": "C1", "50": "C2"}.get(depth, "C3")
    kind = "plain" if plain else "residual"
    return {"color": color, "linestyle": "--" if plain else "-", "label": f"{kind}, {depth} layers"}


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=100, format="png")
    return file.getvalue()


def _mean(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)
