"""The likelihood ratio of two faces, against Gaussians where it is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from data.records import Records, make_meta
from detection.likelihood import SIGMAS, LikelihoodRatio, gratings, tiles
from generation.diffusion import right


class TwoGaussians:
    """An adapter whose base is N(0, 1) and whose kind 1 is N(mean, 1), both exact denoisers of rows."""

    kinds = ("odd",)

    def __init__(self, mean: float):
        self.mean = mean
        codec = SimpleNamespace(encode=lambda r: (np.stack([np.asarray(r.x["v"])], 1), None))
        self.base = SimpleNamespace(modality="row", device="cpu", codec=codec)

    def denoise_base(self, x, sigma, **cond):
        return x / (1 + right(sigma, x) ** 2)

    def denoise(self, x, sigma, **cond):
        return self.mean + (x - self.mean) / (1 + right(sigma, x) ** 2)


def rows(values) -> Records:
    import pandas as pd

    values = np.asarray(values, float)
    columns = [{"name": "v", "type": "numeric", "nullable": False}]
    return Records(
        "row",
        make_meta(len(values)),
        pd.DataFrame({"v": values}),
        np.zeros((len(values), 1), bool),
        {"columns": columns},
    )


def test_ratio_of_two_gaussians_is_the_closed_form():
    """With D = m + (x - m) / (1 + s^2): E[(x0 - D)^2] / s^2 = (s^2 (x0 - m)^2 + 1) / (1 + s^2)^2 for unit noise, so the
    ratio is the mean over s of s^2 (x0^2 - (x0 - m)^2) / (1 + s^2)^2: linear in x0, zero halfway."""
    mean, values = 2.0, np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    got = LikelihoodRatio(TwoGaussians(mean), draws=400).score(rows(values))
    weight = np.mean([s**2 / (1 + s**2) ** 2 for s in SIGMAS["row"]])
    np.testing.assert_allclose(got, weight * (values**2 - (values - mean) ** 2), atol=0.12)
    assert got[2] == pytest.approx(0.0, abs=1e-5)  # halfway, antithetic noise cancels exactly


def test_score_of_a_record_ignores_its_batch_and_order():
    values = np.linspace(-3, 3, 700)
    ratio = LikelihoodRatio(TwoGaussians(1.0))
    whole = ratio.score(rows(values))
    np.testing.assert_array_equal(ratio.score(rows(values[[600, 3]])), whole[[600, 3]])


def test_gratings_hide_every_element_once():
    for shape, block in (((20,), 8), ((12, 10), 4)):
        a, b = gratings(shape, block)
        assert (a ^ b).all() and a.any() and b.any()


@pytest.mark.parametrize("shape", [(48, 48), (50, 131), (20, 90)])
def test_tiles_cover_the_image(shape):
    seen = np.zeros(shape, int)
    for top, left, height, width in tiles(shape, 48):
        seen[top : top + height, left : left + width] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_every_modality_gives_a_map_of_the_records_shape(modality):
    from generation.training import fit_adapter, fit_base

    torch.set_num_threads(1)
    fit, support = tiny.make(modality)
    base, _ = fit_base(fit, settings=tiny.SETTINGS[modality], seed=0, device="cpu")
    adapter, _ = fit_adapter(base, fit, support, settings=tiny.ADAPT, seed=0)
    ratio = LikelihoodRatio(adapter)
    maps, scores = ratio.score_map(support), ratio.score(support)
    assert np.isfinite(scores).all() and len(scores) == len(support)
    for i in range(len(support)):
        shape = {"image": (24, 30), "series": (32,), "row": ()}[modality]
        assert np.shape(maps[i]) == shape
    alone = ratio.score(support.take([2]))
    np.testing.assert_array_equal(alone, scores[[2]])
