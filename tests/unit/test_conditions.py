"""What is asked for may be pixels, or anything else (N, ...): batches, devices and noise."""

import pytest
import torch

import inference
from diffusion import make_sampler, make_unet
from inference import sample
from support import streams
from support.streams import generator, image_generators, in_batches


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_pixels_reach_the_guide_in_batches(batch_size):
    """y (N, 1, 14, 28), in order, on the device of the U-Net; the noise ignores the batch size."""
    y, seen = torch.rand(5, 1, 14, 28), []
    unet = make_unet().eval().requires_grad_(False)

    def log_p(x_t, t, y):
        assert y.device == x_t.device and len(y) == len(x_t) == len(t)
        seen.append((int(t[0]), x_t[:, 0, 0, 0].detach(), y))
        return (x_t[:, :, :14] * y).sum(dim=(1, 2, 3))

    images = sample(unet, log_p, y, steps=2, batch_size=batch_size)
    assert images.shape == (5, 1, 28, 28)
    assert torch.equal(torch.cat([part for t, _, part in seen if t == 999]), y)
    first = torch.cat([pixel for t, pixel, _ in seen if t == 999])
    expected = [
        torch.randn(1, 28, 28, generator=generator(0, "samples", 0, k))[0, 0, 0] for k in range(5)
    ]
    assert torch.equal(first, torch.stack(expected))


@pytest.mark.parametrize("labels", [torch.rand(4), torch.rand(4, 2), torch.zeros(4, 2).long()])
def test_conditions_that_are_no_label_are_numbered(labels):
    found = [rng.initial_seed() for rng in image_generators(7, labels)]
    assert found == [generator(7, "samples", 0, k).initial_seed() for k in range(4)]


def test_labels_keep_their_noise():
    """Keyed by label and number, for whole numbers of any width."""
    for kind in (torch.int64, torch.int32, torch.uint8):
        found = image_generators(7, torch.tensor([3, 1, 3], dtype=kind))
        seeds = [rng.initial_seed() for rng in found]
        keys = (3, 0), (1, 0), (3, 1)
        assert seeds == [generator(7, "samples", *key).initial_seed() for key in keys]


def test_draw_gets_what_was_asked_for_in_batches():
    got = []

    def draw(y, generators, step_done):
        got.append((tuple(y.shape), len(generators)))
        return torch.zeros(len(y), 1)

    assert in_batches(draw, torch.rand(5, 3, 2), 0, 2, steps=1).shape == (5, 1)
    assert got == [((2, 3, 2), 2), ((2, 3, 2), 2), ((1, 3, 2), 1)]


def test_conditions_go_to_the_device_of_the_sampler(monkeypatch):
    """The "meta" device stands for a GPU; the reverse process is replaced."""
    seen = []

    def reverse_process(predict_noise, scheduler, x_T, generators):
        predict_noise(x_T, 999)
        return torch.zeros(x_T.shape)

    monkeypatch.setattr(streams, "check_finite", lambda *_: None)
    monkeypatch.setattr(inference, "reverse_process", reverse_process)
    inference.sample_with(
        lambda x_t, t, y: seen.append((x_t.device.type, y.device.type)),
        lambda: make_sampler("ddim", 1, "meta"),
        torch.rand(2, 1, 14, 28),
    )
    assert seen == [("meta", "meta")]
