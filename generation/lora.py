"""LoRA adapters (peft) on any denoiser, with the kind vectors they are trained beside; switched on and off in place.

Where an adapter is only used, it is folded: each layer keeps its own weight and W + (alpha / r) B A, and switching
exchanges the two. A pass then costs what it costs without an adapter, and peft, three seconds of imports, stays away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

KIND_KEY = "kinds.weight"
ALPHA = 2.0  # alpha / r
A, B = ".lora_A.default.weight", ".lora_B.default.weight"  # ends of peft's names


def add(net: nn.Module, *, rank: int, kinds: int, seed: int) -> None:
    """Put a LoRA of `rank` on the layers that `net.LORA` names and make room for `kinds` kind vectors.

    Only the adapter and the kind vectors are left trainable. rank 0 trains the kind vectors alone, the rule for fewer
    than five examples. A fresh adapter changes nothing: B = 0 (sec. 4.1, arXiv:2106.09685).
    """
    net.requires_grad_(False)
    if rank:
        import torch
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import cast_adapter_dtype

        config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=net.LORA, init_lora_weights=True)
        with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
            torch.manual_seed(seed)
            inject_adapter_in_model(config, net, adapter_name="default")
        cast_adapter_dtype(net, "default")  # peft follows a bf16 base, too coarse for AdamW
    net.kinds.resize(kinds, seed)


def layers(net: nn.Module) -> list:
    """The LoRA layers of `net`, empty where none was added."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in net.modules() if isinstance(module, BaseTunerLayer)]


@dataclass
class Folded:
    """A plain layer with two weights, its own and the adapted one; stands where peft's layer would."""

    layer: nn.Module
    own: Tensor
    adapted: Tensor

    def switch(self, on: bool) -> None:
        self.layer.weight.data = self.adapted if on else self.own


def fold(net: nn.Module, tensors: dict[str, Tensor], *, kinds: int) -> list[Folded]:
    """Fold saved adapter tensors into the layers of `net` and put the kind vectors in; the folded layers, switched on.

    Exact for linear layers and convolutions alike (sec. 4.1, arXiv:2106.09685). ValueError as `load`.
    """
    import torch

    modules, pairs = dict(net.named_modules()), {name[: -len(A)] for name in tensors if name.endswith(A)}
    net.requires_grad_(False)
    net.kinds.resize(kinds, 0)
    expected = {KIND_KEY} | {name + end for name in pairs & set(modules) for end in (A, B)}
    check(expected, tensors)
    if tensors[KIND_KEY].shape != net.kinds.weight.shape:
        raise ValueError(f"adapter does not fit the base: {KIND_KEY} is {tuple(tensors[KIND_KEY].shape)}")
    found = []
    with torch.no_grad():
        net.kinds.weight.copy_(tensors[KIND_KEY])
        for name in sorted(pairs):
            layer, down, up = modules[name], tensors[name + A], tensors[name + B]
            own = layer.weight.data
            down, up = down.to(own.device), up.to(own.device)
            shape = tuple(up.shape[:1] + down.shape[1:])
            if shape != tuple(own.shape):
                raise ValueError(f"adapter does not fit the base: {name} is {shape}")
            delta = (up.flatten(1) @ down.flatten(1)).reshape(own.shape)  # a k x k A, then a 1 x 1 B
            found.append(Folded(layer, own, own + ALPHA * delta))
            found[-1].switch(True)
    return found


def unwrap(net: nn.Module) -> None:
    """Put the plain layers back in the place of peft's, weights untouched."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(net.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(net.get_submodule(parent), leaf, module.get_base_layer())


@contextmanager
def switched_off(lora_layers: list) -> Iterator[None]:
    """Within it the layers act as the base they were added to."""

    def switch(on: bool) -> None:
        for layer in lora_layers:
            if isinstance(layer, Folded):
                layer.switch(on)
            else:
                layer._disable_adapters = not on

    switch(False)
    try:
        yield
    finally:
        switch(True)


def trainable(net: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by name: every lora_A and lora_B, and the kind vectors."""
    named = {name: p for name, p in net.named_parameters() if "lora_" in name}
    return {**named, KIND_KEY: net.kinds.weight}


def load(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put saved adapter tensors back; ValueError names what is missing, foreign or a no-op."""
    import torch

    own = trainable(net)
    check(set(own), tensors)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                raise ValueError(f"adapter does not fit the base: {name} is {tuple(tensor.shape)}")
            own[name].copy_(tensor)


def check(names: set[str], tensors: dict[str, Tensor]) -> None:
    """ValueError where saved tensors have other names, or an adapter that does nothing."""
    if names != set(tensors):
        raise ValueError(f"adapter does not fit the base: {sorted(names ^ set(tensors))[:3]} differ")
    lora_b = [t for name, t in tensors.items() if "lora_B" in name]
    if lora_b and not any(t.abs().max() > 0 for t in lora_b):
        raise ValueError("adapter is a no-op: every lora_B is zero")
