"""Base, adapter and generated records of every modality: what is kept, what depends on what, what survives a disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from data.errors import InputError
from data.records import Records, concat, make_meta
from data.records.series import SeriesCodec, own_channels, shown
from detection.novelty import edit_vectors
from generation import examples, lora
from generation.classical.series import Channels
from generation.contrast import contrast
from generation.examples import adapter_batches
from generation.fit import Trainer, train
from generation.inpaint import generate
from generation.model import Adapter, Base
from generation.paste import paste_series
from generation.plan import HOSTS, PLACES, activity, arms, chances, host_bins, pick, plan
from generation.training import base_steps, fit_adapter, fit_base, match_scales


class Fitted:
    """A base and adapter trained for a moment, and sixteen planned records."""

    def __init__(self, modality: str):
        torch.set_num_threads(1)
        self.modality = modality
        self.fit, self.support = tiny.make(modality)
        self.base, self.losses = fit_base(self.fit, settings=tiny.SETTINGS[modality], seed=0, device="cpu")
        self.before = {k: v.clone() for k, v in self.base.net.state_dict().items() if "kinds" not in k}
        self.adapter, _ = fit_adapter(self.base, self.fit, self.support, settings=tiny.ADAPT, seed=0)
        self.folds = tiny.folds(self.fit, self.support)
        self.plan = plan(self.fit, self.support, self.folds, count=16, seed=0, round_=1)

    def make(self, rows: pd.DataFrame | None = None) -> Records:
        rows = self.plan if rows is None else rows
        return concat(list(generate(self.adapter, self.fit, self.support, rows, **tiny.SAMPLING[self.modality])))


@pytest.fixture(scope="module", params=tiny.MODALITIES)
def fitted(request) -> Fitted:
    return Fitted(request.param)


def values(records: Records, i: int) -> np.ndarray:
    return records.x.iloc[i].to_numpy() if records.modality == "row" else records.x[i]


def test_outside_the_edit_a_record_equals_its_host_bit_for_bit(fitted):
    made = fitted.make()
    hosts = concat([fitted.fit, fitted.support])
    position = {name: i for i, name in enumerate(hosts.meta["id"])}
    touched = 0
    for i in range(len(made)):
        host, got = values(hosts, position[made.meta["host"][i]]), values(made, i)
        edit = np.array(made.meta["changed"][i]) if made.modality == "row" else made.mask[i]
        same = [(a == b) or (pd.isna(a) and pd.isna(b)) for a, b in zip(got[~edit].ravel(), host[~edit].ravel())]
        assert all(same), i
        touched += int(edit.sum())
    assert touched > 0


def test_a_record_depends_on_its_seed_not_on_its_batch(fitted):
    whole, alone = fitted.make(), fitted.make(fitted.plan.iloc[[5]])
    shuffled = fitted.make(fitted.plan.iloc[[9, 5, 2]])
    for other, at in ((alone, 0), (shuffled, 1)):
        assert list(whole.meta.iloc[5]["id"]) == list(other.meta.iloc[at]["id"])
        if whole.modality == "row":
            pd.testing.assert_frame_equal(
                whole.x.iloc[[5]].reset_index(drop=True), other.x.iloc[[at]].reset_index(drop=True)
            )
        else:
            np.testing.assert_array_equal(values(whole, 5), values(other, at))
            np.testing.assert_array_equal(whole.mask[5], other.mask[at])


def test_another_seed_gives_another_record(fitted):
    other = plan(fitted.fit, fitted.support, fitted.folds, count=16, seed=1, round_=1)
    a, b = fitted.make(), fitted.make(other)
    assert not set(a.meta["seed"]) & set(b.meta["seed"])
    assert any(str(values(a, i).tolist()) != str(values(b, i).tolist()) for i in range(16))


def test_provenance_names_host_parent_and_their_common_fold(fitted):
    made = fitted.make()
    for row in made.meta.itertuples():
        assert row.synthetic and row.label == 1 and row.kind.startswith("k")
        assert len(set(row.parents)) == len(row.parents) >= 1
        assert len(row.parents) == 1 or fitted.base.modality == "row"
        kinds = fitted.support.meta.set_index("id")["kind"]
        assert {(fitted.folds[p], kinds[p]) for p in row.parents} == {(row.fold, row.kind)}
        assert fitted.folds[row.host] == row.fold
        where = "label" if fitted.base.modality == "row" else "bank"
        assert row.mask_source == f"{where}:{row.parents[0]}"


def test_adapting_leaves_the_base_bit_for_bit(fitted):
    with lora.switched_off(fitted.adapter.layers):
        after = fitted.base.net.state_dict()
        assert fitted.before and all(torch.equal(after[name], tensor) for name, tensor in fitted.before.items())
    after = fitted.base.net.state_dict()
    moved = [name for name, tensor in fitted.before.items() if not torch.equal(after[name], tensor)]
    assert len(moved) == len(fitted.adapter.layers) > 0


def small_input(fitted: Fitted) -> tuple[torch.Tensor, torch.Tensor, dict]:
    if fitted.modality == "image":
        x = torch.randn(3, fitted.base.latent.channels, 8, 8, generator=torch.Generator().manual_seed(1))
        mask = torch.zeros(3, 5, 8, 8)
        mask[:, :, 2:5, 2:5] = 1
    else:
        shape = fitted.base.config["shape"]
        x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
        mask = torch.zeros_like(x)
        mask[..., :2] = 1
    known = x * 0.5
    return x, torch.tensor([0.5, 1.0, 2.0]), {"known": known, "mask": mask, "kind": torch.tensor([1, 2, 1])}


def test_adapter_survives_the_disk_and_is_no_no_op(fitted, tmp_path):
    """Saved beside a base that was saved before it was adapted, loaded into a fresh process' objects."""
    base, _ = fit_base(fitted.fit, settings=tiny.SETTINGS[fitted.modality], seed=0, device="cpu")
    base.save(tmp_path / "base")
    x, sigma, cond = small_input(fitted)
    with torch.no_grad():
        plain = Base.load(tmp_path / "base").denoise(x, sigma, **cond)
    loaded = Base.load(tmp_path / "base")
    adapter, _ = fit_adapter(loaded, fitted.fit, fitted.support, settings=tiny.ADAPT, seed=0)
    adapter.save(tmp_path / "adapter")
    again = Adapter.load(Base.load(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        want, got = adapter.denoise(x, sigma, **cond), again.denoise(x, sigma, **cond)
        off = again.denoise_base(x, sigma, **cond)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    torch.testing.assert_close(off, plain, rtol=0, atol=0)
    assert not torch.allclose(got, off, atol=1e-4)
    other = Base.build(
        fitted.modality, base.codec, tiny.SETTINGS[fitted.modality], shape=tuple(base.config["shape"]), seed=5
    )
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="belongs to another base"):
        Adapter.load(Base.load(tmp_path / "other"), tmp_path / "adapter")


def at(adapter: Adapter, off: bool):
    """The denoiser with its adapter on or off."""

    def denoise(*args, **cond):
        with lora.switched_off(adapter.layers if off else []):
            return adapter.base.denoiser(*args, **cond)

    return denoise


def test_an_adapter_in_training_and_a_folded_one_are_one_function(fitted, tmp_path):
    """peft's layers beside the weights, and W + (alpha / r) B A in their place: linear layers and convolutions."""
    base, _ = fit_base(fitted.fit, settings=tiny.SETTINGS[fitted.modality], seed=0, device="cpu")
    base.save(tmp_path / "base")
    adapter, _ = fit_adapter(Base.load(tmp_path / "base"), fitted.fit, fitted.support, settings=tiny.ADAPT, seed=0)
    adapter.save(tmp_path / "adapter")
    by_peft, folded = (
        Adapter.load(Base.load(tmp_path / "base"), tmp_path / "adapter", train=train) for train in (True, False)
    )
    assert len(by_peft.layers) == len(folded.layers) > 0 and by_peft.layers[0] is not folded.layers[0]
    assert not any("lora" in name for name, _ in folded.base.net.named_parameters())
    x, sigma, cond = small_input(fitted)
    with torch.no_grad():  # the denoiser itself, without bf16
        for off in (False, True, False):
            want, got = (at(a, off)(x, sigma, **cond) for a in (by_peft, folded))
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert set(by_peft.parameters()) == set(folded.parameters())
    for name, p in by_peft.parameters().items():
        assert torch.equal(p, folded.parameters()[name])


@pytest.mark.parametrize("train", [True, False])
def test_a_base_carries_one_adapter(tmp_path, train):
    """A second would be put on the first, and every score and generation of it would be of both."""
    fit, support = tiny.make("row")
    fit_base(fit, settings=tiny.SETTINGS["row"], seed=0, device="cpu")[0].save(tmp_path / "base")
    base = Base.load(tmp_path / "base")
    fit_adapter(base, fit, support, settings=tiny.ADAPT, seed=0)[0].save(tmp_path / "adapter")
    base = Base.load(tmp_path / "base")
    Adapter.load(base, tmp_path / "adapter", train=train)
    with pytest.raises(InputError, match="carries one adapter"):
        Adapter.load(base, tmp_path / "adapter", train=not train)
    with pytest.raises(ValueError, match="load the base again"):
        Adapter.build(base, ["k0"], rank=2, seed=0)


def test_torn_weights_are_refused(fitted, tmp_path):
    base = Base.build(
        fitted.modality, fitted.base.codec, tiny.SETTINGS[fitted.modality], shape=tuple(fitted.base.config["shape"])
    )
    base.save(tmp_path / "base")
    blob = (tmp_path / "base" / "model.safetensors").read_bytes()
    (tmp_path / "base" / "model.safetensors").write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(InputError, match="sha256 differs"):
        Base.load(tmp_path / "base")


def test_a_no_op_adapter_is_refused():
    fit, _ = tiny.make("row")
    base, _ = fit_base(fit, settings=tiny.SETTINGS["row"], seed=0, device="cpu")
    adapter = Adapter.build(base, ["k0", "k1"], rank=2, seed=0)
    with pytest.raises(ValueError, match="no-op"):
        lora.load(base.net, {k: v.detach().clone() for k, v in adapter.parameters().items()})


@pytest.mark.parametrize("modality", ["image", "series"])
def test_contrast_measures_how_far_the_anomaly_stands_out(modality):
    """Images: pixels of 230 on a ground of 90..129 stand out by 120 / 255; series: a shift of 3 in codec units."""
    fit, support = tiny.make(modality, normals=40, odd=6)
    codec = __import__("data.records.codecs", fromlist=["CODECS"]).CODECS[modality].fit(fit)
    got = contrast(support, codec)
    if modality == "image":
        assert got == pytest.approx(np.full(6, 120 / 255), abs=0.03)
    else:
        assert np.median(got) == pytest.approx(3 / codec.scale[0], rel=0.35)


def test_contrast_is_that_of_the_channels_an_anomaly_shows_in():
    """A shift of 6 spreads in one channel of eight stands out by 6, whether the label names it or marks them all."""
    values = np.random.default_rng(0).uniform(-2, 2, size=(40, 64, 8))
    fit = Records("series", make_meta(40), list(values), [np.zeros((64, 8), bool)] * 40, {"channels": list("abcdefgh")})
    codec = SeriesCodec.fit(fit)
    odd, steps = values[0].copy(), np.zeros(64, bool)
    steps[20:40] = True
    odd[steps, 2] = np.median(odd[~steps, 2]) + 6 * codec.scale[2]
    named, every, none = np.zeros((64, 8), bool), np.repeat(steps[:, None], 8, axis=1), np.zeros((64, 8), bool)
    named[steps, 2] = True
    still = np.zeros(3, bool)
    assert own_channels(np.array([1.0, 4.0, 9.0]), np.array([0.0, 0.0, 8.0]), still).tolist() == [False, True, False]
    assert own_channels(np.array([1.0, 2.0, 1.5]), np.zeros(3), still).tolist() == [False, True, False]
    assert own_channels(np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.9, 0.0]), ~still).tolist() == [True, False, False]
    for mask, expected in ((named, 6), (every, 6), (none, 0)):
        one = Records("series", make_meta(1), [odd], [mask], fit.schema)
        assert contrast(one, codec) == pytest.approx([expected])
        assert (edit_vectors(one, codec).reshape(8, 64)[[0, 1, 3, 4, 5, 6, 7]] == 0).all()
    x, mask = np.zeros((3, 9)), np.zeros((3, 9), bool)
    mask[:2, 3:6], x[0, 3:6], x[1, 4], x[1, 8], x[2, 4] = True, 4, 10, 20, 50
    assert (shown(x, mask, still)[1] == mask).all(), "a label that names channels is believed"
    mask[2] = mask[0]
    x[2, 1] = 60
    assert shown(x, mask, still)[1].any(1).tolist() == [True, False, False], "b and c are odder where they are normal"
    x[0, 3:6] = 2
    assert shown(x[[0, 2]], mask[[0, 2]], still[:2])[1].any(1).tolist() == [False, True], "the one that deviates most"


