"""Solvers of diffusers that are only measured, beside diffusion.SAMPLERS."""

from diffusers import DEISMultistepScheduler, UniPCMultistepScheduler

from diffusion import SCHEDULE

SOLVERS = {
    "unipc": UniPCMultistepScheduler,  # Zhao et al. 2023
    "deis": DEISMultistepScheduler,  # Zhang & Chen 2022
}


class Solver:
    """One of `SOLVERS`, second order, for `inference.sample_with`. It adds no noise.

    UniPC ends at x_0, DEIS at t = 0, where noise of 0.01 is left. The timesteps are those of
    `sampling_timesteps` where their number divides 1000.
    """

    def __init__(self, name, num_steps, device="cpu"):
        self.scheduler = SOLVERS[name](**SCHEDULE, timestep_spacing="trailing")
        self.scheduler.set_timesteps(num_steps, device=device)
        self.timesteps = self.scheduler.timesteps

    def step(self, eps, t, x_t, generator):
        """x_prev in `prev_sample`, as of a scheduler; the generators are not used."""
        return self.scheduler.step(eps, t, x_t)
