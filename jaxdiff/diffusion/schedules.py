"""Noise schedules of discrete variance-preserving diffusion, in float64.

A schedule maps the number of timesteps T to betas [T], the variances that the steps of the
forward process add: abar_t = prod (1 - beta), alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t).
"""

import numpy as np


def linear(num_timesteps):
    """Ho et al. 2020 (arXiv:2006.11239), scaled to any T as in Nichol & Dhariwal 2021."""
    scale = 1000 / num_timesteps
    return np.linspace(1e-4 * scale, 0.02 * scale, num_timesteps)


def cosine(num_timesteps):
    """Nichol & Dhariwal 2021 (arXiv:2102.09672), equation 17, betas at most .999."""
    t = np.arange(num_timesteps + 1) / num_timesteps
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


SCHEDULES = {"cosine": cosine, "linear": linear}