def test_a_level_of_its_own_takes_a_few_normal_steps():
    """Eight normal steps at 5 make 5 the level; seven do not, and a window marked whole has none."""
    x, mask, still = np.full((1, 20), 5.0), np.ones((1, 20), bool), np.zeros(1, bool)
    for count, expected in ((8, 0), (7, 5), (0, 5)):
        mask[0, :], mask[0, :count] = True, False
        assert (shown(x, mask, still)[0] == expected).all()


def test_a_cell_that_hardly_differs_from_its_host_is_not_labelled():
    """Though the control differs: .14 spreads from the host are none, .16 are."""
    normal, support = tiny.make("series", normals=40, odd=2)
    codec = SeriesCodec.fit(normal)
    codec = replace(codec, decimals=[None] * len(codec.channels))
    seen = Channels.of(normal, support, codec)
    rows = plan(normal, support, tiny.folds(normal, support), count=2, seed=0, round_=1)
    hosts = normal.take(rows["host"].to_numpy())
    clean = codec.encode(hosts)[0].astype(np.float32)
    made, hole = clean.copy(), np.zeros((*hosts.x[0].shape,), bool)
    hole[10:20, 0] = True
    made[0, 0, 10:20] += 0.14
    made[1, 0, 10:20] += 0.16
    stack = np.stack([hole, hole])
    out = paste_series(codec, seen, hosts, normal, support, rows, stack, clean, made, clean - 3, [1.0, 1.0])
    assert [int(m.sum()) for m in out.mask] == [0, 10]


