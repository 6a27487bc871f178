"""What pictures show: gray levels, colors, and the order of images and labels."""

import pytest
import torch
from PIL import ImageDraw

from support import pictures

PAPER, INK = pictures.PAPER, pictures.INK_GRAY
ORANGE, BLUE = pictures.ORANGE, pictures.BLUE


def constant(*levels):
    """An 8x8 image of each gray level: (N, 1, 8, 8)."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def test_gray_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pictures.to_uint8(pictures.from_uint8(levels)), levels)
    assert pictures.from_uint8(levels[[0, 255]]).tolist() == [-1, 1]
    gray = torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)
    for kind, shown in (("mnist", [PAPER, INK]), ("folder", [0, 255])):
        assert pictures.as_displayed(gray, {"kind": kind}).flatten().tolist() == shown


@pytest.mark.parametrize(
    "labels, blocks", [("aabbc", ["a", "b", "c"]), ("abcde", ["abc", "de"]), ("aaaaa", ["a", "a"])]
)
def test_labels_are_next_to_their_images(monkeypatch, labels, blocks):
    """Two rows of five different grays; after at most three columns, a new block begins."""
    drawn = []  # text, x, y

    def write(draw, place, text, *_, **settings):
        drawn.append((text, *place))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    monkeypatch.setattr(pictures, "MAX_COLUMNS", 3)
    grays = torch.arange(20, 220, 20, dtype=torch.uint8).view(2, 5, 1, 1, 1).expand(2, 5, 1, 8, 8)
    rows = {"light": grays[0], "dark": grays[1]}
    picture = pictures.labeled_grid(list(rows.items()), list(labels))
    columns = [place for place in drawn if place[0] not in rows]
    assert [text for text, *_ in columns] == list("".join(blocks))
    seen = set()
    for label, x, above in columns:
        first = labels.index(label) + (3 if label in seen else 0)
        for name in rows:
            y = min(y for text, _, y in drawn if text == name and y > above)
            assert picture.getpixel((round(x), round(y))) == (rows[name][first, 0, 0, 0],) * 3
        seen.add(label)


def test_a_gradient_that_adds_ink_is_orange_and_one_that_removes_it_is_blue():
    """Each image is scaled by its own largest value."""
    grads = torch.tensor([[3.0, -3.0, 0.0], [0.1, -0.1, 0.0]]).view(2, 1, 1, 3)
    for colors in pictures.gradient_in_colors(grads)[:, :, 0]:
        assert [tuple(color) for color in colors.T.tolist()] == [ORANGE, BLUE, (PAPER,) * 3]
