"""Our answers to the exercises of lesson 2, and two of its bugs; the notebooks do not show them."""

from course.lesson import clipped_noise, path_of
from diffusion import END
from inference import guided


def without_root(ddpm, grad, s):
    """ADM (14) without sqrt(1 - abar_t)."""
    return lambda x_t, t, y: ddpm(x_t, t) - s * grad(x_t, t, y)


def clipped_after_guidance(ddpm, grad, s):
    """The predicted x_0 is clipped after the guidance, as diffusers' schedulers do."""

    def predict(x_t, t, y):
        shift = s * (1 - ddpm.abar[t]).sqrt() * grad(x_t, t, y)
        return clipped_noise(x_t, ddpm.eps(x_t, t) - shift, ddpm.abar[t])

    return predict


def size_of_push(ddpm, grad, t, u, x_t, y):
    """How far guidance at t with s = 1 moves x_u, if u follows t: the mean of the norms."""

    def x_u(s):
        predict = guided(ddpm, grad, lambda now: s if now == t else 0)
        return path_of(predict, x_t, y, [t, u, END])[1][1]

    return (x_u(1) - x_u(0)).flatten(1).norm(dim=1).mean()
