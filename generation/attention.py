"""Attention by xformers where a probe of its kernel runs on this device, else PyTorch's SDPA."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def xformers_runs(device: str, dtype: torch.dtype) -> bool:
    """Whether xformers' kernel gives SDPA's answer on a tiny input here; its own is-available flag lies."""
    try:
        from xformers.ops import memory_efficient_attention

        q = torch.linspace(-1, 1, 2 * 8 * 2 * 16, device=device, dtype=dtype).reshape(2, 8, 2, 16)
        close = torch.allclose(memory_efficient_attention(q, q, q).float(), sdpa(q, q, q).float(), atol=2e-2)
        return bool(close)
    except Exception:  # whatever a missing or broken kernel raises, SDPA stands in and `backend` records it
        return False


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention on (B, T, heads, D), the axis order of xformers."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def backend(device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """'xformers' or 'sdpa': what `attention` uses on this device; recorded beside every model."""
    return "xformers" if device.startswith("cuda") and xformers_runs(device, dtype) else "sdpa"


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, all (B, T, heads, D)."""
    if q.is_cuda and backend("cuda", q.dtype) == "xformers":
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(q, k, v)
    return sdpa(q, k, v)
