"""LoRA adapters (peft) on any denoiser, with the kind vectors they are trained beside; switched on and off in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

KIND_KEY = "kinds.weight"


def add(
    net: nn.Module, *, rank: int, kinds: int, seed: int, alpha: float | None = None, target: str | None = None
) -> None:
    """Put a LoRA of `rank` on the layers that `net.LORA` names and make room for `kinds` kind vectors.

    Only the adapter and the kind vectors are left trainable. rank 0 trains the kind vectors alone, the rule for fewer
    than five examples. A fresh adapter changes nothing: B = 0 (sec. 4.1, arXiv:2106.09685).
    """
    net.requires_grad_(False)
    if rank:
        import torch
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import cast_adapter_dtype

        config = LoraConfig(
            r=rank, lora_alpha=alpha or 2 * rank, target_modules=target or net.LORA, init_lora_weights=True
        )
        with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
            torch.manual_seed(seed)
            inject_adapter_in_model(config, net, adapter_name="default")
        cast_adapter_dtype(net, "default")  # peft follows a bf16 base, too coarse for AdamW
    net.kinds.resize(kinds, seed)


def layers(net: nn.Module) -> list:
    """The LoRA layers of `net`, empty where none was added."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in net.modules() if isinstance(module, BaseTunerLayer)]


@contextmanager
def switched_off(lora_layers: list) -> Iterator[None]:
    """Within it the layers act as the base they were added to."""
    for layer in lora_layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in lora_layers:
            layer._disable_adapters = False


def trainable(net: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by name: every lora_A and lora_B, and the kind vectors."""
    named = {name: p for name, p in net.named_parameters() if "lora_" in name}
    return {**named, KIND_KEY: net.kinds.weight}


def load(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put saved adapter tensors back; ValueError names what is missing, foreign or a no-op."""
    import torch

    own = trainable(net)
    if set(own) != set(tensors):
        raise ValueError(f"adapter does not fit the base: {sorted(set(own) ^ set(tensors))[:3]} differ")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                raise ValueError(f"adapter does not fit the base: {name} is {tuple(tensor.shape)}")
            own[name].copy_(tensor)
    lora_b = [t for name, t in tensors.items() if "lora_B" in name]
    if lora_b and not any(t.abs().max() > 0 for t in lora_b):
        raise ValueError("adapter is a no-op: every lora_B is zero")