def test_a_channel_that_only_anomalies_move_is_labelled_by_how_far_they_take_it():
    """Never off 0 in the normals, at most .25 in the anomaly, six spreads: .01 is labelled and written, .005 is not."""
    x, mask = [np.zeros((64, 1))] * 40, [np.zeros((64, 1), bool)] * 40
    normal = Records("series", make_meta(40), x, mask, {"channels": ["a"]})
    odd = np.linspace(0, 0.25, 64)[:, None].round(3)
    support = replace(normal.take([0]), x=[odd], mask=[np.ones((64, 1), bool)])
    codec = SeriesCodec.fit(normal)
    seen = Channels.of(normal, support, codec)
    rows = plan(normal, support, tiny.folds(normal, support), count=2, seed=0, round_=1)
    hosts, hole = normal.take(rows["host"].to_numpy()), np.zeros((2, 64, 1), bool)
    hole[:, 10:12] = True
    clean = codec.encode(hosts)[0].astype(np.float64)
    made = clean + np.array([0.01, 0.005], np.float64)[:, None, None] * hole.transpose(0, 2, 1)
    out = paste_series(codec, seen, hosts, normal, support, rows, hole, clean, made, clean, [1.0, 1.0])
    assert [int(m.sum()) for m in out.mask] == [2, 0]
    assert out.x[0][10:12, 0].tolist() == [0.01, 0.01] and (out.x[1] == 0).all()


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_span_is_as_long_as_its_size_says_at_every_strength(strength):
    """Parents marked for 20 steps; .6 and 1.5 of it, +-15 % at full strength."""
    fitted = Fitted("series")
    mask = np.zeros_like(fitted.support.mask[0])
    mask[10:30] = True
    support = replace(fitted.support, x=[np.where(mask, 9.0, x) for x in fitted.support.x],
                      mask=[mask] * len(fitted.support))  # fmt: skip
    rows = fitted.plan.assign(place="")
    settings = {**tiny.SAMPLING["series"], "strength": (strength, strength)}
    for size in (0.6, 1.5):
        made = concat(list(generate(fitted.adapter, fitted.fit, support, rows.assign(size_factor=size), **settings)))
        steps = made.meta["intended_area"].to_numpy() * mask.size / mask.any(0).sum()
        assert (np.abs(steps / (20 * size) - 1) < 0.2).all(), steps


