"""Which attention runs, and that it is softmax(q k^T / sqrt(D)) v."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from generation import attention as module
from generation.attention import attention, backend, sdpa, xformers_runs

CPU = ("cpu", torch.float32)


@pytest.fixture(autouse=True)
def forget():
    """Probe afresh in every test, and leave nothing of a fake behind."""
    xformers_runs.cache_clear()
    yield
    xformers_runs.cache_clear()


def explicit(q, k, v):
    """softmax(q k^T / sqrt(D)) v in float64, all (B, T, heads, D)."""
    q, k, v = (t.double() for t in (q, k, v))
    weights = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts,bshd->bthd", weights.softmax(-1), v)


def install(monkeypatch, kernel):
    """A fake xformers whose kernel is `kernel`."""
    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, kernel
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)


def raising(*args):
    raise NotImplementedError("no operator found for this device")


def random(*shape, seed=0):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed)).unbind(0)


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU, so that the choice between kernels can be tested without one."""

    is_cuda = True


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 5, 3, 8), (1, 33, 2, 16)])
def test_attention_is_the_softmax_formula(shape):
    q, k, v = random(*shape)
    torch.testing.assert_close(sdpa(q, k, v).double(), explicit(q, k, v), atol=1e-6, rtol=1e-5)
    assert torch.equal(attention(q, k, v), sdpa(q, k, v))


def test_queries_and_keys_may_differ_in_number():
    q, k, v = random(2, 9, 3, 8)
    q = q[:, :4]
    torch.testing.assert_close(sdpa(q, k, v).double(), explicit(q, k, v), atol=1e-6, rtol=1e-5)


def test_heads_and_records_do_not_mix():
    q, k, v = random(2, 6, 2, 8)
    changed = v.clone()
    changed[1, :, 0] += 1
    difference = (sdpa(q, k, changed) - sdpa(q, k, v)).abs().amax((1, 3))  # (B, heads)
    assert difference[1, 0] > 0.5 and difference.sum() == difference[1, 0]


def test_the_probe_fails_where_xformers_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)  # makes its import raise
    assert not xformers_runs(*CPU)


BROKEN = {
    "raises": raising,
    "wrong": lambda q, k, v: sdpa(q, k, v) + 0.1,
    "nan": lambda q, k, v: torch.full_like(q, torch.nan),
    "nothing": lambda q, k, v: None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_probe_fails_where_the_kernel_does(monkeypatch, name):
    install(monkeypatch, BROKEN[name])
    assert not xformers_runs(*CPU)


def test_the_probe_passes_a_kernel_that_answers_as_sdpa_does(monkeypatch):
    install(monkeypatch, sdpa)
    assert xformers_runs(*CPU)


def test_the_probe_runs_once_a_device_and_dtype(monkeypatch):
    calls = []
    install(monkeypatch, lambda q, k, v: calls.append(q.dtype) or sdpa(q, k, v))
    for dtype in (torch.float32, torch.float32, torch.bfloat16):
        xformers_runs("cpu", dtype)
    assert calls == [torch.float32, torch.bfloat16]


def test_the_backend_is_xformers_only_on_a_gpu_whose_probe_passed(monkeypatch):
    monkeypatch.setattr(module, "xformers_runs", lambda device, dtype: dtype == torch.bfloat16)
    assert backend("cuda", torch.bfloat16) == backend("cuda:1", torch.bfloat16) == "xformers"
    assert backend("cuda", torch.float32) == backend("cpu", torch.bfloat16) == "sdpa"


@pytest.mark.parametrize("works", [True, False])
def test_attention_takes_the_probed_kernel_and_else_falls_back(monkeypatch, works):
    install(monkeypatch, (lambda q, k, v: "xformers") if works else raising)
    monkeypatch.setattr(module, "xformers_runs", lambda device, dtype: works)
    q, k, v = (t.as_subclass(OnGpu) for t in random(2, 5, 2, 8))
    out = attention(q, k, v)
    if works:
        assert out == "xformers"
    else:
        torch.testing.assert_close(out.as_subclass(torch.Tensor), sdpa(*random(2, 5, 2, 8)))
