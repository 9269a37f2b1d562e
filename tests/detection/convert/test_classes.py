import pytest
import torch

from detection.categories import Categories
from detection.convert.classes import transfer_classes

OLD = Categories(("cat", "Stop Sign", "dog"), (1, 2, 3))
NEW = Categories(("dog", "kart", "stop_sign"), (5, 6, 7))


def weights(classes: int, first: float) -> dict[str, torch.Tensor]:
    """Row c of every tensor holds ``first + c``."""
    rows = first + torch.arange(classes, dtype=torch.float32)
    logits = torch.cat([rows, torch.tensor([first + 99])])
    deltas = rows.repeat_interleave(4)
    return {
        "box_head.logits.weight": logits[:, None].expand(-1, 5).clone(),
        "box_head.logits.bias": logits,
        "box_head.deltas.weight": deltas[:, None].expand(-1, 5).clone(),
        "box_head.deltas.bias": deltas,
        "mask_head.logits.weight": rows.view(-1, 1, 1, 1).expand(-1, 6, 1, 1).clone(),
        "mask_head.logits.bias": rows,
        "fpn.x": torch.full((2,), first),
    }


def test_rows_go_with_the_names():
    carried, report = transfer_classes(weights(3, 10), OLD, weights(3, 500), NEW)
    # dog was 2, kart is new (500 + 1), stop sign was 1; the background, last, stays.
    assert carried["box_head.logits.bias"].tolist() == [12, 501, 11, 109]
    assert carried["box_head.logits.weight"][:, 0].tolist() == [12, 501, 11, 109]
    assert carried["box_head.deltas.bias"].tolist() == [12] * 4 + [501] * 4 + [11] * 4
    assert carried["mask_head.logits.bias"].tolist() == [12, 501, 11]
    assert carried["mask_head.logits.weight"][:, 0, 0, 0].tolist() == [12, 501, 11]
    assert carried["fpn.x"].tolist() == [10, 10]
    assert (report.copied, report.initialised, report.left_out) == (("dog", "stop_sign"), ("kart",), ("cat",))
    assert str(report) == "2 of 3 classes copied by name; initialised randomly: kart; not used: cat"


def test_the_number_of_classes_may_change():
    one = Categories(("cat",), (1,))
    carried, _ = transfer_classes(weights(3, 10), OLD, weights(1, 500), one)
    assert carried["box_head.logits.bias"].tolist() == [10, 109]
    assert carried["box_head.deltas.bias"].tolist() == [10] * 4


def test_a_box_for_all_classes_is_kept():
    old, new = weights(3, 10), weights(2, 500)
    for state in (old, new):
        state["box_head.deltas.bias"] = torch.arange(4.0)
        state["box_head.deltas.weight"] = torch.ones(4, 5)
    carried, _ = transfer_classes(old, OLD, new, Categories(("dog", "kart"), (1, 2)))
    assert carried["box_head.deltas.bias"].tolist() == [0, 1, 2, 3]


def test_a_name_twice_is_rejected():
    with pytest.raises(ValueError, match="two classes have the name 'Cat'"):
        transfer_classes(weights(3, 0), OLD, weights(2, 0), Categories(("cat", "Cat"), (1, 2)))
