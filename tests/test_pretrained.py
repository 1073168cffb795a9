"""The pretrained inpainting wrapper against diffusers' own pipeline and schedulers, on a tiny random pipeline."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from data.errors import InputError, RemoteError, SettingsError
from generation import lora
from generation.diffusion import denoising_loss, noise, right
from generation.pretrained import KIND_PROMPT, NORMAL_PROMPT, PREDICTIONS, PretrainedInpaint, Prompts, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPTS = {"crack": "a photo of a deep crack", "hole": "a photo of a small hole"}


def tokenizer():
    """A byte-level CLIP tokenizer: every letter, alone and at a word's end, and one merge."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), "ph", "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[("p", "h")], model_max_length=64)


def pipeline(in_channels: int = 9):
    """A random Stable Diffusion inpainting pipeline of some 100,000 parameters, factor 8."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(16, 16), norm_num_groups=4,
            layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        )  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 8, 8), norm_num_groups=2, latent_channels=4, sample_size=64,
        )  # fmt: skip
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
        ))  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return StableDiffusionInpaintPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=words, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "tiny"
    pipeline().save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the pipeline's folder to be broken."""
    return shutil.copytree(folder, tmp_path / "copy")


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def batch(count: int = 2, seed: int = 0):
    """Random x0, known, mask and kinds 0, 1, .. at 8 x 8 latents."""
    x0, known = noise([seed + i for i in range(count)], (4, 8, 8)), noise([99 + i for i in range(count)], (4, 8, 8))
    mask = torch.zeros(count, 1, 8, 8)
    mask[:, :, 2:6, 3:7] = 1
    return x0, {"known": known, "mask": mask, "kind": torch.arange(count)}


def record_calls(net, calls):
    """Append (input, time, text) of every call of a UNet to `calls`."""

    def hook(module, args, kwargs):
        calls.append((args[0], args[1], kwargs["encoder_hidden_states"]))

    net.register_forward_pre_hook(hook, with_kwargs=True)


