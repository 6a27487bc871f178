"""The networks: what the classifier's logits depend on, and the optimizers of the U-Net."""

import torch

from classifier import Classifier
from diffusion import make_unet
from train_ddpm import make_optimizers


def test_t_turns_the_gradient_of_a_logit(classifier):
    """A t that only shifts each class would leave it as it is."""
    x_t = torch.randn(4, 1, 28, 28).requires_grad_()
    logits = [classifier(x_t, torch.full((4,), t))[:, 3] for t in (900, 100)]
    early, late = (torch.autograd.grad(logit.sum(), x_t)[0].flatten(1) for logit in logits)
    assert torch.nn.functional.cosine_similarity(early, late).max() < 0.9


def test_log_p_is_the_log_softmax_of_the_logits():
    classifier = Classifier()
    x_t, t, y = torch.randn(3, 1, 28, 28), torch.tensor([5, 300, 900]), torch.tensor([7, 0, 3])
    logits = classifier(x_t, t)
    expected = torch.stack([logits[i, y[i]] - logits[i].exp().sum().log() for i in range(3)])
    torch.testing.assert_close(classifier.log_p(x_t, t, y), expected)


def test_every_parameter_of_the_unet_has_exactly_one_optimizer():
    """Muon trains all kernels but the first and the last, by way of matrices that share memory."""
    unet = make_unet((3, 32, 32))
    (muon, adamw), _ = make_optimizers(unet, 1e-3, 100)
    matrices, rest = (part.param_groups[0]["params"] for part in (muon, adamw))
    trained = [parameter.data_ptr() for parameter in [*matrices, *rest]]
    assert sorted(trained) == sorted(parameter.data_ptr() for parameter in unet.parameters())
    kernels = {id(p) for p in rest if p.ndim == 4}
    assert kernels == {id(unet.conv_in.weight), id(unet.conv_out.weight)}

    before = [parameter.clone() for parameter in unet.parameters()]
    for parameter in unet.parameters():
        parameter.grad = torch.randn_like(parameter)
    for part in (muon, adamw):
        part.param_groups[0]["lr"] = 1e-3  # it is 0 before the first step
        part.step()
    assert not any(map(torch.equal, before, unet.parameters()))
