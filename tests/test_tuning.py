"""Learning from verdicts: the loss is exact, tuning moves the adapter the right way and resumes bit for bit."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from data.records import concat, shards, write_store
from generation.inpaint import generate
from generation.model import Adapter, Base
from generation.plan import plan
from generation.training import draws, fit_adapter, fit_base
from generation.tuning import MOST, as_it_was, error, picked, preference, record_examples, tune
from pipelines.tune import sides

TUNE = {"steps": 12, "batch": 8, "lr": 3e-3, "beta": 20.0, "pool": 8}


def adapted(modality: str):
    torch.set_num_threads(1)
    fit, support = tiny.make(modality)
    base, _ = fit_base(fit, settings=tiny.SETTINGS[modality], seed=0, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        base.save(Path(folder) / "base")
        base = Base.load(Path(folder) / "base")
        fit_adapter(base, fit, support, settings=tiny.ADAPT, seed=0)[0].save(Path(folder) / "adapter")
        adapter = Adapter.load(Base.load(Path(folder) / "base"), Path(folder) / "adapter", train=True)
    rows = plan(fit, support, tiny.folds(fit, support), count=64 if modality == "image" else 16, seed=0, round_=1)
    made = concat(list(generate(adapter, fit, support, rows, **tiny.SAMPLING[modality])))
    made = made.take([bool(np.any(m)) for m in made.mask])
    return adapter, fit, support, made


def test_the_loss_is_log_two_where_nothing_changed_and_falls_with_the_margin():
    e = torch.rand(6, generator=torch.Generator().manual_seed(0))
    assert float(preference(e, e, e, e, 5.0)) == pytest.approx(math.log(2))
    better = preference(e - 0.2, e, e + 0.1, e, 5.0)
    assert float(better) == pytest.approx(math.log(1 + math.exp(-5.0 * 0.3)), rel=1e-5)


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_tuning_draws_the_adapter_to_the_kept_and_away_from_the_refused(modality):
    adapter, fit, support, made = adapted(modality)
    half = np.arange(len(made)) < len(made) // 2
    kept, refused = made.take(half), made.take(~half)
    sides = [record_examples(adapter, part, seed=0) for part in (kept, refused)]

    def margin() -> float:
        total = []
        for step in range(8):
            per = [draws(9, step, len(s["x0"]), tuple(s["x0"].shape[1:]), "cpu") for s in sides]
            with torch.no_grad():
                total.append([float(error(adapter, s, *n).mean()) for s, n in zip(sides, per)])
        kept_error, refused_error = np.mean(total, axis=0)
        return refused_error - kept_error

    before = margin()
    losses = tune(adapter, fit, support, kept, refused, **{**TUNE, "steps": 40}, seed=0)
    assert len(losses) == 40 and margin() > before


def test_nothing_to_compare_leaves_the_adapter_bit_for_bit():
    adapter, fit, support, made = adapted("row")
    before = {k: p.detach().clone() for k, p in adapter.parameters().items()}
    none = made.take([])
    assert tune(adapter, fit, support, made, none, **TUNE, seed=0) == []
    assert tune(adapter, fit, support, none, made, **TUNE, seed=0) == []
    assert tune(adapter, fit, support, made, made, **{**TUNE, "steps": 0}, seed=0) == []
    assert all(torch.equal(p, before[k]) for k, p in adapter.parameters().items())


def test_what_is_learnt_from_is_drawn_by_the_seed_of_a_side_and_no_more_than_can_be_held():
    usable = np.arange(1000) % 3 > 0
    assert picked(usable[:300], 0).tolist() == np.flatnonzero(usable[:300]).tolist()
    one, other = picked(usable, 0), picked(usable, 1)
    assert len(one) == len(other) == MOST and set(one) != set(other)
    assert usable[one].all() and (np.diff(one) > 0).all() and picked(usable, 0).tolist() == one.tolist()
    assert one[-1] > 900  # of all, not the first


def test_sides_are_read_from_shards_and_leave_out_what_changed_nothing(tmp_path):
    _, _, _, made = adapted("row")
    made.mask[::5] = False
    write_store(tmp_path / "store", made, rows_per_shard=3)
    assert len(shards(tmp_path / "store")) > 3
    keep = np.arange(len(made)) % 2 == 0
    kept, refused = sides(tmp_path / "store", keep, 0)
    some = made.mask.any(1)
    for part, side in ((kept, keep), (refused, ~keep)):
        assert list(part.meta["id"]) == list(made.meta["id"][side & some])
        assert part.x.equals(made.x[side & some].reset_index(drop=True))
    assert list(map(len, sides(tmp_path / "store", keep & False, 0))) == [0, some.sum()]


def test_the_reference_is_put_back_after_use():
    parameters = {"w": torch.nn.Parameter(torch.ones(3))}
    with as_it_was(parameters, {"w": torch.zeros(3)}):
        assert float(parameters["w"].sum()) == 0
    assert float(parameters["w"].sum()) == 3


def test_a_tuning_that_was_cut_off_ends_like_one_that_was_not(tmp_path, monkeypatch):
    from generation import fit as training

    def state(adapter) -> dict:
        return {k: p.detach().clone() for k, p in adapter.parameters().items()}

    adapter, fit, support, made = adapted("row")
    half = np.arange(len(made)) % 2 == 0
    start = state(adapter)
    tune(adapter, fit, support, made.take(half), made.take(~half), **TUNE, seed=0)
    whole = state(adapter)
    for name, p in adapter.parameters().items():
        p.data.copy_(start[name])
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)

    class Cut(Exception):
        pass

    def cut(step: int, loss: float) -> None:
        if step == 7:
            raise Cut

    with pytest.raises(Cut):
        tune(adapter, fit, support, made.take(half), made.take(~half), **TUNE, seed=0, folder=tmp_path, report=cut)
    for name, p in adapter.parameters().items():
        p.data.copy_(start[name])
    tune(adapter, fit, support, made.take(half), made.take(~half), **TUNE, seed=0, folder=tmp_path)
    assert all(torch.equal(p, whole[k]) for k, p in state(adapter).items())
