"""Detections of two processes, gathered."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detection.evaluation.engines import STATISTICS

RANK = """
import json, sys
import torch
from detection.evaluation.coco import CocoEvaluator

rank, port, truth = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method="tcp://localhost:" + port, rank=rank, world_size=2)
evaluator = CocoEvaluator(truth, ("bbox",))
for image_id in ([5, 7], [6, 5])[rank]:  # 5 again, to fill up
    bbox = [20 + rank, 10, 40, 40]
    evaluator.add_results([{"image_id": image_id, "category_id": 18, "score": 0.5, "bbox": bbox}])
evaluator.gather()
print(json.dumps([evaluator.results("bbox"), evaluator.evaluate()["bbox/AP"]]))
torch.distributed.destroy_process_group()
"""

PUBLISHED_RANK = """
import json, sys
from pathlib import Path
import torch
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.results import read_results
from detection.structures import Batch, Detections

rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method="tcp://localhost:" + port, rank=rank, world_size=2)
evaluator = CocoEvaluator(folder / "instances_val2014_100.json", image_ids="all")
results = [r for r in read_results(folder / "instances_val2014_fakesegm100_results.json") if r["image_id"] % 2 == rank]
evaluator.add_results(results)
boxes = CocoEvaluator(folder / "instances_val2014_100.json", ("bbox",), image_ids="all")
results = read_results(folder / "instances_val2014_fakebbox100_results.json")
for image in json.loads((folder / "instances_val2014_100.json").read_text())["images"]:
    if image["id"] % 2 != rank:
        continue
    own = [r for r in results if r["image_id"] == image["id"]]
    size = torch.tensor([[image["height"], image["width"]]])
    xywh = torch.tensor([r["bbox"] for r in own], dtype=torch.float64).reshape(1, -1, 4)
    labels = torch.tensor([[boxes.categories.ids.index(r["category_id"]) for r in own]], dtype=torch.int64)
    scores = torch.tensor([[r["score"] for r in own]], dtype=torch.float64)
    found = Detections(torch.cat([xywh[..., :2], xywh[..., :2] + xywh[..., 2:]], dim=-1), scores, labels)
    boxes.add(Batch(torch.zeros(0), size, size, torch.tensor([image["id"]])), found)
for one in (boxes, evaluator):
    one.gather()
numbers = {**evaluator.evaluate(), **boxes.evaluate()}
print(json.dumps([numbers, len(boxes.state()["matched"].get("bbox", [[]])[0])]))
torch.distributed.destroy_process_group()
"""


def in_two_processes(script: str, argument: str) -> list[Any]:
    """What two ranks print."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    commands = [[sys.executable, "-c", script, str(rank), str(port), argument] for rank in range(2)]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) for command in commands]
    return [json.loads(process.communicate(timeout=120)[0]) for process in processes]


@pytest.mark.slow
def test_gather_over_two_processes() -> None:
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 18, "name": "dog"}]}
    for i in (5, 6, 7):
        coco["images"].append({"id": i, "height": 100, "width": 200})
        coco["annotations"].append({"id": i, "image_id": i, "category_id": 18, "bbox": [20, 10, 40, 40]})
    first, second = in_two_processes(RANK, json.dumps(coco))
    assert first == second
    assert [result["image_id"] for result in first[0]] == [5, 6, 7]
    assert [result["bbox"][0] for result in first[0]] == [20, 21, 20]  # of image 5, the first rank's


@pytest.mark.slow
def test_published_numbers_in_two_processes(shared_data: Path, published: Any) -> None:
    """Boxes matched as they come, masks from files; each process has the images of even, or odd, id."""
    pytest.importorskip("hotcoco")
    first, second = in_two_processes(PUBLISHED_RANK, str(shared_data / "coco_eval_reference"))
    assert first == second
    numbers, matched = first
    assert matched == 100
    for iou_type, expected in published.items():
        assert [numbers[f"{iou_type}/{name}"] for name in STATISTICS] == pytest.approx(expected, abs=1e-12)
