"""Denoising networks F(x, c_noise, known, mask, kind), one a modality; attention is SDPA or xformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

C_NOISE_SCALE = 1000.0  # c_noise is about [-1.6, 1.1]; sinusoids of diffusers expect steps of 0..1000


class Kinds(nn.Module):
    """One vector a kind of anomaly, (B,) -> (B, dim); kind 0, normal, is the zero vector and is never trained."""

    def __init__(self, dim: int, count: int = 0):
        super().__init__()
        self.dim, self.offset = dim, None
        self.weight = nn.Parameter(torch.zeros(count, dim))

    def resize(self, count: int, seed: int) -> None:
        """Room for `count` kinds, drawn small and different from `seed`."""
        draw = torch.randn(count, self.dim, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(0.02 * draw.to(self.weight.device))

    def forward(self, kind: Tensor) -> Tensor:
        table = torch.cat([self.weight.new_zeros(1, self.dim), self.weight])
        return moved(table[kind], kind, self.offset)


def moved(vectors: Tensor, kind: Tensor, offset: Tensor | None) -> Tensor:
    """Kind vectors (B, *dim) with each record's own offset added; that of kind 0, normal, stays."""
    if offset is None:
        return vectors
    anomalous = (kind > 0).reshape(-1, *([1] * (vectors.ndim - 1)))
    return vectors + offset.to(vectors) * anomalous


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """(B,) -> (B, dim) sines and cosines at `dim`/2 geometric frequencies (sec. 3.5, arXiv:1706.03762)."""
    freqs = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=values.device) / (dim // 2))
    angles = C_NOISE_SCALE * values[:, None] * freqs
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ImageNet(nn.Module):
    """diffusers' UNet2DModel on [noisy latent, known latent, mask channels]; kinds enter beside the noise level.

    **Shape**: x, known (B, channels, H, W); mask (B, mask_channels, H, W); H and W multiples of 2^(len(widths) - 1).
    """

    LORA = r".*(to_q|to_k|to_v|to_out\.0|conv1|conv2|conv_in|time_emb_proj)"

    def __init__(self, channels: int, mask_channels: int, widths: list[int], layers: int = 1, head_dim: int = 32):
        super().__init__()
        from diffusers import UNet2DModel

        deeper = len(widths) - 1
        self.unet = UNet2DModel(
            in_channels=2 * channels + mask_channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * deeper,
            up_block_types=("AttnUpBlock2D",) * deeper + ("UpBlock2D",),
            norm_num_groups=math.gcd(*widths, 16),
            attention_head_dim=min(head_dim, *widths),
            class_embed_type="identity",
        )
        self.kinds = Kinds(4 * widths[0])  # the UNet's own width of time embeddings

    def forward(self, x: Tensor, c_noise: Tensor, *, known: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        inputs = torch.cat([x, known, mask], dim=1)
        return self.unet(inputs, C_NOISE_SCALE * c_noise, class_labels=self.kinds(kind)).sample


class Block(nn.Module):
    """A transformer block whose norms are shifted, scaled and gated by the condition (sec. 3.2, arXiv:2212.09748)."""

    def __init__(self, width: int, heads: int, attend: bool):
        super().__init__()
        self.heads, self.attend = heads, attend
        self.condition = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        if attend:
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        else:
            self.mix_in, self.mix_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def film(self, cond: Tensor) -> Tensor:
        """(B, 6 W): for both halves what the norm is scaled by, shifted by, and what the result is gated by."""
        s1, b1, g1, s2, b2, g2 = self.condition(nn.functional.silu(cond)).chunk(6, dim=-1)
        return torch.cat([1 + s1, b1, g1, 1 + s2, b2, g2], dim=-1)

    def forward(self, h: Tensor, cond: Tensor, own: Tensor | None = None) -> Tensor:
        """h (B, T, W); cond (B, W), or a few (K, W) and own (B,), which of them is each record's: they are worked out
        one by one, so that a record's bits do not depend on how many others there are."""
        from generation.attention import attention

        film = self.film(cond) if own is None else torch.cat([self.film(one[None]) for one in cond])[own]
        s1, b1, g1, s2, b2, g2 = film[:, None].chunk(6, dim=-1)
        a = self.norm1(h) * s1 + b1
        if self.attend:
            q, k, v = self.qkv(a).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, T, heads, W / heads)
            a = self.out(attention(q, k, v).flatten(2))
        else:
            a = self.mix_out(nn.functional.silu(self.mix_in(a)))
        h = h + g1 * a
        m = self.norm2(h) * s2 + b2
        return h + g2 * self.mlp_out(nn.functional.gelu(self.mlp_in(m)))


class Conditioned(nn.Module):
    """The trunk shared by windows and rows: tokens -> blocks conditioned on noise level and kind -> tokens."""

    def __init__(self, inputs: int, outputs: int, tokens: int, width: int, depth: int, heads: int):
        super().__init__()
        self.kinds, self.width = Kinds(width), width
        self.noise = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.enter, self.leave = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, attend=tokens > 1) for _ in range(depth))
        self.last = nn.LayerNorm(width, elementwise_affine=False)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, tokens: Tensor, c_noise: Tensor, kind: Tensor) -> Tensor:  # (B, T, inputs) -> (B, T, outputs)
        own = None
        if self.kinds.offset is None and not torch.is_grad_enabled() and (c_noise == c_noise[0]).all():
            # a batch being sampled has one noise level and few kinds: a third of a row's work is in their conditions
            kind, own = kind.unique(return_inverse=True)
            c_noise = c_noise[:1]
        cond = self.noise(sinusoid(c_noise, self.width)) + self.kinds(kind)
        h = self.enter(tokens) + self.place
        for block in self.blocks:
            h = block(h, cond, own)
        return self.leave(self.last(h))