def test_an_adapter_learns_exemplars_in_the_channels_that_all_normals_say(monkeypatch):
    """Though they are pasted on three hosts."""
    import generation.classical.series as classical_series

    fitted, given = Fitted("series"), []
    paste = classical_series.paste
    monkeypatch.setattr(classical_series, "paste", lambda *a, seen: (given.append(seen), paste(*a, seen=seen))[1])
    examples.anomaly_examples(fitted.base, fitted.support, fitted.fit, np.ones(len(fitted.support)), count=3, seed=0)
    expected = Channels.of(fitted.fit, fitted.support, fitted.base.codec)
    assert [given[0].scale.tolist(), given[0].low.tolist()] == [expected.scale.tolist(), expected.low.tolist()]


def test_what_a_label_of_all_channels_makes_anew_is_the_channels_it_shows_in():
    """At every strength: a shift of channel a with both marked throughout is a mask of channel a."""
    fitted = Fitted("series")
    support = replace(fitted.support, mask=[np.ones_like(m) for m in fitted.support.mask])
    made = concat(list(generate(fitted.adapter, fitted.fit, support, fitted.plan, **tiny.SAMPLING["series"])))
    assert set(made.meta["strength"]) > {1.0}
    for mask, host, x in zip(made.mask, made.meta["host"], made.x):
        own = fitted.fit.x[list(fitted.fit.meta["id"]).index(host)]
        assert not mask[:, 1].any() and (x[:, 1] == own[:, 1]).all()
    assert made.meta["intended_area"].max() <= 0.5


