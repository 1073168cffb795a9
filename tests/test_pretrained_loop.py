"""A pretrained inpainting pipeline through the whole of generation: fit, LoRA, sampling, the disk and back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny
import torch
from test_pretrained import pipeline

from data.errors import InputError, SettingsError
from data.records import concat
from generation.inpaint import generate
from generation.model import Adapter, Base
from generation.plan import plan
from generation.training import fit_adapter, fit_base


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_base_of_other_weights_than_the_folder_holds_is_refused(settings, tmp_path, part):
    """One weight changed; what a GPU holds, the same in bf16, is no other."""
    from safetensors.torch import load_file, save_file

    source = shutil.copytree(settings["pretrained"], tmp_path / "own")
    fit, _ = tiny.make("image")
    base, _ = fit_base(fit, settings={**settings, "pretrained": str(source)}, seed=0, device="cpu")
    base.denoiser.net.to(torch.bfloat16)
    base.save(tmp_path / "base")
    assert Base.load(tmp_path / "base").pretrained
    file = next((source / part).glob("*.safetensors"))
    weights = load_file(file)
    next(w for w in weights.values() if w.ndim == 4)[0, 0, 0, 0] += 0.01
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"was fitted on other weights than .*own holds; .*run fit again"):
        Base.load(tmp_path / "base")


def test_a_size_that_the_model_cannot_take_is_told_with_the_closest(settings, tmp_path):
    """It is known once the model is loaded, whatever latent.factor says."""
    from diffusers import AutoencoderTiny

    fit, _ = tiny.make("image")
    with pytest.raises(SettingsError, match=r"fit\.image\.size: must be a multiple of 8 .*, got 36; take 32"):
        fit_base(fit, settings={**settings, "size": 36}, seed=0, device="cpu")
    blocks = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3}
    small = AutoencoderTiny(encoder_block_out_channels=(4,) * 3, decoder_block_out_channels=(4,) * 3, **blocks)
    small.save_pretrained(tmp_path / "latent")
    latent = {**settings["latent"], "kind": "pretrained", "source": str(tmp_path / "latent")}
    with pytest.raises(SettingsError, match=r"must be a multiple of 8 .*, got 20; take 16"):
        fit_base(fit, settings={**tiny.SETTINGS["image"], "latent": latent, "size": 20}, seed=0, device="cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd") / "tiny"
    pipeline().save_pretrained(path, safe_serialization=True)
    return {**tiny.SETTINGS["image"], "size": 32, "pretrained": str(path), "revision": None,
            "prompts": {"k0": "a photo of a bright spot", "k1": "a photo of a dark spot"}}  # fmt: skip


def test_a_pretrained_pipeline_fits_generates_and_reloads(settings, tmp_path):
    torch.set_num_threads(1)
    fit, support = tiny.make("image")
    base, losses = fit_base(fit, settings=settings, seed=0, device="cpu")
    assert losses == []  # it is used as it comes
    base.save(tmp_path / "base")
    loaded = Base.load(tmp_path / "base")
    adapt = {**tiny.ADAPT, "steps": 25, "lr": 0.1, "rank": 4}
    adapter, losses = fit_adapter(loaded, fit, support, settings=adapt, seed=0)
    adapter.scales = dict.fromkeys(adapter.kinds, 20.0)  # a random pipeline has to be pushed to show anything
    assert len(losses) == adapt["steps"] and np.isfinite(losses).all()
    assert [name for name in adapter.parameters() if "vae" in name] == []
    adapter.save(tmp_path / "adapter")
    rows = plan(fit, support, tiny.folds(fit, support), count=4, seed=0, round_=1)
    sampling = {"steps": 2, "strength": 1.0, "sampler": "dpmpp_2m", "sigma_max": 10.0}
    made = concat(list(generate(adapter, fit, support, rows, **sampling)))
    again = Adapter.load(Base.load(tmp_path / "base"), tmp_path / "adapter")
    same = concat(list(generate(again, fit, support, rows, **sampling)))
    for i in range(len(made)):
        np.testing.assert_array_equal(made.x[i], same.x[i])
        host = fit.x[list(fit.meta["id"]).index(made.meta["host"][i])]
        assert (made.x[i][~made.mask[i]] == host[~made.mask[i]]).all()
    assert sum(m.sum() for m in made.mask) > 0
    assert again.base.denoiser.kinds.names == ["k0", "k1"]
