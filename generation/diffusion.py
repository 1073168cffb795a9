"""The diffusion core for any tensor rank: denoiser, loss, noise schedule, samplers, guidance.

Everything speaks sigma (std of the noise, in data units) and x0 (the clean estimate), so nothing below sees a
parametrisation or a rank: (B, C, *L) is an image latent, a window or, with no L, a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn

SIGMA_MIN, RHO = 0.002, 7.0  # table 1, arXiv:2206.00364
SIGMA_MAX = 20.0  # data here have std 1: noise of 20 hides them, and 80 would only waste steps
# log-normal over training sigmas; wider and noisier than the table's (-1.2, 1.2), which all but leaves out the large
# sigmas where a masked edit decides what it will be (slope of a known Gaussian: 0.80 with it, 0.9 with this)
P_MEAN, P_STD = -0.4, 1.4


def right(values: Tensor, x: Tensor) -> Tensor:
    """`values` (B,) with trailing axes added, so that it broadcasts against `x` (B, ...)."""
    return values.reshape(-1, *([1] * (x.ndim - 1)))


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), an estimate of x0 (eq. 7, arXiv:2206.00364).

    `net(x, c_noise, **cond)` is F; `sigma_data` is the std of the clean data, in data units.
    """

    def __init__(self, net: nn.Module, sigma_data: float = 1.0):
        super().__init__()
        self.net, self.sigma_data = net, sigma_data

    def forward(self, x: Tensor, sigma: Tensor, **cond) -> Tensor:
        s, var = right(sigma, x), right(sigma, x) ** 2 + self.sigma_data**2
        c_skip, c_out, c_in = self.sigma_data**2 / var, s * self.sigma_data / var**0.5, var**-0.5
        return c_skip * x + c_out * self.net(c_in * x, sigma.log() / 4, **cond).to(x.dtype)


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, unit loss at any sigma (table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def denoising_loss(
    denoise: Callable[..., Tensor], x0: Tensor, sigma: Tensor, eps: Tensor, weight: Tensor, sigma_data: float, **cond
) -> Tensor:
    """Mean over the batch of lambda(sigma) sum(weight |D(x0 + sigma eps) - x0|^2) / sum(weight) (eq. 2).

    weight: (B, ...) >= 0, broadcastable to x0; each record's weights are normalised by their own sum, so that a
    small mask counts as much as a large one.
    """
    error = (denoise(x0 + right(sigma, x0) * eps, sigma, **cond) - x0) ** 2
    weight = weight.expand_as(error)
    per_record = (weight * error).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-8)
    return (loss_weight(sigma, sigma_data) * per_record).mean()


def training_sigma(uniform: Tensor) -> Tensor:
    """Log-normal training sigmas from uniforms in (0, 1): exp(P_mean + P_std z) (sec. 5, arXiv:2206.00364)."""
    z = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6))
    return (P_MEAN + P_STD * z).exp().float()


def karras_sigmas(steps: int, sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN) -> Tensor:
    """`steps` + 1 falling sigmas, the last 0 (eq. 5, arXiv:2206.00364); float64, as they are differenced."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / RHO) + ramp * (sigma_min ** (1 / RHO) - sigma_max ** (1 / RHO))) ** RHO
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def truncated(sigmas: Tensor, strength: float) -> Tensor:
    """The tail of a schedule that starts at noise strength in (0, 1]: 1 keeps all of it."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    steps = len(sigmas) - 1
    return sigmas[steps - max(1, round(strength * steps)) :]


Denoise = Callable[[Tensor, Tensor], Tensor]
Sampler = Generator[tuple[Tensor, float], Tensor, Tensor]  # asks for x0 of (x, sigma), sigma never rising; ends in x


def heun(x: Tensor, sigmas: Tensor) -> Sampler:
    """Heun's second-order method on the probability-flow ODE (alg. 1)."""
    for s, t in zip(sigmas[:-1].tolist(), sigmas[1:].tolist()):
        d = (x - (yield x, s)) / s
        euler = x + (t - s) * d
        if t == 0:
            x = euler
        else:
            d_next = (euler - (yield euler, t)) / t
            x = x + (t - s) * (d + d_next) / 2
    return x


def dpmpp_2m(x: Tensor, sigmas: Tensor) -> Sampler:
    """DPM-Solver++(2M) (alg. 2, arXiv:2211.01095) in lambda = -log sigma.

    One network call a step: the second order comes from the previous step's x0.
    """
    lam = -sigmas.log()
    previous = None
    for i in range(len(sigmas) - 1):
        x0 = yield x, float(sigmas[i])
        if sigmas[i + 1] == 0:
            x = x0
        else:
            h = lam[i + 1] - lam[i]
            slope = x0
            if previous is not None:
                r = (lam[i] - lam[i - 1]) / h
                slope = x0 + (x0 - previous) * float(1 / (2 * r))
            x = x * float(sigmas[i + 1] / sigmas[i]) - slope * float(torch.expm1(-h))
        previous = x0
    return x


SAMPLERS = {"heun": heun, "dpmpp_2m": dpmpp_2m}


def sample(denoise: Denoise, x: Tensor, sigmas: Tensor, sampler: str = "dpmpp_2m") -> Tensor:
    """The last state of a sampler started at `x` = clean + sigmas[0] noise, (B, C, *L)."""
    return sample_together(lambda x, s, _: denoise(x, x.new_full((len(x),), s)), [x], [sigmas], sampler)[0]


def sample_together(
    denoise: Callable[[Tensor, float, list[int]], Tensor], starts: list[Tensor], schedules: list[Tensor], sampler: str
) -> list[Tensor]:
    """The last state of every start (B, C, *L), each sampled along a schedule of its own.

    denoise(x, sigma, which): x0 of the states of the starts `which`, one after another in x. Those that have come to
    the same sigma are asked for at once: schedules that are tails of one share all but their first steps.
    """
    runs = [SAMPLERS[sampler](x, sigmas) for x, sigmas in zip(starts, schedules)]
    asked, out = {i: next(run) for i, run in enumerate(runs)}, list(starts)
    while asked:
        sigma = max(s for _, s in asked.values())
        which = [i for i, (_, s) in asked.items() if s == sigma]
        x0 = denoise(torch.cat([asked[i][0] for i in which]), sigma, which)
        for i, part in zip(which, x0.split([len(starts[i]) for i in which])):
            try:
                asked[i] = runs[i].send(part)
            except StopIteration as end:
                out[i] = end.value
                del asked[i]
    return out


def guided(base: Callable[..., Tensor], adapted: Callable[..., Tensor], cfg_scale: Tensor) -> Callable[..., Tensor]:
    """D = D_base + cfg_scale (D_adapted - D_base): normal at 0, the learned anomaly at 1, exaggerated above.

    cfg_scale: (B,), one severity a record.
    """

    def denoise(x: Tensor, sigma: Tensor, **cond) -> Tensor:
        return torch.lerp(base(x, sigma, **cond), adapted(x, sigma, **cond), right(cfg_scale.to(x), x))

    return denoise


def keeping(denoise: Denoise, host: Tensor, hole: Tensor) -> Denoise:
    """`denoise` with its x0 set to the `host` outside the `hole` (0..1), where the answer is given.

    The network is trained on known elements that carry their own noise; with this the sampler's do too (without it a
    Gaussian's true slope of 0.90 comes out as 0.82).
    """
    return lambda x, sigma: torch.lerp(host, denoise(x, sigma), hole)


def noise(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (len(seeds), *shape), row i from seeds[i] alone; drawn on the CPU so that every device
    gets the same."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds])
