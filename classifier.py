"""The guide: a small CNN for p(y | x_t, t), which digit a noisy image shows.

Its gradient guides the sampling (Dhariwal & Nichol 2021, "ADM", section 4). This asks three things
of the network:

- Its *features* depend on t: an embedding of t scales and shifts them in every block. Feeding t
  to the last layer only would add a bias to each class and nothing more.
- It is smooth (SiLU, strided convolutions, GroupNorm), so that its gradient is usable. Without
  BatchNorm an image's log-probability never depends on the rest of the batch.
- It is cheap, since it runs forward and backward at every guided step.
"""

import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from diffusion import scheduler_of
from support.errors import UserError
from support.files import load_checkpoint

CHANNELS = 16


class Classifier(nn.Module):
    """Logits of p(y | x_t, t).

    Args:
        channels: width at half the size of the images, a multiple of 8; twice that at a quarter.
        embedding_dim: width of the embedding of t.
        num_classes: K, the values of y.
        image_shape: (C, H, W), square; H is a multiple of 4.
    """

    def __init__(
        self, channels=CHANNELS, embedding_dim=128, num_classes=10, image_shape=(1, 28, 28)
    ):
        super().__init__()
        self.config = {
            "channels": channels,
            "embedding_dim": embedding_dim,
            "num_classes": num_classes,
            "image_shape": list(image_shape),
        }
        self.time_proj = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(64, embedding_dim)
        self.conv_in = nn.Conv2d(image_shape[0], channels, 4, stride=2, padding=1)
        self.block1 = FiLMBlock(channels, channels, embedding_dim)
        self.block2 = FiLMBlock(channels, 2 * channels, embedding_dim, stride=2)
        self.block3 = FiLMBlock(2 * channels, 2 * channels, embedding_dim)
        self.norm_out = nn.GroupNorm(8, 2 * channels)
        self.linear = nn.Linear(2 * channels * (image_shape[1] // 4) ** 2, num_classes)

    def forward(self, x_t, t):
        """Logits (B, K) of x_t (B, C, H, W), images in [-1, 1] noised to t (B,), 0 .. 999."""
        shape = tuple(self.config["image_shape"])
        if x_t.shape[1:] != shape:
            raise UserError(f"the classifier reads images {shape}, not {tuple(x_t.shape[1:])}")
        if t.shape != x_t.shape[:1]:
            raise UserError(f"t has the shape {tuple(t.shape)}, not ({len(x_t)},)")
        embedding = F.silu(self.time_embedding(self.time_proj(t)))
        h = self.conv_in(x_t)  # (B, channels, H / 2, W / 2)
        h = self.block1(h, embedding)
        h = self.block2(h, embedding)  # (B, 2 * channels, H / 4, W / 4)
        h = self.block3(h, embedding)
        h = F.silu(self.norm_out(h)).flatten(1)
        return self.linear(h)

    def log_p(self, x_t, t, y):
        """log p(y | x_t, t) of the classes y (B,): (B,). This is the guide that sampling takes."""
        last = self.config["num_classes"] - 1
        if y.shape != t.shape or y.is_floating_point():
            raise UserError(f"y is {y.dtype} {tuple(y.shape)}, classes are ints {tuple(t.shape)}")
        if y.is_cpu and not (y.min() >= 0 and y.max() <= last):  # a GPU would have to wait
            raise UserError(f"y has values from {y.min()} to {y.max()}; classes are 0 .. {last}")
        return self(x_t, t).log_softmax(dim=1).gather(1, y[:, None].long())[:, 0]


class FiLMBlock(nn.Module):
    """A residual block of two 3x3 convolutions; t scales and shifts the features between them."""

    def __init__(self, in_channels, out_channels, embedding_dim, stride=1):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.scale_shift = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels, affine=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if stride == 1:
            self.skip = nn.Identity()
        else:
            self.skip = nn.Conv2d(in_channels, out_channels, kernel_size=stride, stride=stride)

    def forward(self, h, embedding):
        """h: (B, in_channels, H, W). embedding: (B, embedding_dim)."""
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        residual = self.conv1(F.silu(self.norm1(h)))
        residual = self.norm2(residual) * (1 + scale) + shift
        return self.skip(h) + self.conv2(F.silu(residual))


def load_classifier(path, device="cpu", network=Classifier):
    """The guide of a checkpoint of train_classifier.py, in eval mode. Raises UserError.

    `classifier.scheduler` is the DDPMScheduler whose noise it has learned from, and
    `classifier.dataset` says of what data set.
    """
    classifier = load_checkpoint(path, network, device)
    classifier.scheduler = scheduler_of(classifier, path)
    return classifier
