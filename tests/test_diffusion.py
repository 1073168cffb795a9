"""The diffusion core against closed forms of Gaussian data, on every rank."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from generation.diffusion import (
    SAMPLERS,
    Denoiser,
    denoising_loss,
    guided,
    karras_sigmas,
    keeping,
    noise,
    right,
    sample,
    sample_together,
    training_sigma,
    truncated,
)  # fmt: skip
from generation.networks import NETWORKS, RowNet

RANKS = pytest.mark.parametrize("shape", [(7,), (2, 9), (3, 4, 5)], ids=["row", "series", "image"])
STD = 0.7


def gaussian(x, sigma, std=STD, mean=0.0):
    """E[x0 | x] of N(mean, std^2) data: mean + std^2 / (std^2 + sigma^2) (x - mean)."""
    s = right(sigma, x)
    return mean + std**2 / (std**2 + s**2) * (x - mean)


def end(sampler, steps, shape, mean=0.3):
    sigmas = karras_sigmas(steps, 80.0)
    x = noise([1, 2, 3], shape).double() * 80
    out = sample(lambda x, s: gaussian(x, s, mean=mean), x, sigmas, sampler)
    exact = mean + (x - mean) * STD / (STD**2 + 80.0**2) ** 0.5
    return (out - exact).abs().max().item()


@RANKS
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_second_order_on_every_rank(sampler, shape):
    """The probability-flow ODE of Gaussian data ends at mean + (x_T - mean) S / sqrt(S^2 + sigma_max^2)."""
    errors = [end(sampler, steps, shape) for steps in (32, 64, 128)]
    orders = [np.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 2e-3
    assert min(orders) > 1.7, (errors, orders)


@RANKS
def test_preconditioning_reproduces_the_gaussian_denoiser_when_the_network_is_zero_mean(shape):
    """With F = 0 the denoiser is c_skip x = S^2 / (S^2 + sigma^2) x, exact for N(0, sigma_data^2)."""

    class Zero(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    x, sigma = noise([5, 6], shape), torch.tensor([0.1, 20.0])
    torch.testing.assert_close(Denoiser(Zero(), STD)(x, sigma), gaussian(x, sigma))


def test_network_target_has_unit_variance_at_every_sigma():
    """(x0 - c_skip x) / c_out has variance 1 for N(0, sigma_data^2) data (app. B.6, arXiv:2206.00364)."""
    x0, eps = STD * noise(range(4000), (8,)), noise(range(4000, 8000), (8,))
    for sigma in (0.01, 0.5, 10.0):
        x, var = x0 + sigma * eps, sigma**2 + STD**2
        target = (x0 - STD**2 / var * x) / (sigma * STD / var**0.5)
        assert target.std().item() == pytest.approx(1.0, abs=0.02)


@RANKS
def test_loss_of_the_optimal_denoiser_is_one_at_every_sigma(shape):
    """lambda(sigma) E|D - x0|^2 = (s^2 + S^2) / (s S)^2 * s^2 S^2 / (s^2 + S^2) = 1."""
    x0, eps = STD * noise(range(3000), shape), noise(range(3000, 6000), shape)
    for sigma in (0.05, 1.0, 30.0):
        value = denoising_loss(gaussian, x0, torch.full((3000,), sigma), eps, torch.ones_like(x0), STD)
        assert value.item() == pytest.approx(1.0, abs=0.05)


def test_a_small_mask_counts_as_much_as_a_large_one():
    """Weights are normalised a record: scaling a record's weights or shrinking its mask leaves the loss's scale."""
    x0, eps, sigma = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), torch.ones(2)
    weight = torch.zeros(2, 1, 8, 8)
    weight[0, :, :1, :1], weight[1] = 5.0, 0.1
    one = denoising_loss(lambda x, s: x, x0, sigma, eps, weight, 1.0)
    assert one.item() == pytest.approx(2.0)  # |x - x0|^2 = 1 everywhere, lambda(1) = 2


def test_guidance_is_base_at_zero_adapted_at_one_and_extrapolates():
    base, adapted = (lambda x, s: x * 0 + 1.0), (lambda x, s: x * 0 + 3.0)
    x, sigma = torch.zeros(4, 2), torch.ones(4)
    out = guided(base, adapted, torch.tensor([0.0, 1.0, 2.0, 0.5]))(x, sigma)
    torch.testing.assert_close(out[:, 0], torch.tensor([1.0, 3.0, 5.0, 2.0]))


def test_guided_sampling_of_two_gaussians_moves_the_mean_by_cfg_scale():
    """Base N(0, S^2), adapted N(1, S^2): D is affine with mean cfg_scale, so the ODE ends round cfg_scale."""
    scale = torch.tensor([0.0, 1.0, 2.5]).double()
    denoise = guided(lambda x, s: gaussian(x, s, mean=0.0), lambda x, s: gaussian(x, s, mean=1.0), scale)
    x = noise([1, 2, 3], (4000,)).double() * 80
    out = sample(denoise, x, karras_sigmas(64, 80.0))
    for row, mean in zip(out, scale.tolist()):
        assert row.mean().item() == pytest.approx(mean, abs=0.05)
        assert row.std().item() == pytest.approx(STD, abs=0.05)


def test_noise_of_a_record_depends_on_its_seed_not_on_its_batch():
    both = noise([3, 9], (2, 4))
    assert torch.equal(both[1], noise([9], (2, 4))[0])
    assert not torch.equal(both[0], both[1])


def test_schedule_falls_to_zero_and_a_truncated_one_keeps_its_end():
    sigmas = karras_sigmas(10, 40.0)
    assert sigmas[0] == pytest.approx(40.0) and sigmas[-1] == 0 and (sigmas.diff() < 0).all() and len(sigmas) == 11
    assert torch.equal(truncated(sigmas, 1.0), sigmas)
    assert torch.equal(truncated(sigmas, 0.3), sigmas[-4:])
    with pytest.raises(ValueError, match="strength must be in"):
        truncated(sigmas, 0.0)


def test_training_sigmas_are_log_normal():
    logs = training_sigma(torch.linspace(0.0005, 0.9995, 1000)).log()
    assert logs.mean().item() == pytest.approx(-0.4, abs=0.01) and logs.std().item() == pytest.approx(1.4, abs=0.02)


def test_conditional_slope_of_a_known_gaussian_is_learned_by_the_trained_conditioning():
    """Two standard normals with correlation 0.9: given x1, the mean of x2 is 0.9 x1 and its std sqrt(1 - 0.81).

    Replacing known values while sampling only is known to fall far short of this slope; the trained mask does not.
    """
    from generation.fit import Trainer, train
    torch.manual_seed(0)
    denoiser = Denoiser(RowNet(2, 64, 2))

    def batch(step):
        g = torch.Generator().manual_seed(step)
        z = torch.randn(512, 2, generator=g)
        x0 = torch.stack([z[:, 0], 0.9 * z[:, 0] + (1 - 0.81) ** 0.5 * z[:, 1]], dim=1)
        mask = torch.zeros(512, 2)
        mask[:, 1] = 1
        mask[::4, 0] = 1
        sigma = training_sigma(torch.rand(512, generator=g))
        eps = torch.randn(512, 2, generator=g)
        return {"x0": x0, "known": x0 * (1 - mask), "mask": mask, "sigma": sigma, "eps": eps}

    def loss(b):
        cond = {"known": b["known"], "mask": b["mask"], "kind": torch.zeros(len(b["x0"]), dtype=torch.long)}
        return denoising_loss(denoiser, b["x0"], b["sigma"], b["eps"], b["mask"], 1.0, **cond)

    train(Trainer(dict(denoiser.named_parameters()), loss, batch, steps=700, lr=3e-3, ema=0.99))
    known = torch.zeros(2000, 2)
    known[:, 0] = torch.linspace(-2, 2, 2000)
    mask = torch.tensor([0.0, 1.0]).expand(2000, 2)
    cond = {"known": known, "mask": mask, "kind": torch.zeros(2000, dtype=torch.long)}
    with torch.no_grad():
        denoise = keeping(lambda x, s: denoiser(x, s, **cond), known, mask)
        out = sample(denoise, known + 20 * noise(range(2000), (2,)), karras_sigmas(24))
    slope, offset = np.polyfit(known[:, 0].numpy(), out[:, 1].numpy(), 1)
    residual = out[:, 1].numpy() - slope * known[:, 0].numpy() - offset
    assert slope == pytest.approx(0.9, abs=0.03)
    assert residual.std() == pytest.approx(0.19**0.5, abs=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_starts_sampled_together_end_as_if_alone_and_share_what_sigmas_they_share(sampler):
    whole, asked = karras_sigmas(12, 20.0), []
    schedules = [truncated(whole, strength) for strength in (0.3, 1.0, 0.5)]
    starts = [float(s[0]) * noise(range(n), (2,)) for n, s in zip((3, 1, 4), schedules)]

    def denoise(x, sigma, which):
        asked.append((sigma, len(x)))
        return gaussian(x, x.new_full((len(x),), sigma), mean=1.0)

    together = sample_together(denoise, starts, schedules, sampler)
    alone = [sample(lambda x, s: gaussian(x, s, mean=1.0), x, s, sampler) for x, s in zip(starts, schedules)]
    assert all(torch.equal(a, b) for a, b in zip(together, alone))
    assert asked[0] == (float(whole[0]), 1) and asked[-1] == (float(whole[-2]), 8)
    assert [s for s, _ in asked] == sorted((s for s, _ in asked), reverse=True)
    if sampler == "dpmpp_2m":
        assert [n for _, n in asked] == [1] * 6 + [5] * 2 + [8] * 4


@pytest.mark.parametrize("net", [NETWORKS["row"](3, 16, 2), NETWORKS["series"](2, 8, 4, 16, 2)])
def test_a_batch_being_sampled_shares_its_conditions_and_no_record_sees_anothers_kind(net):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    net.kinds.resize(3, 0)
    shape = (3,) if net.LORA.startswith(".*(mix") else (2, 8)
    x, kind = torch.randn(6, *shape, generator=generator), torch.tensor([3, 0, 1, 1, 3, 0])
    given = {"known": torch.zeros_like(x), "mask": torch.ones_like(x)}
    level = torch.full((6,), 0.3)
    each = net(x, level, kind=kind, **given)  # with gradients, so a record at a time
    with torch.no_grad():
        shared = net(x, level, kind=kind, **given)
        torch.testing.assert_close(shared, each, rtol=1e-5, atol=1e-5)
        assert (each - net(x, level, kind=(kind + 1) % 4, **given)).abs().amax(tuple(range(1, x.ndim))).min() > 1e-3
        alike = net(x, level, kind=torch.tensor([3, 2, 2, 2, 2, 2]), **given)
        assert torch.equal(alike[0], shared[0])  # whatever other kinds there are, to the bit
        mixed = net(x, torch.tensor([0.3, 0.1, 0.2, 0.3, 0.3, 0.3]), kind=kind, **given)
        torch.testing.assert_close(mixed[[0, 3, 4, 5]], each[[0, 3, 4, 5]], rtol=1e-5, atol=1e-5)
        assert (mixed[1:3] - each[1:3]).abs().max() > 1e-3
