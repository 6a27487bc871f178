"""What pictures show: gray levels, and the order of images and labels."""

import pytest
import torch
from PIL import ImageDraw

from data import from_uint8
from support import pictures

PAPER, INK = pictures.PAPER, pictures.INK


def constant(*levels):
    """An 8x8 image of each gray level: (N, 1, 8, 8)."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


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
    ("Ankle boot", "Ankle boot", "Bag", "Bag"): ["Ankle boot", "Bag"],
}


@pytest.mark.parametrize("labels", LABELS)
def test_labels_are_next_to_their_images(monkeypatch, labels):
    """Two rows of different grays; after at most three columns, a new block begins."""
    drawn, ends = [], []  # (text, x, y), x

    def write(draw, place, text, fill, font, anchor):
        drawn.append((text, *place))
        ends.append(place[0] + font.getlength(text) * (anchor == "ls"))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    monkeypatch.setattr(pictures, "MAX_COLUMNS", 3)
    grays = torch.arange(20, 20 + 20 * len(labels), 10, dtype=torch.uint8).view(2, -1, 1, 1, 1)
    rows = dict(zip(("light", "dark"), grays.expand(2, -1, 1, 8, 8)))
    picture = pictures.labeled_grid(list(rows.items()), list(labels))
    assert max(ends) <= picture.width
    columns = [place for place in drawn if place[0] not in rows]
    assert [text for text, *_ in columns] == LABELS[labels]
    seen = set()
    for label, x, above in columns:
        first = labels.index(label) + (3 if label in seen else 0)
        for name in rows:
            y = min(y for text, _, y in drawn if text == name and y > above)
            assert picture.getpixel((round(x), round(y))) == (rows[name][first, 0, 0, 0],) * 3
        seen.add(label)
