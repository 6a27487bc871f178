"""The networks: what the classifier's logits depend on, eps and v, the loss, and the optimizers."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DModel

from classifier import Classifier
from diffusion import ALPHAS_CUMPROD, IMAGE_SHAPE, UNET_CONFIG, UNet, abar, add_noise, make_unet
from diffusion import simple_loss
from train_ddpm import loss_weights, make_optimizers


def test_t_turns_the_gradient_of_a_logit(classifier):
    """A t that only shifts each class would leave it as it is."""
    x_t = torch.randn(4, *IMAGE_SHAPE).requires_grad_()
    logits = [classifier(x_t, torch.full((4,), t))[:, 3] for t in (900, 100)]
    early, late = (torch.autograd.grad(logit.sum(), x_t)[0].flatten(1) for logit in logits)
    assert torch.nn.functional.cosine_similarity(early, late).max() < 0.9


def test_log_p_is_the_log_softmax_of_the_logits():
    classifier = Classifier()
    x_t, t, y = torch.randn(3, *IMAGE_SHAPE), torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    logits = classifier(x_t, t)
    expected = torch.stack([logits[i, y[i]] - logits[i].exp().sum().log() for i in range(3)])
    torch.testing.assert_close(classifier.log_p(x_t, t, y), expected)


def test_layers_that_know_v_give_eps(monkeypatch):
    """v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0; for a t of each image, and one t of all."""
    x_0, eps = torch.rand(4, *IMAGE_SHAPE) * 2 - 1, torch.randn(4, *IMAGE_SHAPE)
    for t in (torch.tensor([0, 100, 600, 999]), torch.tensor(600)):
        v = abar(t).sqrt() * eps - (1 - abar(t)).sqrt() * x_0
        monkeypatch.setattr(UNet2DModel, "forward", lambda *_, v=v: SimpleNamespace(sample=v))
        found = UNet(**UNET_CONFIG)(add_noise(x_0, eps, t), t).sample
        torch.testing.assert_close(found, eps, atol=1e-5, rtol=0)


def test_the_weighted_loss_is_that_of_v_up_to_its_limit(monkeypatch):
    """Outputs of the layers that differ by 1 count 1; half as much at low noise."""
    outputs = iter((torch.zeros(1000, *IMAGE_SHAPE), torch.ones(1000, *IMAGE_SHAPE)))
    monkeypatch.setattr(UNet2DModel, "forward", lambda *_: SimpleNamespace(sample=next(outputs)))
    unet, x_t, t = UNet(**UNET_CONFIG), torch.zeros(1000, *IMAGE_SHAPE), torch.arange(1000)
    weighted = loss_weights() * simple_loss(unet(x_t, t).sample, unet(x_t, t).sample)
    expected = torch.cat([torch.full((150,), 0.5), (5 * ALPHAS_CUMPROD[150:]).clamp(max=1)])
    torch.testing.assert_close(weighted, expected, atol=1e-3, rtol=1e-3)
    assert expected[395] == 1 and expected[396] < 1


def test_every_parameter_of_the_unet_has_exactly_one_optimizer():
    """Muon has all kernels but the first and the last; both rates rise from 0, and fall to 0."""
    unet = make_unet()
    optimizers, schedules = make_optimizers(unet, 1e-3, 100)
    kernels, rest = (optimizer.param_groups[0]["params"] for optimizer in optimizers)
    assert sorted(map(id, kernels + rest)) == sorted(map(id, unet.parameters()))
    assert {kernel.ndim for kernel in kernels} == {4}
    outer = {id(unet.conv_in.weight), id(unet.conv_out.weight)}
    assert {id(parameter) for parameter in rest if parameter.ndim == 4} == outer
    for schedule, peak in zip(schedules, (3e-3, 1e-3)):
        rates = [peak * schedule.lr_lambdas[0](step) for step in (0, 25, 50, 75, 100)]
        assert rates == pytest.approx([0, peak / 2, peak, peak / 2, 0])
        assert schedule.base_lrs == [peak]
