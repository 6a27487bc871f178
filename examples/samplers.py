"""The four samplers of inference.py, written out; a pattern for your own sampler.

    sample(ddpm, y, seeds, predict, steps=20, loop=partial(written_out, order=2, eta=0))

A loop has the arguments of `inference.reverse` and yields (t, x_t, x_0) at each timestep; the last
x_0 is the sample. It may call `predict` as often as it needs to.
"""

from itertools import pairwise

from diffusers.utils.torch_utils import randn_tensor

from diffusion import END, abar_table, eps_from_x_0, snr, x_0_from_eps


def written_out(predict, scheduler, x_t, y, rngs, order=1, eta=1, noise=randn_tensor):
    """Order 1 is DDIM (eta = 0) or DDPM (eta = 1); order 2 is DPM-Solver++ (2M) or its SDE version.

    Lu et al. 2022, arXiv 2211.01095, Algorithm 2. noise(shape, rngs) draws fresh noise.
    """
    abar, previous = abar_table(scheduler), None
    half_log_snr = snr(abar).log() / 2
    for t, u in pairwise([*scheduler.timesteps.tolist(), END]):
        x_0 = target = x_0_from_eps(x_t, predict(x_t, t, y), abar[t])  # DDPM (15)
        yield t, x_t, x_0
        if u == END:
            return

        if order == 2 and previous:  # extrapolate x_0 to halfway between t and u
            r, x_0_at_r = previous
            slope = (x_0 - x_0_at_r) / (half_log_snr[t] - half_log_snr[r])
            target = x_0 + slope * (half_log_snr[u] - half_log_snr[t]) / 2
        previous = t, x_0

        eps = noise(x_t.shape, rngs).to(x_t) if eta else 0
        x_t = step(x_t, target, abar[t], abar[u], eps, eta)


def step(x_t, x_0, abar_t, abar_u, eps, eta):
    """x_u at a less noisy timestep u, given x_t and its image x_0: DDIM (12), (16).

    Song et al. 2021, arXiv 2010.02502. With eta = 1, this draws from the posterior
    q(x_u | x_t, x_0) of DDPM, (6) and (7). eps is fresh noise.
    """
    variance = eta**2 * (1 - abar_u) / (1 - abar_t) * (1 - abar_t / abar_u)
    old_noise = (1 - abar_u - variance).sqrt() * eps_from_x_0(x_t, x_0, abar_t)
    return abar_u.sqrt() * x_0 + old_noise + variance.sqrt() * eps