def test_a_window_is_labelled_where_what_its_channels_can_take_differs():
    """A flag moved by less than half stays, and so does a channel that never moved: neither is an anomaly there."""
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 2, (40, 64)), np.full((40, 64), 3), rng.uniform(1, 9, (40, 64))]
    x = np.stack(columns, axis=2).astype(float)
    names = {"channels": ["flag", "still", "load"]}
    normal = Records("series", make_meta(40), list(x), [np.zeros((64, 3), bool)] * 40, names)
    support = normal.take([0])
    codec = SeriesCodec.fit(normal)
    seen = Channels.of(normal, support, codec)
    rows = plan(normal, support, tiny.folds(normal, support), count=2, seed=0, round_=1)
    hosts, steps = normal.take(rows["host"].to_numpy()), slice(16, 48)
    hosts.x[1] = hosts.x[1] + np.where(np.arange(64) == 20, 1e6, 0)[:, None] * [0, 0, 1]  # a glitch of the host's own
    clean = codec.encode(hosts)[0].astype(np.float32)
    move, twin = clean.copy(), clean.copy()
    twin[0, 0, steps] += (0.8 - 1.6 * hosts.x[0][steps, 0]) / codec.scale[0]  # where the record itself is its host
    move[1, 2, steps] = 9
    move[1, 2, 20] = clean[1, 2, 20]
    move[0, 0, steps] += 0.3 / codec.scale[0]  # too little for a flag
    move[1, 0, steps] += (0.8 - 1.6 * hosts.x[1][steps, 0]) / codec.scale[0]  # over to its other value
    move[0, 1, steps] += 40  # of a channel that never moved
    move[0, 2, steps] -= 1000  # below what was never negative
    hole = np.zeros((2, 64, 3), bool)
    hole[:, steps] = True
    made = paste_series(codec, seen, hosts, normal, support, rows, hole, clean, move, twin, [1.0, 1.0])
    assert made.mask[0].sum(0).tolist() == [0, 0, 32]
    assert made.mask[1].sum(0).tolist() == [30, 0, 32], "a flag does not fade in"
    assert made.x[1][20, 2] == hosts.x[1][20, 2] > 1e5
    assert (made.x[1][17:47, 0] == 1 - hosts.x[1][17:47, 0]).all()
    assert (made.x[0][steps, 2] == 0).sum() >= 28, "all but the taper"
    for got, twin, host, mask in zip(made.x, made.control, hosts.x, made.mask):
        assert (got[~mask] == host[~mask]).all() and (twin == host).all()
    assert list(made.meta["area"]) == pytest.approx([32 / 192, 62 / 192])


def test_matched_scale_is_the_tried_one_nearest_to_the_support(monkeypatch):
    """With contrast proportional to cfg_scale and the support's at 2.1 times that of scale 1, scale 2 is chosen."""
    fitted = Fitted("series")
    import generation.training as training

    def generate(adapter, fit, support, trial, **sampling):
        yield np.array([adapter.scales[kind] for kind in trial["kind"]])

    def contrast(records, codec):
        return np.full(len(fitted.support), 0.42) if isinstance(records, Records) else records * 0.42 / 2.1

    monkeypatch.setattr(training, "generate", generate)
    monkeypatch.setattr(training, "contrast", contrast)
    match_scales(fitted.adapter, fitted.fit, fitted.support, fitted.folds, seed=0, count=4, sampling={})
    assert set(fitted.adapter.scales.values()) == {2.0}


def test_a_block_scales_by_one_and_more_shifts_and_gates_what_it_adds():
    """adaLN-zero by hand (sec. 3.2, arXiv:2212.09748): one row of conditions for all, or each record's own."""
    from generation.networks import Block

    torch.manual_seed(0)
    block = Block(8, heads=1, attend=False).double()
    h, cond = torch.randn(5, 1, 8).double(), torch.randn(2, 8).double()
    assert torch.equal(block(h, cond[:1]), h), "untrained it changes nothing"
    torch.nn.init.normal_(block.condition.weight)
    torch.nn.init.normal_(block.condition.bias)

    def by_hand(h, c):
        s1, b1, g1, s2, b2, g2 = block.condition(torch.nn.functional.silu(c)).reshape(6, 8)
        norm = lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()  # noqa: E731
        h = h + g1 * block.mix_out(torch.nn.functional.silu(block.mix_in(norm(h) * (1 + s1) + b1)))
        return h + g2 * block.mlp_out(torch.nn.functional.gelu(block.mlp_in(norm(h) * (1 + s2) + b2)))

    own = torch.tensor([0, 1, 1, 0, 1])
    expected = torch.stack([by_hand(x, cond[i]) for x, i in zip(h, own)])
    assert torch.allclose(block(h, cond, own), expected)
    assert torch.allclose(block(h, cond[own]), expected)


