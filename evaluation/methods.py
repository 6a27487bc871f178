"""The methods of a table: guidance, its controls, and its rivals.

A method is a class, see `inference.Method`. `evaluate.py` makes one for each row, and gives it what
its arguments name: `ddpm`, our DDPM; `rival`, that of classifier-free guidance; `log_p`, the guide;
`exact`, the exact networks of the training images; and `scale`. `python evaluate.py --method guided
FILE.py:NAME` compares one of your own.
"""

import torch

from diffusion import check_same_betas, clipped_noise, for_each, implied_noise, predicted_x_0
from evaluation.rivals import ClassifierFree
from inference import Guided, Method, Unguided, check_betas, gradient, predicted_image

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

    def __call__(self, x_t, t, y):
        eps = self.clipped_eps(x_t, t)
        return eps - self.scale(t) * gradient(self.log_p, x_t, t, y)


class ClipAfterTilt(Control):
    """The predicted x_0 is clipped after it is guided, which is what diffusers' schedulers do."""

    def __call__(self, x_t, t, y):
        with torch.no_grad():
            eps = self.eps(x_t, t)
        eps_hat = eps + self.change(x_t, t, y)
        return clipped_noise(x_t, eps_hat, self.abar[t], self.limit)


class Projected(Control):
    """The projection of adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416).

    The change that guidance makes loses its part along the predicted x_0, where black is 0, so it
    cannot brighten the image as a whole. Their limit on the change, and momentum, are left out.
    """

    def __call__(self, x_t, t, y):
        eps, change = self.clipped_eps(x_t, t), self.change(x_t, t, y)
        image = predicted_x_0(x_t, eps, self.abar[t]) + 1
        along = (change * image).sum(dim=(1, 2, 3), keepdim=True)
        length = image.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
        return eps + change - along / length * image


class AtPredictedX0(Guided):
    """The guide is given the predicted x_0, at t = 0; its gradient goes through the U-Net."""

    def __init__(self, ddpm, log_p, scale):
        def log_p_of_x_0(x_t, t, y):
            return log_p(predicted_image(ddpm, x_t, t), torch.zeros_like(t), y)

        check_betas(log_p, ddpm)
        super().__init__(ddpm, log_p_of_x_0, scale)


# --- is it the guide, or the U-Net? At s = 1, all terms are alike if all networks are exact ---


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


class Difference(Method):
    """Our U-Net; in the place of the classifier's term, what the label changes in the rival."""

    def __init__(self, ddpm, rival, scale):
        super().__init__(ddpm, scale)
        check_same_betas(rival.scheduler, ddpm.scheduler, "the rival")
        self.rival = ClassifierFree(rival, 1)

    @torch.no_grad()
    def __call__(self, x_t, t, y):
        eps = self.clipped_eps(x_t, t)
        with_label = self.rival.eps(x_t, t, y)
        without = self.rival.eps(x_t, t, self.rival.no_label(y))
        return eps + self.scale(t) * (with_label - without)


class OnRival(Control):
    """The rival's U-Net without label, and the classifier's term."""

    labelled = True

    def __init__(self, rival, log_p, scale):
        super().__init__(rival, log_p, scale)
        self.unguided = ClassifierFree(rival, 0)

    def __call__(self, x_t, t, y):
        return self.unguided(x_t, t, y) + self.change(x_t, t, y)


class DifferenceLate(Difference):
    """Our U-Net; the classifier's term in the first half of all timesteps, then the difference."""

    def __init__(self, ddpm, rival, log_p, scale):
        super().__init__(ddpm, rival, scale)
        self.guided, self.middle = Guided(ddpm, log_p, scale), len(self.abar) // 2

    def __call__(self, x_t, t, y):
        if t >= self.middle:
            return self.guided(x_t, t, y)
        return super().__call__(x_t, t, y)


class DifferenceEarly(DifferenceLate):
    """Our U-Net; the difference in the first half of all timesteps, then the classifier's term."""

    def __call__(self, x_t, t, y):
        if t >= self.middle:
            return Difference.__call__(self, x_t, t, y)
        return self.guided(x_t, t, y)


METHODS = {
    "unguided": Unguided,
    "guided": Guided,
    "classifier_free": ClassifierFree,
    "without_root": WithoutRoot,
    "clip_after_tilt": ClipAfterTilt,
    "projected": Projected,
    "at_predicted_x_0": AtPredictedX0,
    "exact_denoiser": ExactDenoiser,
    "exact_length": ExactLength,
    "exact_direction": ExactDirection,
    "difference": Difference,
    "on_rival": OnRival,
    "difference_late": DifferenceLate,
    "difference_early": DifferenceEarly,
}