class SeriesNet(nn.Module):
    """A 1-D transformer over patches of `patch` timestamps x all channels.

    **Shape**: x, known, mask (B, channels, T), T = length, a multiple of `patch`.
    """

    LORA = r".*(qkv|out|mlp_in|mlp_out|enter|leave)"

    def __init__(self, channels: int, length: int, patch: int, width: int, depth: int, heads: int = 4):
        super().__init__()
        if length % patch:
            raise ValueError(f"the window must be a multiple of the patch {patch}, got {length}")
        self.patch = patch
        self.trunk = Conditioned(3 * channels * patch, channels * patch, length // patch, width, depth, heads)

    @property
    def kinds(self) -> Kinds:
        return self.trunk.kinds

    def forward(self, x: Tensor, c_noise: Tensor, *, known: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        inputs = torch.cat([x, known, mask.expand_as(x)], dim=1)
        tokens = inputs.unflatten(-1, (-1, self.patch)).permute(0, 2, 1, 3).flatten(2)  # (B, T / p, 3 C p)
        out = self.trunk(tokens, c_noise, kind).unflatten(-1, (-1, self.patch))  # (B, T / p, C, p)
        return out.permute(0, 2, 1, 3).flatten(2)


class RowNet(nn.Module):
    """A residual network over encoded rows. **Shape**: x, known, mask (B, features)."""

    LORA = r".*(mix_in|mix_out|mlp_in|mlp_out|enter|leave)"

    def __init__(self, features: int, width: int, depth: int):
        super().__init__()
        self.trunk = Conditioned(3 * features, features, 1, width, depth, heads=1)

    @property
    def kinds(self) -> Kinds:
        return self.trunk.kinds

    def forward(self, x: Tensor, c_noise: Tensor, *, known: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        return self.trunk(torch.cat([x, known, mask.expand_as(x)], dim=1)[:, None], c_noise, kind)[:, 0]


NETWORKS = {"image": ImageNet, "series": SeriesNet, "row": RowNet}