@pytest.mark.parametrize("size", [None, 7])
def test_a_pick_is_numpys_choice_and_leaves_the_generator_where_it_does(size):
    for seed, count in enumerate([1, 2, 3, 10, 1000]):
        one, two, values = np.random.default_rng(seed), np.random.default_rng(seed), np.arange(count) ** 2
        assert np.array_equal(pick(one, values, size), two.choice(values, size))
        assert one.random() == two.random()


def test_plan_rows_do_not_change_with_the_count_and_follow_the_steering():
    fit, support = tiny.make("row", normals=20, odd=6)
    own = tiny.folds(fit, support)
    short, long = (plan(fit, support, own, count=n, seed=3, round_=2) for n in (5, 50))
    pd.testing.assert_frame_equal(short, long.iloc[:5])
    shapes = arms(["k0", "k1"], "row")["shape"]
    assert shapes == [f"{kind}|any|{severity}" for kind in ("k0", "k1") for severity in ("faint", "like", "strong")]
    assert (short["size_factor"] == 1).all()
    key = shapes[4]
    steered = plan(fit, support, own, count=400, seed=3, round_=2, steer={key: 1.0})
    hit = (steered["kind"] + "|" + steered["size"] + "|" + steered["severity_bin"] == key).mean()
    assert hit == pytest.approx(chances(shapes, {key: 1.0})[4], abs=0.08)
    assert 0.65 < hit < 0.85  # most draws steered, the rest explores
    assert steered["kind"].nunique() == 2


@pytest.mark.parametrize(("modality", "kind", "extra"), [("image", "train", 4), ("image", "pixels", 0), ("row", "", 0)])
def test_training_tells_every_step_the_autoencoders_too(modality, kind, extra):
    settings = {**tiny.SETTINGS[modality], "steps": 3}
    if kind:
        settings["latent"] = {**settings["latent"], "kind": kind, "steps": 4, "factor": 4 if extra else 2}
    told = []
    fit_base(tiny.make(modality)[0], settings=settings, seed=0, device="cpu", report=lambda step, _: told.append(step))
    assert told == list(range(1, 4 + extra)) and told[-1] == base_steps(modality, settings)


class Killed(Exception):
    pass


@pytest.mark.parametrize("convolution", [False, True])
def test_training_resumed_after_a_kill_equals_uninterrupted_training(tmp_path, convolution):
    """Parameters, averages, optimizer state and losses: bit for bit, in a layout of memory of their own too."""
    target = torch.linspace(-1, 1, 8)

    def trainer():
        torch.manual_seed(0)
        net = torch.nn.Linear(8, 8)
        if convolution:
            net = torch.nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)

        def batch(step):
            shape = (4, 8, 6, 8 + 2) if convolution else (4, 8)
            return {"x": torch.randn(shape, generator=torch.Generator().manual_seed(step))}

        return net, Trainer(
            dict(net.named_parameters()), lambda b: ((net(b["x"]) - target) ** 2).mean(), batch, steps=20, lr=0.1
        )

    net, whole = trainer()
    losses = train(whole)
    _, part = trainer()
    for step, _ in part.run():
        if step == 7:
            part.save(tmp_path)
        if step == 11:
            break
    again, resumed = trainer()
    assert train(resumed, folder=tmp_path) == losses
    for a, b in zip(net.parameters(), again.parameters()):
        assert torch.equal(a, b)


def test_a_torn_checkpoint_is_named_and_the_one_before_used(tmp_path, capsys):
    def trainer():
        net, batch = torch.nn.Linear(3, 3), {"x": torch.ones(2, 3)}
        loss = lambda b: net(b["x"]).square().mean()  # noqa: E731
        return Trainer(dict(net.named_parameters()), loss, lambda s: batch, steps=20, lr=0.1)

    part = trainer()
    for step, _ in part.run():
        if step in (3, 7, 11):
            part.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"checkpoint-{step:09d}.{kind}" for step in (7, 11) for kind in ("json", "safetensors")
    ]
    newest = tmp_path / "checkpoint-000000011.safetensors"
    torn = bytearray(newest.read_bytes())
    torn[-1] ^= 1
    newest.write_bytes(torn)
    again = trainer()
    assert again.resume(tmp_path) and again.step == 7 and len(again.losses) == 7
    note = newest.with_suffix(".json")
    assert capsys.readouterr().err == f"{note}: checkpoint torn; training goes on from before it\n"
    assert {p.stem for p in tmp_path.iterdir()} == {"checkpoint-000000007"}  # a torn one pushes no whole one out
    (tmp_path / "checkpoint-000000007.json").write_text("{torn")
    assert not trainer().resume(tmp_path) and capsys.readouterr().err.count("torn;") == 1


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    data = {"x": torch.randn(7, 3)}
    grads = []
    for micro in (7, 2):
        t = Trainer(
            dict(net.named_parameters()), lambda b: net(b["x"]).square().mean(), lambda s: data, steps=1, lr=0.1
        )
        t.micro = micro
        net.zero_grad()
        t._gradient(data)
        grads.append(net.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])


