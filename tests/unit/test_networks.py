"""The networks compute what the shipped weights were trained for, and t reaches their features."""

import pytest
import torch
from conftest import ROOT

import train_classifier
from classifier import Classifier
from diffusion import ALPHAS_CUMPROD, IMAGE_SHAPE, UNET_CONFIG, make_unet, stratified_timesteps
from inference import load_models
from mnist import load_mnist
from support.checkpoints import read_checkpoint
from train_classifier import predict_noised, validate, validation_timesteps
from train_ddpm import loss_weights, make_optimizers, validation_loss


@pytest.fixture(scope="module")
def digits():
    images, labels = load_mnist("validation")
    return images[:200], labels[:200]


def test_the_default_networks_are_those_that_ship():
    for name, network in (("classifier", Classifier()), ("ddpm_unet", make_unet())):
        saved = read_checkpoint(ROOT / "models" / f"{name}.pth", "?")
        network.load_state_dict(saved["state_dict"])
        config = {k: v for k, v in dict(network.config).items() if k in saved["config"]}
        assert config == saved["config"]


def test_the_shipped_classifier_classifies(classifier, digits):
    bands = validate(classifier, *digits, "cpu")
    assert bands["0-99"]["accuracy"] == 1 and bands["0-99"]["calibration_error"] < 0.02
    assert 0.75 < bands["300-499"]["accuracy"] < 0.95
    assert 0.15 < bands["500-999"]["accuracy"] < 0.4
    assert 0.5 < bands["0-999"]["accuracy"] < 0.7


def test_the_shipped_classifier_is_as_sure_as_when_it_was_trained():
    """Its cross-entropy over uniform t, to four digits: the network's arithmetic is unchanged."""
    _, classifier = load_models()
    images, labels = (part[:1000] for part in load_mnist("validation"))
    p = predict_noised(classifier, images, validation_timesteps(1000))
    cross_entropy = -p.gather(1, labels[:, None]).clamp(min=1e-12).log().mean().item()
    assert cross_entropy == pytest.approx(1.0870, abs=1e-3)


def test_the_bands_of_validation_begin_and_end_where_they_say(monkeypatch):
    """A classifier that is right for t < 100 only: 1 in the first band, 0 in the others."""

    def right_below_100(classifier, images, t, device):
        assert device == "a device"
        y = torch.where(t < 100, 3, 4)
        return torch.nn.functional.one_hot(y, 10).float()

    monkeypatch.setattr(train_classifier, "predict_noised", right_below_100)
    images, labels = torch.zeros(1000, *IMAGE_SHAPE), torch.full((1000,), 3)
    bands = validate(None, images, labels, "a device")
    accuracies = {name: band["accuracy"] for name, band in bands.items()}
    assert accuracies == pytest.approx(
        {"0-999": 0.1, "0-99": 1, "100-299": 0, "300-499": 0, "500-999": 0}
    )


def test_stratified_timesteps_never_reach_1000(monkeypatch):
    """The largest random number below 1 rounds up to t = 1000 in a batch, and is clamped."""
    largest = torch.nextafter(torch.ones(64), torch.zeros(64))
    monkeypatch.setattr(torch, "rand", lambda n, generator: largest[:n])
    t = stratified_timesteps(64, None)
    assert t[-1] == 999 and t[0] == 15 and len(t) == 64


def test_the_shipped_unet_predicts_the_noise(unet, digits):
    assert validation_loss(unet, digits[0]) < 0.026
    assert validation_loss(unet, torch.zeros_like(digits[0])) > 0.03  # gray images are not digits


def test_an_untrained_unet_predicts_v_0():
    unet, x_t = make_unet(), torch.randn(2, *IMAGE_SHAPE)
    eps = unet(x_t, torch.tensor([500, 999])).sample
    root = (1 - ALPHAS_CUMPROD[[500, 999]]).sqrt().view(2, 1, 1, 1)
    torch.testing.assert_close(eps, root * x_t)
    assert unet.config["block_out_channels"] == UNET_CONFIG["block_out_channels"]


def test_t_changes_the_features_of_the_classifier(classifier):
    """More than a bias for each class: the change of the logits depends on the image."""
    x_t = torch.randn(2, *IMAGE_SHAPE)
    early, late = (classifier(x_t, torch.full((2,), t)) for t in (900, 100))
    change = early - late
    assert (change[0] - change[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    "shapes", [((1, 1, 32, 32), (1,)), ((2, 1, 28, 28), (1,)), ((2, 28, 28), (2,))]
)
def test_the_classifier_refuses_other_shapes(shapes):
    x_shape, t_shape = shapes
    with pytest.raises(AssertionError, match=r"is \(B"):
        Classifier()(torch.zeros(x_shape), torch.zeros(t_shape, dtype=torch.long))


def test_the_weights_of_the_loss():
    weights = loss_weights()
    assert weights.shape == (1000,)
    assert weights[0] == pytest.approx(0.5, abs=1e-3) and weights[149] < 0.7
    assert weights[150] == pytest.approx(1 / ALPHAS_CUMPROD[150].item())
    assert weights[395] < 5 and (weights[396:] == 5).all()


def test_the_optimizers_of_the_unet():
    unet = make_unet()
    muon, adamw = make_optimizers(unet, 2e-3)
    assert muon.param_groups[0]["lr"] == pytest.approx(6e-3)
    group = adamw.param_groups[0]
    assert group["lr"] == 2e-3 and group["weight_decay"] == 0 and group["betas"] == (0.9, 0.99)
    assert group["fused"]
    kernels = {id(kernel) for kernel in muon.param_groups[0]["params"]}
    assert id(unet.conv_in.weight) not in kernels and id(unet.conv_out.weight) not in kernels
    others = {id(parameter) for parameter in adamw.param_groups[0]["params"]}
    assert not kernels & others and len(kernels) > 10
    assert kernels | others == {id(parameter) for parameter in unet.parameters()}
