"""The classifier: a small CNN for p(y | x_t, t), the class probabilities of a noisy image.

Its gradient guides the sampling (Dhariwal & Nichol 2021, "ADM", section 4), so the network needs
these properties:

- Its features depend on t: an embedding of t scales and shifts them in every block. If t entered
  only at the last layer, it would merely shift the logits.
- It is smooth: SiLU and strided convolutions.
- The logits of an image do not depend on the rest of the batch: GroupNorm, not BatchNorm.
- It is small, because it runs forward and backward at every guided step.
"""

import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

CHANNELS = 16


class Classifier(nn.Module):
    """Logits of p(y | x_t, t).

    Args:
        channels: number of channels at half resolution, a multiple of 8; twice as many at quarter
            resolution.
        embedding_dim: dimension of the timestep embedding.
        num_classes: number of classes, K.
        image_shape: (C, H, H), where H is a multiple of 4.
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
        """Logits (B, K) of noisy images x_t (B, C, H, W) at timesteps t (B,)."""
        dtype = self.linear.weight.dtype
        embedding = F.silu(self.time_embedding(self.time_proj(t).to(dtype)))
        h = self.conv_in(x_t.to(dtype))  # (B, channels, H / 2, W / 2)
        h = self.block1(h, embedding)
        h = self.block2(h, embedding)  # (B, 2 * channels, H / 4, W / 4)
        h = self.block3(h, embedding)
        h = F.silu(self.norm_out(h)).flatten(1)
        return self.linear(h).to(x_t.dtype)

    def log_p(self, x_t, t, y):
        """log p(y | x_t, t) of the classes y (B,), int64: (B,). This is the guide."""
        return -F.cross_entropy(self(x_t, t), y, reduction="none")


class FiLMBlock(nn.Module):
    """A residual block of two 3x3 convolutions; t scales and shifts the features in between."""

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
        """h (B, in_channels, H, W), embedding (B, embedding_dim) -> (B, out_channels, ...)."""
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        residual = self.conv1(F.silu(self.norm1(h)))
        residual = self.norm2(residual) * (1 + scale) + shift
        return self.skip(h) + self.conv2(F.silu(residual))