def test_a_loss_that_is_not_finite_stops_training_with_exit_code_4():
    net = torch.nn.Linear(2, 1)
    t = Trainer(
        dict(net.named_parameters()),
        lambda b: net(b["x"]).sum() * float("nan"),
        lambda s: {"x": torch.ones(2, 2)},
        steps=3,
        lr=0.1,
    )
    with pytest.raises(Exception, match="loss must be finite") as error:
        train(t)
    assert error.value.exit_code == 4


def test_a_gradient_that_is_not_finite_stops_training_before_a_weight_moves():
    """The root of 0 is fine and its slope is not; the last step would save what it spoilt."""
    net = torch.nn.Linear(2, 1)
    before = net.weight.detach().clone()
    start = {"x": torch.zeros(2, 2)}
    t = Trainer(dict(net.named_parameters()), lambda b: (net(b["x"]) * 0).sum().abs().sqrt(), lambda s: start, steps=1,
                lr=0.1)  # fmt: skip
    with pytest.raises(Exception, match="gradient must be finite") as error:
        train(t)
    assert error.value.exit_code == 4 and torch.equal(net.weight, before)


def test_generated_rows_keep_to_what_their_columns_can_hold(monkeypatch):
    from data.records.table import RowCodec
    from generation.limits import allowed

    fitted, plain = Fitted("row"), RowCodec.decode
    monkeypatch.setattr(RowCodec, "decode", lambda *given: plain(*given).assign(amount=-1e6))
    low = allowed(concat([fitted.fit, fitted.support]))["amount"].low
    assert (fitted.make().x["amount"] == low).all() and low > -1e6


@pytest.mark.parametrize("prior", [0.95, 1.0])
def test_every_batch_of_an_adapter_holds_an_anomaly(fitted, prior):
    kinds = sorted(set(fitted.support.meta["kind"]))
    draw = adapter_batches(fitted.base, fitted.fit, fitted.support, kinds, batch=4, seed=0, pool=8, prior=prior)
    assert all(int((draw(step)["kind"] > 0).sum()) == 1 for step in range(5))


@pytest.mark.parametrize("fitted", ["image", "series"], indirect=True)
def test_masks_that_are_not_the_banks_are_not_said_to_be(fitted):
    given = tiny.SAMPLING[fitted.modality] | {"masks": "random"}
    made = next(iter(generate(fitted.adapter, fitted.fit, fitted.support, fitted.plan, **given)))
    assert set(made.meta["mask_source"]) == {"random"}


@pytest.mark.parametrize("text, words", [
    (None, "must have its config.json"), ("{", "must have its config.json"),
    ('{"_class_name": "Nothing"}', "must be a class of diffusers, got 'Nothing'"),
])  # fmt: skip
def test_a_folder_that_is_no_autoencoder_is_told_in_a_line(tmp_path, text, words):
    from data.errors import InputError
    from generation.latent import pretrained

    (tmp_path / "model.safetensors").write_bytes(b"")
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=words):
        pretrained(str(tmp_path))


def test_what_came_out_as_no_number_is_the_control_or_the_host():
    from generation.inpaint import finite

    host, made = np.zeros((3, 2, 4), np.float32), np.ones((3, 2, 4), np.float32)
    made[1, 0, 2], made[2, 1, 1] = np.nan, np.inf
    with pytest.warns(UserWarning, match="2 of 3 records came out as NaN or infinity"):
        assert finite(made, host).max((1, 2)).tolist() == [1, 0, 0]


def test_places_and_hosts_are_steered_too_and_hosts_stay_in_their_fold():
    fit, support = tiny.make("series", normals=30, odd=6)
    own = tiny.folds(fit, support)
    rows = plan(fit, support, own, count=300, seed=1, round_=2, steer={"place:late": 1.0, "host:busy": 1.0})
    assert 0.7 < (rows["place"] == "late").mean() < 0.9 and 0.7 < (rows["host_bin"] == "busy").mean() < 0.9
    assert (host_bins(fit)[rows["host"]] == rows["host_bin"]).all()
    assert [own[fit.meta["id"][h]] for h in rows["host"]] == list(rows["fold"])


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_host_bins_are_thirds_by_what_goes_on(modality):
    fit, _ = tiny.make(modality, normals=12)
    found, level = host_bins(fit), activity(fit)
    if modality == "row":
        assert set(found) == {"any"}
        return
    assert [(found == name).sum() for name in HOSTS] == [4, 4, 4]
    assert level[found == "plain"].max() <= level[found == "busy"].min()


