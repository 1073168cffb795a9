"""A pretrained inpainting pipeline (Stable Diffusion 1.5 or 2 inpainting) behind the denoiser's one signature."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import InputError, RemoteError, SettingsError, closest
from generation.attention import backend
from generation.diffusion import right
from generation.networks import moved

NORMAL = "normal"
NORMAL_PROMPT = "a photo of a flawless surface"
KIND_PROMPT = "a photo of a {kind} defect on a surface"
WEIGHTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
PARTS = (*WEIGHTS, "tokenizer", "scheduler")
SMALL_FILES = ["*/*.json", "tokenizer/*.txt"]  # what a hub id is checked by before its weights are fetched
WEIGHT_FILES = [f"{part}/{name}*.safetensors" for part in WEIGHTS for name in ("model", "diffusion_pytorch_model")]
VARIANTS = ["*.fp16*.safetensors", "*.non_ema*.safetensors"]  # the same weights again; never fetched
USE = "use Stable Diffusion 1.5 or 2 inpainting"
AGAIN = "fetch or save it again"
CONVERT = (
    "load it where you trust it with StableDiffusionInpaintPipeline.from_pretrained(folder, use_safetensors=False) "
    "(a single file: from_single_file) and save it with .save_pretrained(new_folder)"
)
SIGMA_CEILING = 4096.0  # stands for the infinite sigma of schedules that end on pure noise, as in diffusers' Euler

# x0 of a prediction `out` at VE noise std s, with x = sqrt(1 + s^2) x_vp (sec. 4, arXiv:2202.00512)
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x, s, out: x - s * out,
    "v_prediction": lambda x, s, out: x / (1 + s**2) - s * (1 + s**2).rsqrt() * out,
    "sample": lambda x, s, out: out,
}

Embed = Callable[[list[str]], Tensor]


class Prompts(nn.Module):
    """Prompt embeddings of kinds plus a trainable offset each, (B,) -> (B, tokens, dim); kind 0, normal, has none.

    `embed(texts) -> (len(texts), tokens, dim)`; `prompts` {kind: text} for kinds that the default text does not suit.
    `learned` is how many leading tokens of a prompt have an offset; None is all of them, 0 leaves the text as it is.
    """

    def __init__(self, embed: Embed, prompts: dict[str, str] | None = None, learned: int | None = None):
        super().__init__()
        self.embed, self.prompts, self.names, self.offset = embed, dict(prompts or {}), [], None
        self.register_buffer("text", embed([self.prompts.get(NORMAL, NORMAL_PROMPT)]), persistent=False)
        _, tokens, self.dim = self.text.shape
        self.learned = tokens if learned is None else min(learned, tokens)
        self.weight = nn.Parameter(torch.zeros(0, self.learned, self.dim))

    def name(self, kinds: list[str]) -> None:
        """Say what kinds 1..K are called, which is what their prompts are made of; offsets stay as they are."""
        for key in self.prompts:
            if key != NORMAL and key not in kinds:
                near = closest(key, [NORMAL, *kinds])
                raise SettingsError(f"prompts: must name kinds of the support set, got '{key}'; {near}")
        texts = [self.prompts.get(k, KIND_PROMPT.format(kind=k.replace("_", " "))) for k in kinds]
        text = self.embed([self.prompts.get(NORMAL, NORMAL_PROMPT), *texts])
        self.names, self.text = list(kinds), text.to(self.text.device)

    def resize(self, count: int, seed: int) -> None:
        """Offsets for `count` kinds, drawn small and different from `seed`.

        Kinds that nobody named are the keys of `prompts` in order where there are as many, else all the same text.
        """
        if len(self.names) != count:
            keys = sorted(key for key in self.prompts if key != NORMAL)
            if keys and len(keys) != count:
                raise SettingsError(f"prompts: must name every kind, got {len(keys)} prompts for {count} kinds")
            self.name(keys or ["surface"] * count)
        draw = torch.randn(count, self.learned, self.dim, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(0.02 * draw.to(self.weight.device))

    def forward(self, kind: Tensor) -> Tensor:
        rest = self.text.shape[1] - self.learned
        offset = nn.functional.pad(self.weight, (0, 0, 0, rest, 1, 0))  # (1 + K, tokens, dim)
        out = (self.text + offset)[kind]
        if self.offset is not None:
            out = torch.cat([moved(out[:, : self.learned], kind, self.offset), out[:, self.learned :]], dim=1)
        return out


class PretrainedInpaint(nn.Module):
    """D(x; sigma) of a variance-preserving inpainting UNet, in the variance-exploding terms of the rest.

    With x = x0 + sigma eps and abar = 1 / (1 + sigma^2), x / sqrt(1 + sigma^2) is what the UNet was trained on at the
    time t whose abar that is (table 1, column VP, arXiv:2206.00364). Above the schedule's largest sigma, sigma_max, x
    is shrunk onto sigma_max, where next to nothing of x0 is left either.

    `known` is the latent of the image with its hole greyed out, hole included: that is what such UNets are trained
    beside. `net` is the UNet; LoRA may be put on it or on the whole, the autoencoder is never touched.

    **Shape**: x, known (B, channels, h, w), mask (B, 1, h, w), sigma and kind (B,).
    """

    LORA = r"(?!vae\.).*(to_q|to_k|to_v|to_out\.0)"
    mask_channels = 1
    sigma_data = 1.0  # what scaling_factor brings latents to

    def __init__(self, net: nn.Module, vae: nn.Module, kinds: Prompts, alphas_cumprod: Tensor, prediction: str):
        super().__init__()
        self.net, self.vae, self.kinds, self.predicted = net, vae, kinds, PREDICTIONS[prediction]
        self.channels, self.factor = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
        abar = alphas_cumprod.double()
        sigmas = ((1 - abar) / abar.clamp_min(1e-30)).sqrt().clamp_max(SIGMA_CEILING)
        self.sigma_min, self.sigma_max = float(sigmas[0]), float(sigmas[-1])
        self.register_buffer("log_sigmas", sigmas.log().float(), persistent=False)
        self.attention = "sdpa"

    def timestep(self, sigma: Tensor) -> Tensor:
        """The fractional training step t (B,) of noise std sigma (B,), linear in log sigma between steps."""
        table = self.log_sigmas
        log = sigma.float().log().clamp(table[0], table[-1])
        high = torch.searchsorted(table, log).clamp(1, len(table) - 1)
        return high - 1 + (log - table[high - 1]) / (table[high] - table[high - 1])

    def forward(self, x: Tensor, sigma: Tensor, *, known: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        s = sigma.clamp(max=self.sigma_max)
        x, s_right = x * right(s / sigma, x), right(s, x)
        inputs = torch.cat([x * (1 + s_right**2).rsqrt(), mask, known], dim=1).to(self.net.dtype)
        text = self.kinds(kind).to(self.net.dtype)
        out = self.net(inputs, self.timestep(s), encoder_hidden_states=text).sample
        return self.predicted(x, s_right, out.to(x.dtype))

    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (B, channels, H / factor, W / factor) of images (B, 3, H, W) in [-1, 1].

        They are the posterior's mode, so the same image has the same latent.
        """
        with torch.autocast(images.device.type, enabled=False):  # bf16 costs this autoencoder a grey level or two
            z = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        return (z - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of scaled latents."""
        z = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        with torch.autocast(latents.device.type, enabled=False):
            return self.vae.decode(z.to(self.vae.dtype)).sample.clamp(-1, 1)


def load(
    source: str, revision: str | None = None, prompts: dict[str, str] | None = None, device: str = "cpu",
    dtype: torch.dtype | None = None, learned: int | None = None,
) -> PretrainedInpaint:
    """The pipeline in a local diffusers folder or under a hub id at a commit, frozen, on `device`.

    dtype: of the UNet; None is bf16 on a GPU, else float32. The autoencoder stays float32 and the text encoder on the
    CPU. prompts, learned: see `Prompts`. InputError where the folder is not a 9-channel inpainting pipeline in
    safetensors, RemoteError where the hub id cannot be fetched; pickles and remote code are never loaded.
    """
    folder = Path(source)
    if not folder.exists():
        folder = fetch(source, revision, SMALL_FILES)
        check(folder, source, weights=False)
        folder = fetch(source, revision, WEIGHT_FILES, ignore=VARIANTS)
    check(folder, source)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    net, vae = part(folder, source, "unet", dtype), part(folder, source, "vae", torch.float32)
    alphas_cumprod, prediction = schedule(folder, source)
    kinds = Prompts(text_embedder(folder, source), prompts, learned)
    wrapped = PretrainedInpaint(net, vae, kinds, alphas_cumprod, prediction).to(device)
    if backend(device, dtype) == "xformers":
        try:
            net.enable_xformers_memory_efficient_attention()
            wrapped.attention = "xformers"
        except Exception:  # diffusers has a probe of its own; whatever it raises, its default is SDPA
            net.disable_xformers_memory_efficient_attention()
    return wrapped.eval().requires_grad_(False)


def fetch(source: str, revision: str | None, patterns: list[str], ignore: list[str] | None = None) -> Path:
    """The folder a hub id's files of `patterns` lie in, from the cache or fetched; the revision must be a commit."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise InputError(f"{source}: must be a folder or a hub id 'owner/name', no such folder; check the path")
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise SettingsError(f"{source}: revision must be a commit of 40 hex digits, got {revision}; pin one")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    wanted = {"allow_patterns": patterns, "ignore_patterns": ignore}
    try:
        return Path(huggingface_hub.snapshot_download(source, revision=revision, **wanted))
    except (OSError, HfHubHTTPError) as error:
        raise RemoteError(
            f"{source} at {revision[:8]}: could not be fetched ({reason(error)}); check the id and the network"
        ) from error


def reason(error: Exception) -> str:
    """The first line of an error, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_json(folder: Path, source: str, name: str) -> dict:
    """A part's config; InputError where it is missing or no JSON object."""
    try:
        value = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{source}/{name}: must be a JSON file ({error}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise InputError(f"{source}/{name}: must be a JSON object, got {type(value).__name__}; {AGAIN}")
    return value


def check(folder: Path, source: str, *, weights: bool = True) -> None:
    """Raise InputError unless `folder` is an inpainting pipeline this file can run, before any weight is read."""
    if folder.is_file():
        raise InputError(f"{source}: must be a folder in diffusers' layout, got one file; {CONVERT}")
    missing = [name for name in PARTS if not (folder / name).is_dir()]
    if missing:
        raise InputError(f"{source}: must hold {', '.join(PARTS)}, lacks {', '.join(missing)}; {AGAIN}, whole")
    for name, needed in WEIGHTS.items():
        config = read_json(folder, source, f"{name}/config.json")
        found = config.get("_class_name") or (config.get("architectures") or [needed])[0]
        if found != needed:
            raise InputError(f"{source}/{name}: must be a {needed}, got {found}; {USE}")
        if weights and not any((folder / name).glob("*.safetensors")):
            held = sorted(f.name for f in (folder / name).glob("*.*") if f.suffix != ".json") or ["none"]
            raise InputError(f"{source}/{name}: weights must be .safetensors, got {', '.join(held)}; {CONVERT}")
    unet = read_json(folder, source, "unet/config.json")
    latent = read_json(folder, source, "vae/config.json").get("latent_channels", 4)
    if unet.get("in_channels", 4) != 2 * latent + 1:
        raise InputError(
            f"{source}/unet: an inpainting UNet must take {2 * latent + 1} channels (latent, mask, masked latent), got "
            f"{unet.get('in_channels', 4)}; use an inpainting pipeline, not a text-to-image one"
        )
    own = read_json(folder, source, "text_encoder/config.json").get("hidden_size")
    if own != unet.get("cross_attention_dim"):
        width = unet.get("cross_attention_dim")
        raise InputError(f"{source}/text_encoder: hidden_size must be the UNet's {width}, got {own}; {USE}")
    for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if unet.get(key) is not None:
            raise InputError(f"{source}/unet: {key} must be null, got {unet[key]}; {USE}")


def part(folder: Path, source: str, name: str, dtype: torch.dtype) -> nn.Module:
    """The model in a part's folder, every weight from its safetensors; InputError where one is missing or torn."""
    import diffusers
    import transformers
    from safetensors import SafetensorError

    library = transformers if name == "text_encoder" else diffusers
    files = sorted(f.name for f in (folder / name).glob("*.safetensors"))
    plain = any(file.count(".") == 1 for file in files)
    variant = None if plain else files[0].split(".")[1].split("-")[0]  # model.fp16.safetensors
    how = {"use_safetensors": True, "local_files_only": True, "variant": variant, "output_loading_info": True}
    how["dtype" if name == "text_encoder" else "torch_dtype"] = dtype
    try:
        model, info = getattr(library, WEIGHTS[name]).from_pretrained(folder / name, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{source}/{name}: weights could not be read ({reason(error)}); {AGAIN}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise InputError(f"{source}/{name}: weights must be whole, {len(names)} lack, e.g. {names[0]}; {AGAIN}")
    return model.eval().requires_grad_(False)


def schedule(folder: Path, source: str) -> tuple[Tensor, str]:
    """alphas_cumprod (T,) and the prediction type that a pipeline's scheduler says it was trained with."""
    from diffusers import DDPMScheduler

    config = read_json(folder, source, "scheduler/scheduler_config.json")
    if "beta_schedule" not in config and not config.get("trained_betas"):
        raise InputError(f"{source}/scheduler: must have betas, got {config.get('_class_name')}; {USE}")
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    keys += ("rescale_betas_zero_snr",)
    try:
        scheduler = DDPMScheduler(**{key: config[key] for key in keys if key in config})
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"{source}/scheduler: betas could not be built ({reason(error)}); {AGAIN}") from error
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        names = ", ".join(PREDICTIONS)
        raise InputError(f"{source}/scheduler: prediction_type must be one of {names}, got '{prediction}'; {USE}")
    return scheduler.alphas_cumprod, prediction


def text_embedder(folder: Path, source: str) -> Embed:
    """`embed(texts) -> (len(texts), tokens, dim)` on the CPU in float32; each text is encoded once and kept."""
    from transformers import CLIPTokenizer

    encoder = part(folder, source, "text_encoder", torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    config = encoder.config
    room, size = min(tokenizer.model_max_length, config.max_position_embeddings), config.vocab_size
    if not size // 2 <= len(tokenizer) <= size:  # a tokenizer without its vocabulary has two tokens and says nothing
        raise InputError(f"{source}/tokenizer: must hold the encoder's {size} tokens, got {len(tokenizer)}; {AGAIN}")
    kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def embed(texts: list[str]) -> Tensor:
        for text in set(texts) - set(kept):
            length = len(tokenizer(text, verbose=False)["input_ids"])
            if length > room:
                raise SettingsError(f"prompts: a text must fit {room} tokens, got {length}: '{text[:40]}'; shorten it")
            row = tokenizer(text, padding="max_length", max_length=room, return_tensors="pt")
            attend = row["attention_mask"] if getattr(config, "use_attention_mask", False) else None
            kept[text] = encoder(row["input_ids"], attention_mask=attend).last_hidden_state[0]
        return torch.stack([kept[text] for text in texts])

    return embed
