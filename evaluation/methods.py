"""The methods of a table: guidance, its controls, and its rivals.

A method is a class, see `inference.Method`. `evaluate.py` makes one for each row, and gives it what
its arguments name: `ddpm`, our DDPM; `rival`, that of classifier-free guidance; `log_p`, the guide;
`exact`, the exact networks of the training images; and `scale`. `python evaluate.py --method guided
FILE.py:NAME` compares one of your own.
"""

import torch

from diffusion import clipped_noise, for_each, implied_noise
from evaluation.rivals import ClassifierFree
from inference import Guided, Unguided, check_betas, gradient, predicted_image

# --- controls: what if one thing were otherwise? ---


class Control(Guided):
    """A method that changes what guidance adds to eps, or what becomes of it."""

    def change(self, x_t, t, y):
        """What ADM (14) adds to eps: as x_t."""
        return -self.scale(t) * (1 - self.abar[t]).sqrt() * self.gradient(x_t, t, y)

    def gradient(self, x_t, t, y):
        """Of the guide, as x_t."""
        return gradient(self.log_p, x_t, t, y)

    def __call__(self, x_t, t, y):
        return self.clipped_eps(x_t, t) + self.change(x_t, t, y)


class WithoutRoot(Control):
    """ADM (14) without sqrt(1 - abar_t), a common mistake: stronger where noise is low."""

    def change(self, x_t, t, y):
        """As `Control.change`."""
        return -self.scale(t) * self.gradient(x_t, t, y)


class ClipAfterTilt(Control):
    """The predicted x_0 is clipped after it is guided, which is what diffusers' schedulers do."""

    def __call__(self, x_t, t, y):
        with torch.no_grad():
            eps = self.eps(x_t, t)
        eps_hat = eps + self.change(x_t, t, y)
        return clipped_noise(x_t, eps_hat, self.abar[t], self.limit)


class AtPredictedX0(Guided):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    def __init__(self, ddpm, log_p, scale):
        def log_p_of_x_0(x_t, t, y):
            return log_p(predicted_image(ddpm, x_t, t), torch.zeros_like(t), y)

        check_betas(log_p, ddpm)
        super().__init__(ddpm, log_p_of_x_0, scale)


class OnRival(Control):
    """The rival's U-Net without label, and the gradient of the guide."""

    labelled = True

    def __init__(self, rival, log_p, scale):
        super().__init__(rival, log_p, scale)
        self.unguided = ClassifierFree(rival, 0)

    def __call__(self, x_t, t, y):
        return self.unguided(x_t, t, y) + self.change(x_t, t, y)


# --- is it the guide, or the U-Net? Exact networks in their place, see evaluation/exact.py ---


class ExactDenoiser(Guided):
    """The exact denoiser of the training images in the place of our U-Net."""

    def __init__(self, ddpm, log_p, exact, scale):
        super().__init__(ddpm, log_p, scale)
        self.exact = exact

    def eps(self, x_t, t):
        """The noise that x_t has on average, over the training images: as x_t."""
        return implied_noise(x_t, self.exact.denoised(x_t, for_each(x_t, t)), self.abar[t])


class ExactLength(Control):
    """The direction of the guide's gradient, and the length of the exact one."""

    def __init__(self, ddpm, log_p, exact, scale):
        super().__init__(ddpm, log_p, scale)
        self.exact = exact

    def gradient(self, x_t, t, y):
        """What stands in the place of the guide's gradient: as x_t."""
        ours = gradient(self.log_p, x_t, t, y)
        return ours * length(gradient(self.exact.log_p, x_t, t, y)) / length(ours)


class ExactDirection(ExactLength):
    """The direction of the exact gradient, and the length of the guide's one.

    Where the exact gradient is 0 it has no direction, and there is no guidance.
    """

    def gradient(self, x_t, t, y):
        """As `ExactLength.gradient`."""
        exact = gradient(self.exact.log_p, x_t, t, y)
        ours = gradient(self.log_p, x_t, t, y)
        return exact * length(ours) / length(exact).clamp(min=1e-12)


def length(grad):
    """The length of each gradient of a batch (B, C, H, W): (B, 1, 1, 1)."""
    return grad.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


METHODS = {
    "unguided": Unguided,
    "guided": Guided,
    "classifier_free": ClassifierFree,
    "without_root": WithoutRoot,
    "clip_after_tilt": ClipAfterTilt,
    "at_predicted_x_0": AtPredictedX0,
    "on_rival": OnRival,
    "exact_denoiser": ExactDenoiser,
    "exact_length": ExactLength,
    "exact_direction": ExactDirection,
}