@pytest.mark.parametrize("modality", ["image", "series"])
def test_records_lie_where_the_plan_says_as_often_as_they_can(modality):
    fitted = Fitted(modality)
    rows = plan(fitted.fit, fitted.support, fitted.folds, count=32, seed=5, round_=1)
    made = fitted.make(rows)
    told = set(made.meta["place"])
    assert told <= set(PLACES[modality])
    assert (made.meta["place"].to_numpy() == rows["place"].to_numpy()).mean() > 0.8


def test_noise_on_the_kinds_varies_records_and_spares_the_controls(fitted):
    plain, noisy = (
        concat(list(generate(fitted.adapter, fitted.fit, fitted.support, fitted.plan.iloc[:6],
                             **tiny.SAMPLING[fitted.modality], kind_noise=std)))
        for std in (0.0, 1e4)
    )  # fmt: skip
    differs = [str(values(plain, i).tolist()) != str(values(noisy, i).tolist()) for i in range(6)]
    assert any(differs) and list(plain.meta["id"]) == list(noisy.meta["id"])
    alone = concat(list(generate(fitted.adapter, fitted.fit, fitted.support, fitted.plan.iloc[[3]],
                                 **tiny.SAMPLING[fitted.modality], kind_noise=1e4)))  # fmt: skip
    assert str(values(alone, 0).tolist()) == str(values(noisy, 3).tolist())
    assert fitted.adapter.owner.kinds.offset is None


def test_no_offset_reaches_the_normal_kind():
    from generation.networks import moved

    vectors, offset = torch.zeros(3, 2), torch.ones(3, 2)
    assert moved(vectors, torch.tensor([0, 1, 0]), offset).tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("modality", ["image", "series"])
def test_random_masks_need_no_shape_of_the_support(modality):
    fitted = Fitted(modality)
    rows = fitted.plan.iloc[:6]
    made = concat(list(generate(fitted.adapter, fitted.fit, fitted.support, rows, **tiny.SAMPLING[modality],
                                masks="random")))  # fmt: skip
    bank = fitted.make(rows)
    assert any(not np.array_equal(a, b) for a, b in zip(made.mask, bank.mask))


def test_the_scale_is_severity():
    fitted = Fitted("series")
    rows = fitted.plan[fitted.plan.index < 8]
    weak, strong = (
        concat(list(generate(fitted.adapter, fitted.fit, fitted.support, rows, **tiny.SAMPLING["series"], scale=scale)))
        for scale in (0.01, 4.0)
    )
    gap = [np.mean([np.abs(x - c).mean() for x, c in zip(made.x, made.control)]) for made in (weak, strong)]
    assert gap[0] < gap[1]


def test_crossed_rows_take_cells_of_mates_and_name_them():
    fitted = Fitted("row")
    rows = plan(fitted.fit, fitted.support, fitted.folds, count=40, seed=3, round_=1)

    def make(rows: pd.DataFrame, strength: tuple[float, float]) -> Records:
        settings = {**tiny.SAMPLING["row"], "strength": strength, "steps": 20}
        return concat(list(generate(fitted.adapter, fitted.fit, fitted.support, rows, **settings)))

    made, names = make(rows, (0.05, 0.05)), list(fitted.support.meta["id"])  # next to no noise: as it was crossed
    assert all(m == [True] * 4 for m in made.meta["changed"])
    parents = [[names.index(p) for p in own] for own in made.meta["parents"]]
    for i, own in enumerate(parents):
        assert own[0] == names.index(made.meta["host"][i]) == rows["parent"][i] and set(own) <= set(rows["mates"][i])
        for column in made.x:
            real, cell = fitted.support.x[column].iloc[own], made.x[column].iloc[i]
            if pd.isna(cell):
                assert real.isna().any()
            elif pd.api.types.is_numeric_dtype(real):
                near = (real.dropna().astype(float) - float(cell)).abs().min()
                assert near < 0.1 * fitted.fit.x[column].astype(float).std() + 0.5, column
    assert sum(len(own) > 1 for own in parents) > 20
    noised = make(rows, (0.2, 0.65))
    slight = (rows["place"] == "slight").to_numpy()
    assert set(noised.meta["strength"][slight]) == {0.2, 0.35} and set(noised.meta["strength"][~slight]) == {0.5, 0.65}
    lone = make(rows.assign(mates=[np.array([p]) for p in rows["parent"]]), (0.2, 0.65))
    assert all(len(p) == 1 for p in lone.meta["parents"]) and set(map(sum, lone.meta["changed"])) == {2}
