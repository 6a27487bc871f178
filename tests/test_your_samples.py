"""`evaluate.py --samples`: images are scored, mistakes warned of; bad input ends in one line."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import evaluate
from evaluation import scores
from evaluation.judge import judge_images
from evaluation.measures import balanced_parts, frechet_distance, precision_recall
from evaluation.measures import wilson_interval
from mnist import MNIST_INFO, load_mnist
from support.pictures import save_npz, to_uint8

N = 120
GREY = np.zeros((N, 28, 28), dtype=np.uint8)
GREY[:, 4:24, 12:16] = 255
SHARE = (GREY / 255).astype(np.float32)
Y = np.arange(N) % 10


class Evil:
    """A pickle that would leave a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- bad input ---


def changed(array, value):
    array = array.copy()
    array[5, ...] = value
    return array


def truncated(path):
    np.savez(path, GREY, Y)
    path.write_bytes(path.read_bytes()[:300])


def flipped(path):
    np.savez(path, GREY, Y)
    content = bytearray(path.read_bytes())
    content[1_000:1_010] = b"?" * 10  # fails its checksum
    path.write_bytes(content)


def with_text(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images", "not an array")


def huge(path):
    """A header that promises more than there is memory for: refused as that, or as cut short."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(1_000))


def pickled(path):
    with open(path, "wb") as file:
        pickle.dump(Evil(path.parent / "pwned"), file)


def folder_of(**files):
    """A folder of 120 PNGs, and of the PNGs `files`: names, with / for _, -> images, or bytes."""

    def write(path):
        for k in range(N):
            name = path / files.get("inside", "") / f"{k:03d}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(GREY[k]).save(name)
        for name, image in files.items():
            name = path / f"{name.replace('_', '/')}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(image, bytes):
                name.write_bytes(image)
            elif name.stem != "inside":
                image.save(name)

    return write


def grey_png(size, mode="L", **settings):
    return Image.new(mode, size, **settings)


def npy(array):
    return lambda path: np.save(path, array)


def npz(*arrays, **names):
    return lambda path: np.savez(path, *arrays, **names)


def pt(content):
    return lambda path: torch.save(content, path)


CUT = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"
BAD = {  # name of the file -> how it is written, what the line says
    "missing.npz": (lambda path: None, "no such file or folder"),
    "missing.txt": (lambda path: None, "no such file or folder"),
    "missing": (lambda path: None, "no such file or folder"),
    "unknown.mat": (lambda path: path.write_bytes(b"MATLAB"), "of an unknown kind"),
    "unknown.png": (lambda path: grey_png((280, 280)).save(path), "of an unknown kind"),
    "empty.npz": (lambda path: path.write_bytes(b""), "is damaged"),
    "empty.npy": (lambda path: path.write_bytes(b""), "is damaged"),
    "empty.pt": (lambda path: path.write_bytes(b""), "is damaged"),
    "text.npz": (lambda path: path.write_text("hello"), "is damaged"),
    "text.pt": (lambda path: path.write_text("hello"), "is damaged"),
    "truncated.npz": (truncated, "is damaged"),
    "flipped.npz": (flipped, "is damaged"),
    "truncated.npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\0"), "is damaged"),
    "huge.npy": (huge, "huge.npy: "),
    "truncated.pt": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), "is damaged"),
    "folder.npz": (lambda path: path.mkdir(), "has no PNGs"),
    "text_inside.npz": (with_text, "no plain array of numbers, but"),
    "objects.npy": (npy(np.array([None] * N)), "pickled objects"),
    "objects.npz": (npz(x=np.array([None] * N), y=Y), "pickled objects"),
    "labels_are_objects.npz": (npz(GREY, np.array([{}] * N)), "pickled objects"),
    "evil.npy": (pickled, "is damaged"),
    "evil.npz": (pickled, "is damaged"),
    "evil.pt": (lambda path: pt({"images": Evil(path.parent / "pwned")})(path), "is damaged"),
    "a_module.pt": (pt(torch.nn.Linear(2, 2)), "is damaged"),
    "strings.npz": (npz(np.array(["a"] * N)), "no plain array of numbers, but <U1"),
    "sparse.pt": (pt(torch.tensor(SHARE[:, 0]).to_sparse()), "no plain array"),
    "meta.pt": (pt(torch.empty(N, 28, 28, device="meta")), "no plain array"),
    "a_number.pt": (pt(3), "no plain array"),
    "many_tensors.pt": (pt([torch.tensor(image) for image in SHARE]), "no plain array"),
    "no_arrays.npz": (npz(), "which array is what? It has none"),
    "two_unknown.npz": (npz(a=GREY, b=GREY), "It has a, b; name images and labels"),
    "two_images.npz": (npz(images=GREY, samples=GREY), "which array is what"),
    "two_labels.npz": (npz(images=GREY, y=Y, labels=Y), "which array is what"),
    "keras.npz": (npz(x_train=GREY, y_train=Y, x_test=GREY, y_test=Y), "It has x_train, y_train"),
    "weights.pt": (pt(torch.nn.Linear(2, 2).state_dict()), "It has weight, bias"),
    "flat.npy": (npy(GREY.reshape(N, 784)), "images of shape (120, 784)"),
    "colour.npy": (npy(GREY[..., None].repeat(3, -1)), "images of shape (120, 28, 28, 3)"),
    "one_image.npy": (npy(GREY[0]), "images of shape (28, 28)"),
    "last.npy": (npy(GREY.T), "images of shape (28, 28, 120)"),
    "oblong.npy": (npy(np.zeros((N, 28, 32))), "images of shape (120, 28, 32)"),
    "small.npy": (npy(GREY[:, 2:-2, 2:-2]), "images of shape (120, 24, 24)"),
    "odd.npy": (npy(np.zeros((N, 29, 29))), "images of shape (120, 29, 29)"),
    "large.npy": (npy(np.zeros((N, 66, 66))), "images of shape (120, 66, 66)"),
    "five.npy": (npy(GREY[:, None, None]), "images of shape (120, 1, 1, 28, 28)"),
    "scalar.npy": (npy(np.array(3)), "images of shape ()"),
    "few.npy": (npy(GREY[:99]), "99 images; 100 or more"),
    "none.npy": (npy(GREY[:0]), "0 images; 100 or more"),
    "scaled_to_64.npy": (npy(GREY.repeat(2, 1).repeat(2, 2)[:, :56, :56]), "in the border"),
    "integers.npy": (npy(GREY.astype(int)), "images of type torch.int64"),
    "booleans.npy": (npy(GREY > 0), "images of type torch.bool"),
    "complex.npy": (npy(SHARE.astype(complex)), "images of type torch.complex128"),
    "to_255.npy": (npy(SHARE * 255), "values from 0 to 255"),
    "normalised.npy": (npy((SHARE - 0.1307) / 0.3081), "undo a normalisation"),
    "not_clipped.npy": (npy(changed(SHARE, -0.05)), "values from -0.05 to 1;"),
    "nan.npy": (npy(changed(SHARE, np.nan)), "values from nan to nan"),
    "infinite.npy": (npy(changed(SHARE, np.inf)), "values from 0 to inf"),
    "zero_or_one.npy": (npy(GREY // 255), "no value above 1; white is 255"),
    "divided_twice.npy": (npy(SHARE / 255), "no value above 0.0039"),
    "short.npz": (npz(GREY, Y[:-1]), "labels of shape (119,) for 120 images"),
    "one_hot.npz": (npz(GREY, np.eye(10)[Y]), "labels of shape (120, 10)"),
    "row_of_labels.npz": (npz(GREY, Y[None]), "labels of shape (1, 120)"),
    "one_label.npz": (npz(GREY, 3), "labels of shape ()"),
    "ten.npz": (npz(GREY, changed(Y, 10)), "from 0 to 9, not 10"),
    "negative.npz": (npz(GREY, changed(Y, -1)), "from 0 to 9, not -1"),
    "a_half.npz": (npz(GREY, changed(Y * 1.0, 0.5)), "from 0 to 9, not 0.5"),
    "not_a_label.npz": (npz(GREY, changed(Y * 1.0, np.nan)), "from 0 to 9, not nan"),
    "labels_are_booleans.npz": (npz(GREY, Y > 3), "not torch.bool"),
    "labels_are_strings.npz": (npz(GREY, Y.astype(str)), "the labels are no plain array"),
    "list_of_labels.pt": (pt((torch.tensor(GREY), [0] * N)), "the labels are no plain array"),
    "empty_folder": (lambda path: path.mkdir(), "has no PNGs"),
    "one_png": (lambda path: (path.mkdir(), grey_png((28, 28)).save(path / "a.png")), "1 images;"),
    "words": (folder_of(inside="three"), "the folder three is not named by a digit"),
    "folder_10": (folder_of(inside="10"), "from 0 to 9, not 10"),
    "both": (folder_of(**{"3_a": grey_png((28, 28))}), "both PNGs and folders of them"),
    "sizes": (folder_of(z=grey_png((32, 32))), "z.png is of another size"),
    "grid": (folder_of(z=grey_png((280, 280))), "z.png has 280 x 280 pixels"),
    "cut": (folder_of(z=CUT), "z.png cannot be read"),
    "not_a_png": (folder_of(z=b"GIF89a"), "z.png cannot be read: it is damaged, or not a PNG"),
    "deep": (folder_of(z=grey_png((28, 28), "I;16")), "z.png has more than 8 bits"),
    "coloured": (folder_of(z=grey_png((28, 28), "RGB", color=(0, 9, 0))), "z.png is in colour"),
    "clear": (folder_of(z=grey_png((28, 28), "LA", color=(0, 9))), "z.png is in colour or tr"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_samples(fails, tmp_path, name):
    """One line that names the file and the fault, before anything is measured or written."""
    write, said = BAD[name]
    path, output = tmp_path / name, tmp_path / "o.png"
    write(path)
    line = fails(evaluate.main, "--samples", path, "--output", output)
    assert f"evaluate.py: error: {path}: " in line and said in line
    assert not (tmp_path / "pwned").exists() and not output.exists()


def test_the_evil_pickle_would_leave_a_folder(tmp_path):
    pickled(tmp_path / "evil.npy")
    pickle.loads((tmp_path / "evil.npy").read_bytes())
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("argv, said", [
    (["--samples"], "--samples"),
    (["--samples", "x.npy", "--n", "100"], "not allowed with"),
    (["--samples", "x.npy", "--quick"], "not allowed with"),
    (["--samples", "x.npy", "--sweep", "scales"], "not allowed with"),
    (["--samples", "x.npy", "--resume"], "--resume"),
    (["--output", "o.png"], "only with --samples"),
    (["--samples", "x.npy", "--models", "nowhere"], "judge.pth is missing"),
    (["--samples", "x.npy", "--data", "nowhere"], "is missing"),
    (["--samples", "x.npy", "--output", "nowhere/o.png"], "does not exist"),
    (["--samples", "x.npy", "--output", "."], "it is a directory"),
    (["--samples", "x.npy", "--output", "x.npy"], "among the samples"),
    (["--samples", "folder", "--output", "folder/o.png"], "among the samples"),
    (["--samples", "x.npy", "missing.npy"], "missing.npy: there is no such file"),
])  # fmt: skip
def test_bad_flags(fails, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", GREY)
    folder_of()(tmp_path / "folder")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert said in fails(evaluate.main, *argv)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_samples_without_the_requirements(fails, monkeypatch):
    monkeypatch.setattr(evaluate.measures, "FrechetInceptionDistance", None)
    assert "requirements-dev.txt" in fails(evaluate.main, "--samples", "x.npy")


# --- the command, with fewer real images ---


def fewer(split):
    images, labels = load_mnist(split)
    return images[:2_000], labels[:2_000]


@pytest.fixture(scope="module")
def yardstick():
    dataset = SimpleNamespace(info=MNIST_INFO, load=fewer)
    return scores.Yardstick(ROOT / "models", dataset, torch.device("cpu"))


@pytest.fixture(scope="module")
def digits():
    """Real images that neither the judge was trained on nor are measured against: 12 a digit."""
    images, labels = load_mnist("validation")
    index = balanced_parts(labels, 1)[0, :, -N // 10 :].flatten()
    return to_uint8(images[index])[:, 0].numpy(), labels[index].numpy()


@pytest.fixture
def score(yardstick, monkeypatch, capsys):
    """Run evaluate.main on files: the lines of stdout and those of stderr."""
    monkeypatch.setattr(scores, "Yardstick", lambda *_: yardstick)

    def run(*argv):
        evaluate.main(["--samples", *map(str, argv)])
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err.splitlines()

    return run


def cells(lines):
    """Path -> the cells of its row."""
    start = next(k for k, line in enumerate(lines) if "Fréchet distance" in line)
    rows = [line.split("  ") for line in lines[start + 1 : -1]]
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def read_by(yardstick, grey):
    """What the judge reads."""
    return judge_images(yardstick.judge, scores.in_range(torch.tensor(grey[:, None])))[1].tolist()


def test_a_row_has_the_measures_and_those_of_real_images(score, yardstick, digits, tmp_path):
    grey, y = digits
    wrong = y.copy()
    wrong[:30] = (y[:30] + 1) % 10
    np.savez(tmp_path / "x.npz", grey, wrong)
    np.save(tmp_path / "y.npy", grey[:115])
    lines, errors = score(tmp_path / "x.npz", tmp_path / "y.npy")
    assert lines[0].startswith("reads ") and "judge.pth" in lines[0] and not errors
    assert lines[1:3] == [
        f"{tmp_path / 'x.npz'}: 120 images, uint8, with labels",
        f"{tmp_path / 'y.npy'}: 115 images, uint8, no labels",
    ]
    rows, floors = cells(lines), []
    for n in (120, 115):
        asked = torch.tensor(wrong if n == 120 else read_by(yardstick, grey[:n]))
        index = yardstick.like(asked)
        labels = yardstick.others.labels[index]
        assert torch.equal(torch.bincount(labels), torch.bincount(asked))
        floors.append(
            (yardstick.others.features[index], yardstick.others.prediction[index], labels)
        )
    for path, n, (real, read_real, y_real) in zip(rows, (120, 115), floors):
        features, read = judge_images(
            yardstick.judge, scores.in_range(torch.tensor(grey[:n, None]))
        )
        both = [(read == torch.tensor(wrong[:n])).sum().item(), (read_real == y_real).sum().item()]
        low, high = wilson_interval(both[0], n)
        accuracy = f"{both[0] / n:.4f} [{low:.4f}, {high:.4f}] ({both[1] / n:.4f})"
        assert rows[path][:2] == [f"{n} ({n})", accuracy if n == 120 else "-"]
        parts = [cell.strip(")").split(" (") for cell in rows[path][2:]]
        test = yardstick.real.features
        for column, of in enumerate((features, real)):
            expected = [frechet_distance(test, of), *precision_recall(test, of)]
            assert [float(part[column]) for part in parts] == pytest.approx(expected, abs=2e-4)
    assert len(rows) == 2 and 0.7 < float(rows[str(tmp_path / "x.npz")][1][:6]) < 0.8


@pytest.mark.parametrize("counts, expected", [
    ([5, 0, 3], [5, 0, 3]), ([100, 0, 0], [100, 0, 0]), ([4_000, 400, 0], None),
])  # fmt: skip
def test_real_images_are_of_the_same_class_frequencies(yardstick, counts, expected):
    """If there are too few of a class, of all of them fewer."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    index = yardstick.like(labels)
    found = torch.bincount(yardstick.others.labels[index], minlength=3).tolist()
    assert len(index.unique()) == len(index)
    if expected is None:
        there = (yardstick.others.labels == 0).sum().item()
        expected = [there, there // 10, 0]
    assert found == expected


def scaled(grey):
    part = torch.tensor(grey)[:, None].float()
    resize = torch.nn.functional.interpolate
    return resize(part, 32, mode="bilinear", antialias=True)[:, 0].round().byte().numpy()


PADDED = "32x32 pixels were taken as padded, and the middle 28x28 is scored"
WARNED = {  # a mistake -> how it is made, and what is warned of
    "none": (lambda grey: grey, []),
    "white background": (lambda grey: 255 - grey, ["dark on a bright background"]),
    "transposed": (lambda grey: grey.transpose(0, 2, 1), ["seem to be transposed"]),
    "both": (lambda grey: 255 - grey.transpose(0, 2, 1), ["dark on a bright background"]),
    "padded": (lambda grey: np.pad(grey, ((0, 0), (2, 2), (2, 2))), [PADDED]),
    "scaled": (scaled, [PADDED, "times as large as in training images: it was scaled to 32x32"]),
    "white padding": (
        lambda grey: np.pad(255 - grey, ((0, 0), (2, 2), (2, 2)), constant_values=255),
        [PADDED, "dark on a bright background"],
    ),
    "copies": (lambda grey: grey.repeat(2, 0)[:N], ["60 of 120 images are exact copies"]),
    "one image": (lambda grey: grey[:1].repeat(N, 0), ["119 of 120 images are exact copies"]),
    "two copies": (lambda grey: np.concatenate([grey[:-2], grey[:2]]), ["2 of 120 images"]),
    "one copy": (lambda grey: np.concatenate([grey[:-1], grey[:1]]), []),
    "noisy": (lambda grey: np.maximum(grey, np.random.default_rng(0).integers(
        0, 60, grey.shape, dtype=np.uint8)), []),
    "noise": (lambda grey: np.random.default_rng(0).integers(
        0, 256, grey.shape, dtype=np.uint8), []),
}  # fmt: skip


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("mistake", WARNED)
def test_warnings(yardstick, digits, tmp_path, mistake, labelled):
    make, said = WARNED[mistake]
    grey, y = digits
    copied = mistake in ("copies", "one image", "two copies", "one copy")
    np.savez(tmp_path / "x.npz", make(grey), *([y] if labelled and not copied else []))
    lines = list(scores.warnings(yardstick, scores.read_samples(tmp_path / "x.npz", 10)))
    assert len(lines) == len(said), lines
    assert all(part in line for part, line in zip(said, lines)), lines


@pytest.mark.parametrize("digit", range(10))
def test_samples_of_one_digit_are_no_mistake(yardstick, tmp_path, digit):
    images, labels = load_mnist("validation")
    np.save(tmp_path / "x.npy", to_uint8(images[labels == digit][:N]))
    assert not list(scores.warnings(yardstick, scores.read_samples(tmp_path / "x.npy", 10)))


def test_a_warning_is_one_line_on_stderr_and_no_error(score, digits, tmp_path):
    np.save(tmp_path / "white.npy", 255 - digits[0])
    lines, errors = score(tmp_path / "white.npy")
    assert len(errors) == 1 and str(tmp_path / "white.npy") in cells(lines)
    assert errors[0].startswith(f"evaluate.py: warning: {tmp_path / 'white.npy'}: the images seem")


# --- the picture ---


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: images, labels of the rows, labels of the columns."""
    grids = []
    save = scores.save_labelled_grid
    monkeypatch.setattr(
        scores, "save_labelled_grid", lambda path, *args: grids.append(args) or save(path, *args)
    )
    return grids


def test_the_picture_shows_samples_above_their_nearest_training_images(
    score, yardstick, tmp_path, drawn
):
    """Training images themselves: the nearest ones are the same."""
    images, labels = fewer("train")
    index = balanced_parts(labels, 1)[0, :, : N // 10].flatten()
    images, labels = images[index], labels[index]
    save_npz(tmp_path / "x.npz", images, labels)
    np.save(tmp_path / "x$y_$.npy", to_uint8(images))
    lines, _ = score(tmp_path / "x.npz", "--output", tmp_path / "o.png")
    shown, rows, columns, _ = drawn.pop()
    assert shown.shape == (20, 1, 28, 28) and torch.equal(shown[:10], shown[10:])
    assert rows == [str(tmp_path / "x.npz"), "nearest training image"]
    assert columns == [*"0123456789"] and len(shown.unique(dim=0)) == 10
    made_from = json.loads(Image.open(tmp_path / "o.png").info["provenance"])
    assert list(made_from["weights"]) == ["judge.pth"]
    assert list(made_from["settings"]["samples"]) == [str(tmp_path / "x.npz")]
    assert lines[-1].startswith(f"{tmp_path / 'o.png'}: 10 samples above their nearest")
    lines, _ = score(*tmp_path.glob("x*"), "--output", tmp_path / "o.png")
    shown, rows, columns, _ = drawn.pop()
    assert len(shown) == 40 and columns == [""] * 10 and "as the judge reads it" in lines[-1]
    assert {row[row.index(": ") :] for row in rows[::2]} == {
        ": 0 1 2 3 4 5 6 7 8 9",
        ": 0? 1? 2? 3? 4? 5? 6? 7? 8? 9?",
    }


def test_the_whole_command_in_a_process_from_another_folder(tmp_path, digits):
    np.savez(tmp_path / "mine.npz", digits[0][..., None], digits[1])
    command = [sys.executable, str(ROOT / "evaluate.py"), "--samples", "mine.npz"]
    done = subprocess.run(
        [*command, "--output", "o.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    row = cells(done.stdout.splitlines()[:-1])["mine.npz"]
    assert row[0] == "120 (120)" and float(row[1][:6]) > 0.95 and float(row[2].split()[0]) < 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.npz", "o.png"]
