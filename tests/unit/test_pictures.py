"""What pictures show: gray levels, and the order of images and labels."""

from itertools import combinations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data import from_uint8
from support import pictures

PAPER, INK = pictures.PAPER, pictures.INK


def test_gray_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pictures.to_uint8(from_uint8(levels)), levels)
    assert from_uint8(levels[[0, 255]]).tolist() == [-1, 1]
    gray = torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)
    for kind, shown in (("mnist", [PAPER, INK]), ("folder", [0, 255])):
        assert pictures.as_displayed(gray, {"kind": kind}).flatten().tolist() == shown


LABELS = {  # labels of the columns -> labels that are drawn
    ("a", "a", "b", "b"): ["a", "b"],
    ("a", "b", "c", "d", "e"): ["a", "b", "c", "d", "e"],
    ("a",) * 4 + ("b",) * 4: ["a", "a", "b", "b"],
    ("a",) * 12 + ("b",) * 12: ["a", "b"],
    ("Ankle boot", "Ankle boot", "Bag", "Bag"): ["Ankle boot", "Bag"],
    tuple(f"class number {k}" for k in range(3)): [f"class number {k}" for k in range(3)],
}


@pytest.mark.parametrize("labels", LABELS)
def test_labels_are_above_their_images_and_do_not_overlap(monkeypatch, labels):
    """Two rows of different grays; after at most 3 or 12 columns, the rows continue below."""
    monkeypatch.setattr(pictures, "MAX_COLUMNS", 12 if len(labels) == 24 else 3)
    grays = torch.arange(2 * len(labels), dtype=torch.uint8).view(2, -1, 1, 1, 1)
    rows = dict(zip(("first", "second"), grays.expand(2, -1, 3, 8, 8)))
    pictures.draw_rows(figure := Figure(), rows, labels)
    FigureCanvasAgg(figure).draw()
    drawn, boxes, shown, images = [], [], {}, []
    for axis in figure.axes:
        place = axis.get_subplotspec()
        if axis.get_ylabel():
            name = axis.get_ylabel()
        if axis.images:
            shown[name, *place.colspan] = axis.images[0].get_array()[0, 0, 0]
            assert shown[name, *place.colspan] in rows[name][:, 0, 0, 0]
            images.append(axis.images[0].get_window_extent())
        if axis.get_title():
            assert labels[shown[name, *place.colspan]] == axis.get_title() and name == "first"
            drawn.append(axis.get_title())
            boxes.append(axis.title.get_window_extent())
    assert drawn == LABELS[labels]
    assert not any(box.overlaps(other) for box, other in combinations(boxes, 2))
    assert not any(box.overlaps(image) for box in boxes for image in images)