# the denoiser is diffusers' own


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_x0_of_every_step_is_that_of_the_pipeline(copy, scheduler, prediction, monkeypatch):
    """diffusers' pipeline run from image, mask and prompt: the UNet's input, the time and pred_original_sample."""
    import diffusers
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    edit(copy / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    pipe = diffusers.StableDiffusionInpaintPipeline.from_pretrained(copy, safety_checker=None, local_files_only=True)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    inputs, answers, step = [], [], pipe.scheduler.step

    def recorded(out, t, sample, **kwargs):
        kwargs.pop("return_dict", None)
        result = step(out, t, sample, **kwargs)
        answers.append(result.pred_original_sample)
        return (result.prev_sample,)

    monkeypatch.setattr(pipe.scheduler, "step", recorded)
    record_calls(pipe.unet, inputs)
    image, hole = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 1, 64, 64)
    hole[:, :, 16:48, 24:56] = 1
    pipe(PROMPTS["hole"], image, hole, height=64, width=64, num_inference_steps=4, guidance_scale=1.0,
         latents=noise([5], (4, 8, 8)), output_type="latent")  # fmt: skip

    ours = load(str(copy), prompts=PROMPTS)
    ours.kinds.name(["crack", "hole"])
    ours.kinds.resize(2, seed=0)
    ours.kinds.weight.data.zero_()
    known, mask = ours.encode((2 * image - 1) * (1 - hole)), torch.nn.functional.interpolate(hole, (8, 8))
    seen = []
    record_calls(ours.net, seen)
    assert len(answers) == 4
    for (theirs, t, text), answer in zip(inputs, answers):
        abar = pipe.scheduler.alphas_cumprod[t.long()]
        sigma = ((1 - abar) / abar).sqrt()
        x = theirs[:, :4] * (1 + sigma**2).sqrt()
        with torch.no_grad():
            x0 = ours(x, sigma[None], known=known, mask=mask, kind=torch.tensor([2]))
        torch.testing.assert_close(seen[-1][0], theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen[-1][1], t[None].float(), atol=1e-2, rtol=0)
        torch.testing.assert_close(seen[-1][2], text, atol=1e-6, rtol=0)
        torch.testing.assert_close(x0, answer, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_knows_the_answer_gives_it_back(prediction):
    """eps, v = (eps - sigma x0) / sqrt(1 + sigma^2) and x0 themselves all lead to x0."""
    x0, eps, sigma = noise([1, 2], (4, 8, 8)), noise([3, 4], (4, 8, 8)), torch.tensor([0.05, 9.0])
    s = right(sigma, x0)
    truth = {"epsilon": eps, "v_prediction": (eps - s * x0) / (1 + s**2) ** 0.5, "sample": x0}[prediction]
    torch.testing.assert_close(PREDICTIONS[prediction](x0 + s * eps, s, truth), x0, atol=1e-5, rtol=1e-4)


def test_time_is_exact_on_the_schedule_and_log_linear_between(folder):
    model = load(str(folder))
    sigmas = model.log_sigmas.exp()
    torch.testing.assert_close(model.timestep(sigmas), torch.arange(1000.0), atol=5e-3, rtol=0)
    between = (sigmas[100] * sigmas[101]).sqrt()[None]
    assert model.timestep(between).item() == pytest.approx(100.5, abs=5e-3)
    assert model.timestep(torch.tensor([1e-4, 500.0])).tolist() == [0.0, 999.0]
    assert model.sigma_max == pytest.approx(14.61, abs=0.01)  # Stable Diffusion's schedule


def test_noise_above_the_schedule_is_noise_at_its_end(folder):
    model = load(str(folder))
    eps, cond = batch()
    cond["kind"] = cond["kind"] * 0
    with torch.no_grad():
        top = model(model.sigma_max * eps, torch.full((2,), model.sigma_max), **cond)
        above = model(80.0 * eps, torch.full((2,), 80.0), **cond)
    torch.testing.assert_close(above, top, atol=1e-4, rtol=1e-4)


def test_a_schedule_that_ends_on_pure_noise_stays_finite(copy):
    """abar = 0 at the last step, as the v-prediction models of arXiv:2305.08891 are trained."""
    edit(copy / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    model, (eps, cond) = load(str(copy)), batch(1)
    assert model.sigma_max > 1000 and model.log_sigmas.isfinite().all()
    with torch.no_grad():
        assert model(1e4 * eps, torch.tensor([1e4]), **cond).abs().max() < 100


def test_latents_are_the_scaled_mode_and_come_back(folder):
    model = load(str(folder))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = model.encode(images)
        torch.testing.assert_close(z, model.vae.encode(images).latent_dist.mean * 0.18215)
        assert torch.equal(z, model.encode(images)) and z.shape == (2, model.channels, 8, 8) and model.factor == 8
        torch.testing.assert_close(model.decode(z), model.vae.decode(z / 0.18215).sample.clamp(-1, 1))
        assert model.decode(1e4 * z).abs().max() <= 1


def test_bf16_network_takes_and_gives_float32_near_the_float32_answer(folder):
    x0, cond = batch()
    sigma = torch.tensor([0.3, 2.0])
    full, half = load(str(folder)), load(str(folder), dtype=torch.bfloat16)
    assert half.net.dtype == torch.bfloat16 and half.vae.dtype == torch.float32 and half.attention == "sdpa"
    with torch.no_grad():
        a, b = (m(x0 + right(sigma, x0), sigma, **{**cond, "kind": cond["kind"] * 0}) for m in (full, half))
    assert b.dtype == torch.float32
    torch.testing.assert_close(a, b, atol=0.15, rtol=0.05)


@pytest.mark.parametrize("works", [True, False])
def test_xformers_is_used_where_its_probe_and_diffusers_own_pass(folder, works, monkeypatch):
    from diffusers import UNet2DConditionModel

    def enable(self):
        if not works:
            raise ValueError("no kernel for this head")

    monkeypatch.setattr(UNet2DConditionModel, "enable_xformers_memory_efficient_attention", enable)
    monkeypatch.setattr("generation.pretrained.backend", lambda device, dtype: "xformers")
    model = load(str(folder))
    assert model.attention == ("xformers" if works else "sdpa")
    x0, cond = batch(1)
    with torch.no_grad():
        assert model(x0, torch.ones(1), **cond).isfinite().all()


# kinds are prompts


def test_each_kind_is_its_prompt_and_gives_an_output_of_its_own(folder):
    model = load(str(folder), prompts={"crack": PROMPTS["crack"]})
    model.kinds.name(["crack", "big_hole"])
    model.kinds.resize(2, seed=3)
    texts = [NORMAL_PROMPT, PROMPTS["crack"], KIND_PROMPT.format(kind="big hole")]
    torch.testing.assert_close(model.kinds.text, model.kinds.embed(texts))
    x0, cond = batch(1)
    with torch.no_grad():
        a, b, c = (model(x0, torch.ones(1), **{**cond, "kind": torch.tensor([k])}) for k in range(3))
    assert min((a - b).abs().max(), (b - c).abs().max(), (a - c).abs().max()) > 1e-5


def test_normal_has_no_offset_and_learned_bounds_the_tokens_that_have_one():
    kinds = Prompts(lambda texts: torch.ones(len(texts), 5, 3), learned=2)
    kinds.resize(2, seed=1)
    out = kinds(torch.tensor([0, 2, 1]))
    assert kinds.weight.shape == (2, 2, 3) and out.shape == (3, 5, 3)
    assert (out[0] == 1).all() and (out[:, 2:] == 1).all()
    assert torch.equal(out[1, :2], 1 + kinds.weight[1]) and torch.equal(out[2, :2], 1 + kinds.weight[0])
    again = Prompts(lambda texts: torch.ones(len(texts), 5, 3), learned=2)
    again.resize(2, seed=1)
    assert torch.equal(again.weight, kinds.weight) and (kinds.weight[0] != kinds.weight[1]).all()


def test_a_text_is_encoded_once(folder, monkeypatch):
    model, calls = load(str(folder), prompts=PROMPTS), []
    from transformers import CLIPTextModel

    forward = CLIPTextModel.forward
    monkeypatch.setattr(CLIPTextModel, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    for _ in range(2):
        model.kinds.name(["crack", "hole"])
    assert len(calls) == 2  # crack and hole; normal was there from the start


def test_unnamed_kinds_take_the_prompts_in_order_or_are_refused(folder):
    model = load(str(folder), prompts=PROMPTS)
    model.kinds.resize(2, seed=0)
    assert model.kinds.names == ["crack", "hole"]
    with pytest.raises(SettingsError, match="every kind, got 2 prompts for 3"):
        model.kinds.resize(3, seed=0)
    with pytest.raises(SettingsError, match="'crack'; did you mean 'crac'"):
        model.kinds.name(["crac", "hole"])


def test_a_prompt_that_would_be_cut_is_refused(folder):
    with pytest.raises(SettingsError, match="must fit 64 tokens"):
        load(str(folder), prompts={"normal": "x" * 80})


# LoRA


@pytest.fixture(scope="module")
def trained(folder):
    """A wrapper with a trained adapter, its losses and the base's weights from before."""
    model = load(str(folder), prompts=PROMPTS)
    before = {name: p.clone() for name, p in model.state_dict().items() if not name.startswith("kinds.")}
    lora.add(model, rank=4, kinds=2, seed=7)
    parameters = lora.trainable(model)
    for p in parameters.values():
        p.requires_grad_(True)
    x0, cond = batch(4, seed=40)
    cond["kind"] = torch.tensor([1, 2, 1, 2])
    sigma, eps = torch.tensor([0.3, 0.6, 1.0, 2.0]), noise([7, 8, 9, 10], (4, 8, 8))
    optimizer, losses = torch.optim.Adam(parameters.values(), lr=1e-2), []
    for _ in range(25):
        loss = denoising_loss(model, x0, sigma, eps, cond["mask"], model.sigma_data, **cond)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses, before


def test_lora_lies_on_the_attention_of_the_unet_alone(trained):
    names = [name for name in lora.trainable(trained[0]) if "lora_A" in name]
    assert len(names) == 4 * 2 * 4  # q, k, v, out of self- and cross-attention in down, mid, up and up
    assert all(name.startswith("net.") for name in names)


def test_the_adapter_alone_can_be_put_on_the_unet(folder):
    from peft import LoraConfig, inject_adapter_in_model

    model = load(str(folder))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=model.LORA), model.net)
    assert len(lora.layers(model)) == len(lora.layers(model.net)) == 4 * 2 * 4


def test_training_lowers_the_loss_and_leaves_the_base_bit_for_bit(trained):
    model, losses, before = trained
    assert losses[-1] < 0.9 * losses[0]
    after = {name.replace(".base_layer.", "."): p for name, p in model.state_dict().items()}
    assert before and all(torch.equal(after[name], p) for name, p in before.items())
    assert all(p.abs().max() > 0 for name, p in lora.trainable(model).items() if "lora_B" in name)


def test_a_saved_adapter_gives_the_same_output_on_a_fresh_load(trained, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    model = trained[0]
    save_file({k: v.detach().contiguous() for k, v in lora.trainable(model).items()}, tmp_path / "a.safetensors")
    fresh = load(str(folder), prompts=PROMPTS)
    x0, cond = batch(3)
    sigma = torch.tensor([0.5, 1.0, 3.0])
    with torch.no_grad():
        untouched = fresh(x0, sigma, **{**cond, "kind": cond["kind"] * 0})
        lora.add(fresh, rank=4, kinds=2, seed=0)
        lora.load(fresh, load_file(tmp_path / "a.safetensors"))
        one, two = model(x0, sigma, **cond), fresh(x0, sigma, **cond)
        assert torch.equal(one, two)
        normal = {**cond, "kind": cond["kind"] * 0}
        assert (fresh(x0, sigma, **normal) - untouched).abs().max() > 1e-3  # no no-op
        with lora.switched_off(lora.layers(fresh)):
            assert torch.equal(fresh(x0, sigma, **normal), untouched)


# what is refused


def four_channels(path):
    edit(path / "unet" / "config.json", in_channels=4)


def pickles(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").rename(path / "unet" / "diffusion_pytorch_model.bin")


def no_weights(path):
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def torn(path):
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def one_weight_less(path):
    from safetensors.torch import load_file, save_file

    file = path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if name.endswith("q_proj.weight")))
    save_file(tensors, file, metadata={"format": "pt"})


def no_vocabulary(path):
    shutil.rmtree(path / "tokenizer")
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')


REFUSED = {
    "four channels": (four_channels, "must take 9 channels .* got 4; use an inpainting pipeline"),
    "pickles": (pickles, "got diffusion_pytorch_model.bin; load it where you trust it .*save_pretrained"),
    "no weights": (no_weights, "vae: weights must be .safetensors, got none"),
    "torn": (torn, "vae: weights could not be read"),
    "one weight less": (one_weight_less, "weights must be whole, 1 lack.*q_proj.weight"),
    "no vocabulary": (no_vocabulary, "tokenizer: must hold the encoder's 515 tokens, got"),
    "no part": (lambda path: shutil.rmtree(path / "vae"), "lacks vae"),
    "no json": (lambda path: (path / "unet" / "config.json").write_text("{"), "unet/config.json: must be a JSON file"),
    "sdxl": (lambda path: edit(path / "unet" / "config.json", addition_embed_type="text_time"), "addition_embed_type"),
    "t5": (lambda path: edit(path / "text_encoder" / "config.json", architectures=["T5EncoderModel"]), "CLIPTextModel"),
    "flow": (
        lambda path: (path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "FlowMatch"}'),
        "must have betas, got FlowMatch",
    ),
    "beta schedule": (
        lambda path: edit(path / "scheduler" / "scheduler_config.json", beta_schedule="wavy"),
        "betas could not be built",
    ),
    "prediction": (
        lambda path: edit(path / "scheduler" / "scheduler_config.json", prediction_type="flow"),
        "one of epsilon, v_prediction, sample, got 'flow'",
    ),
    "wide text": (
        lambda path: edit(path / "unet" / "config.json", cross_attention_dim=24),
        "hidden_size must be the UNet's 24, got 16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(copy, name):
    break_it, message = REFUSED[name]
    break_it(copy)
    with pytest.raises(InputError, match=message) as caught:
        load(str(copy))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(copy))


def test_a_single_file_and_a_folder_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"got one file; .*from_single_file"):
        load(str(tmp_path / "model.ckpt"))
    with pytest.raises(InputError, match="no such folder"):
        load(str(tmp_path / "absent"))


def test_an_fp16_variant_is_found(copy, folder):
    for part in ("unet", "vae", "text_encoder"):
        for file in (copy / part).glob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    a, b = load(str(copy)).state_dict(), load(str(folder)).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_hub_id_needs_a_commit_and_fetches_no_pickle(folder, monkeypatch):
    import fnmatch

    import huggingface_hub

    calls = []

    def snapshot(source, revision, allow_patterns, ignore_patterns):
        calls.append(SimpleNamespace(source=source, revision=revision, allow=allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for revision in (None, "main"):
        with pytest.raises(SettingsError, match=f"a commit of 40 hex digits, got {revision}"):
            load("owner/name", revision=revision)
    assert not calls
    assert isinstance(load("owner/name", revision=COMMIT), PretrainedInpaint)
    assert {(c.source, c.revision) for c in calls} == {("owner/name", COMMIT)}
    patterns = [p for c in calls for p in c.allow]
    fetched = lambda name: any(fnmatch.fnmatch(name, p) for p in patterns)  # noqa: E731
    parts = {f.relative_to(folder).as_posix() for f in folder.glob("*/*")}
    assert parts and all(fetched(name) for name in parts)
    unwanted = ["unet/diffusion_pytorch_model.bin", "sd.ckpt", "unet/x.pt", "safety_checker/model.safetensors"]
    assert not any(map(fetched, unwanted))


def test_a_hub_that_cannot_be_reached_is_a_remote_error(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(RemoteError, match=r"owner/name at 01234567: could not be fetched \(no network\)"):
        load("owner/name", revision=COMMIT)
