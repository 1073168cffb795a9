"""The contract of every classical generator, and that each keeps what makes its parents anomalous."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.records import Records, concat, make_meta
from data.records.series import SeriesCodec, shown
from detection.arms import additions
from detection.novelty import edit_vectors
from generation.classical import CLASSICAL, classical
from generation.classical.image import background
from generation.classical.series import TAXONOMY, Channels, Exemplar, fade, last_resort, place
from generation.contrast import contrast

NAMES = [(modality, name) for modality, made in CLASSICAL.items() for name in made]


def images(shapes, *, dtype="uint8", channels=1, label=0, seed=0, contrast=-0.35, spot=4) -> Records:
    """Smooth noisy images; with label 1 a square defect of `contrast` (of the full range) away from the border."""
    rng = np.random.default_rng(seed)
    white, x, mask = np.iinfo(dtype).max, [], []
    for height, width in shapes:
        image = 0.5 + 0.1 * np.linspace(0, 1, width) + 0.01 * rng.standard_normal((height, width))
        hole = np.zeros((height, width), bool)
        if label:
            hole[height // 2 - 1 : height // 2 - 1 + spot, width // 2 - 1 : width // 2 - 1 + spot] = True
            image[hole] += contrast
        image = np.rint(np.clip(image, 0, 1) * white).astype(dtype)
        x.append(image if channels == 1 else np.repeat(image[..., None], channels, axis=2))
        mask.append(hole)
    names = [f"{'anomaly' if label else 'normal'}{i}" for i in range(len(x))]
    meta = make_meta(len(x), id=names, label=label, kind="dent" if label else "normal")
    return Records("image", meta, x, mask, {})


def windows(n: int, *, label=0, length=100, channels=3, seed=0, jump=6.0) -> Records:
    """Sines with noise; with label 1 a platform of `jump` on channel 1 over steps 40..59."""
    rng = np.random.default_rng(seed)
    x, mask = [], []
    for _ in range(n):
        t = np.arange(length)[:, None] + rng.uniform(0, 50)
        values = np.sin(t / 7 + np.arange(channels)) + 0.1 * rng.standard_normal((length, channels)) + 20
        hole = np.zeros(values.shape, bool)
        if label:
            hole[40:60, 1] = True
            values[hole] += jump
        x.append(values)
        mask.append(hole)
    meta = make_meta(n, id=[f"{label}-{i}" for i in range(n)], label=label, kind="shift" if label else "normal",
                     start=[100 * i for i in range(n)])  # fmt: skip
    return Records("series", meta, x, mask, {"channels": list("abc")[:channels]}, [np.arange(length)] * n)


def test_a_channel_of_few_values_takes_no_others():
    """A flag, a state and a coarse converter keep to what was seen; a fine channel within half a width more."""
    rng = np.random.default_rng(0)
    hosts = windows(8)
    for x in hosts.x:
        x[:, 0], x[:, 1] = rng.integers(0, 2, 100), rng.choice([0.3, 0.7, 2.2], 100)
    seen = Channels.of(hosts, hosts.take([0]), SeriesCodec.fit(hosts))
    assert seen.steps[0].tolist() == [0, 1] and seen.steps[1].tolist() == [0.3, 0.7, 2.2] and seen.steps[2] is None
    new = np.full(4, np.nan)  # the host's own are none of these
    assert seen.tidy(np.array([-9, 0.4, 0.6, 9]), new, 0).tolist() == [0, 0, 1, 1]
    assert seen.tidy(np.array([0.4, 0.6, 1.4, 1.5]), new, 1).tolist() == [0.3, 0.7, 0.7, 2.2]
    assert seen.tidy(np.array([0.4, 0.6]), np.array([0.4, 7]), 0).tolist() == [0.4, 1], "its own stays, seen or not"
    assert seen.tidy(np.array([1e9, 1e9]), np.array([1e9, 7]), 2)[0] == 1e9
    width = max(x[:, 2].max() for x in hosts.x) - min(x[:, 2].min() for x in hosts.x)
    assert np.ptp(seen.tidy(np.array([-1e9, 1e9]), new[:2], 2)) == pytest.approx(2 * width)
    short = replace(hosts.take([0]), x=[hosts.x[0][:30]])
    few = Channels.of(short, short.take([]), SeriesCodec.fit(hosts))
    assert few.steps[1] is None, "30 values say too little of three"


def flags(n: int, values=(0.0, 1.0), *, seed=0) -> Records:
    """Windows (100, 3) of a channel that stands at one of its values nearly always, one that never moved, and noise."""
    rng = np.random.default_rng(seed)
    x = [np.stack([np.full(100, values[0]), np.full(100, 3.0), rng.uniform(1, 9, 100)], axis=1) for _ in range(n)]
    for window in x:
        window[rng.integers(100), 0] = values[-1]
    meta = make_meta(n, id=[f"flags{i}" for i in range(n)])
    return Records("series", meta, x, [np.zeros((100, 3), bool)] * n, {"channels": list("abc")})


def test_a_state_moves_as_far_as_its_exemplars_however_still_its_host():
    """Two states up from where a restless exemplar was, times the factor, on hosts that stand still."""
    hosts = flags(20, (0.0, 1.0, 2.0, 3.0))
    for window, state in zip(hosts.x, range(4)):
        window[:25, 0] = state
    odd, mask = hosts.x[9].copy(), np.zeros((100, 3), bool)
    odd[:, 0] = np.arange(100) % 3
    odd[40:60, 0], mask[40:60, 0] = 3, True
    support = replace(hosts.take([0]), x=[odd], mask=[mask])
    made = CLASSICAL["series"]["paste"](hosts.take(range(4, 20)), support, list(range(40)))
    for x, m, factor in zip(made.x, made.mask, made.meta["severity"]):
        assert m.any(0).tolist() == [True, False, False]
        assert np.median(x[m]) == pytest.approx(2 * factor, abs=0.51)


def test_a_value_of_the_hosts_own_stays_where_the_anomaly_does_nothing():
    """A state of half the hosts that the sample missed is no change, so that nothing of it is marked."""
    hosts = flags(600)
    for window in hosts.x[1::2]:
        window[:, 0] = 0.5
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    odd[:, 0] = 0
    odd[40:50, 0], mask[40:60, 0] = 1, True
    support = replace(hosts.take([0]), x=[odd], mask=[mask])
    made = CLASSICAL["series"]["paste"](hosts, support, list(range(40)))
    missed = [m.sum() for m, host in zip(made.mask, made.meta["host"]) if int(host.removeprefix("flags")) % 2]
    assert len(missed) > 10 and max(missed) <= 15
    made = CLASSICAL["series"]["taxonomy"](hosts, support, list(range(120)))
    spikes = [x[m] for x, m, what in zip(made.x, made.mask, made.meta["mask_source"]) if ":spike:" in what]
    assert len(spikes) > 5 and all((values == 1).all() for values in spikes)


@pytest.mark.parametrize(
    ("values", "marked", "expected"),
    [((0.0, 1.0), 0, 1.0), ((0.0, 0.5, 2.0), 0, 2.0), ((0.0, 1.0), 1, 9.0), ((0.0, 1.0), 2, None)],
)
def test_the_last_resort_is_a_value_that_the_channel_can_take(values, marked, expected):
    """The farthest of a few; six spreads of others, down where there is no room; of a constant one that is new."""
    hosts = flags(20, values)
    host, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    host[:, 0] = values[0]
    mask[40:60, marked] = True
    seen = Channels.of(hosts, hosts.take([]), SeriesCodec.fit(hosts))
    host[60, 2] = seen.high[2]
    exemplar = Exemplar(np.zeros((20, 3)), mask[40:60], np.ones(3), np.zeros(3, bool))
    x, found = last_resort(host, exemplar, seen)
    assert found[50:70].any(0).tolist() == [c == marked for c in range(3)] and found.sum() == 20
    assert (x[~found] == host[~found]).all() and (x[found] != host[found]).all()
    if expected is not None:
        assert (x[found] == expected).all()
    else:
        assert (x[found] >= seen.low[2]).all() and (x[found] <= seen.high[2]).all() and x[60, 2] < host[60, 2]


def short(values: list[float]) -> tuple[Records, Channels]:
    """One host of one channel, and what it says of it."""
    hosts = Records("series", make_meta(1), [np.array(values)[:, None]], [np.zeros((len(values), 1), bool)],
                    {"channels": ["a"]})  # fmt: skip
    return hosts, Channels.of(hosts, hosts.take([]), SeriesCodec.fit(hosts))


def resort(host: np.ndarray, seen: Channels) -> np.ndarray:
    """What the last resort makes of the second half of a host of one channel."""
    exemplar = Exemplar(np.zeros((len(host), 1)), np.ones((len(host), 1), bool), np.ones(1), np.zeros(1, bool))
    return last_resort(host, exemplar, seen)[0][len(host) // 2 :, 0]


def test_the_last_resort_moves_a_counter_that_hardly_ever_counts_by_one():
    """Six of its spreads round to nothing."""
    hosts, seen = short([0.0] * 38 + [1.0])
    assert seen.steps == [None] and 6 * seen.scale[0] < 0.5
    assert resort(hosts.x[0], seen).tolist() == [1.0] * 19 + [2.0]


def test_the_last_resort_takes_a_still_channel_as_far_as_anomalies_do():
    """A hundredth, not six."""
    hosts, _ = short([0.0] * 40)
    support = replace(hosts, x=[np.linspace(0, 0.01, 40)[:, None]])
    seen = Channels.of(hosts, support, SeriesCodec.fit(hosts))
    assert seen.steps == [None]
    assert resort(hosts.x[0], seen) == pytest.approx(np.full(20, 0.01))


def test_the_last_resort_goes_where_there_is_room():
    """Not up by the billionth that is left there."""
    values = np.random.default_rng(0).normal(size=40)
    _, seen = short([*values])
    assert (resort(np.full((10, 1), seen.high[0] - 1e-9), seen) < seen.high[0] - 1).all()


def test_a_constant_of_a_few_steps_has_one_value():
    hosts, seen = short([3.0] * 8)
    assert [v.tolist() for v in seen.steps] == [[3.0]] and seen.low == seen.high == 3
    assert (seen.tidy(np.array([9.0]), np.array([3.0]), 0) == 3).all()
    assert (resort(hosts.x[0], seen) == 9).all(), "nothing else can move"


def test_a_constant_channel_is_left_alone_where_another_can_move():
    hosts = flags(20)
    seen = Channels.of(hosts, hosts.take([]), SeriesCodec.fit(hosts))
    every = Exemplar(np.zeros((20, 3)), np.ones((20, 3), bool), np.ones(3), np.zeros(3, bool))
    _, found = last_resort(hosts.x[0], every, seen)
    assert found.any(0).tolist() == [True, False, True]


SHAPES = [(0.2, 1.0), (1.5, 1.0), (1.0, 0.4), (0.5, 0.7)]


def test_an_exemplar_is_drawn_in_the_channels_that_it_is_measured_in():
    """Skewed channels, whose MAD and quartiles differ several times over, one of them a window that is marked whole."""
    rng = np.random.default_rng(0)
    x = [np.stack([rng.lognormal(0, s, 64) * (rng.random(64) < p) for s, p in SHAPES], axis=1) for _ in range(60)]
    hosts = Records("series", make_meta(60), x, [np.zeros((64, 4), bool)] * 60, {"channels": list("abcd")})
    codec = SeriesCodec.fit(hosts)
    seen = Channels.of(hosts, hosts.take([]), codec)
    several = 0
    for window, low, high in zip(x, rng.integers(0, 30, 60), rng.integers(32, 65, 60)):
        mask = np.zeros((64, 4), bool)
        mask[low:high] = True
        odd = window + 4 * codec.scale * rng.random(4) * mask
        one = replace(hosts.take([0]), x=[odd], mask=[mask])
        _, own = shown(codec.encode(one)[0][0], mask.T, codec.still)
        got = Exemplar.draw(np.random.default_rng(0), odd, mask, seen)
        assert got.marked.any(0).tolist() == own.any(1).tolist()
        several += 0 < own.any(1).sum() < 4
    assert several > 30


def flagged(high: float = 1.0) -> tuple[Records, Records]:
    """Normals whose channel b stands at 0, and three windows marked whole for ten steps: in the first b goes `high`, in
    the second a is odd, in the third both are."""
    hosts = windows(30)
    for window in hosts.x:
        window[:, 1] = 0
    mask = np.zeros((100, 3), bool)
    mask[40:50] = True
    odd = [hosts.x[i].copy() for i in range(3)]
    odd[0][40:50, 1] = odd[2][40:50, 1] = high
    odd[1][40:50, 0] += 30
    odd[2][40:50, 0] += 30
    return hosts, replace(hosts.take(range(3)), x=odd, mask=[mask] * 3)


def test_a_flag_that_never_moves_in_the_normals_is_what_an_anomaly_shows_in():
    """By one, less than three spreads of a channel that moves; where it stands it is none."""
    hosts, support = flagged()
    codec = SeriesCodec.fit(hosts)
    assert codec.still.tolist() == SeriesCodec.from_state(codec.state()).still.tolist() == [False, True, False]
    x, mask = codec.encode(support)
    own = [shown(v, m, codec.still)[1].any(1).tolist() for v, m in zip(x, mask)]
    assert own == [[False, True, False], [True, False, False], [True, True, False]]
    assert contrast(support.take([0]), codec) == pytest.approx([1])
    edits = edit_vectors(support, codec).reshape(3, 3, 100)
    assert edits.any(2).tolist() == own
    for name in ("paste", "taxonomy"):
        made = CLASSICAL["series"][name](hosts, support, list(range(60)))
        parents = [list(support.meta["id"]).index(parent) for (parent,) in made.meta["parents"]]
        for mask, parent in zip(made.mask, parents):
            assert not (mask.any(0) & ~np.array(own[parent])).any()
        assert {(parent, m[:, 1].any()) for parent, m in zip(parents, made.mask)} >= {(0, True), (1, False), (2, True)}
        flags = [x[:, 1][m[:, 1]] for x, m in zip(made.x, made.mask)]
        assert all(set(values) <= ({1.0} if name == "paste" else {0.0, 1.0}) for values in flags)


@pytest.mark.parametrize("whole", [False, True])
def test_a_channel_that_only_anomalies_move_is_changed_alike_in_every_unit(whole):
    """Volts or microvolts: the same seeds draw the same changes, of several types, seldom at the limit."""
    drawn = []
    for high in (1e-3, 1.0, 1e3):
        hosts, support = flagged()
        odd, mask = support.x[0].copy(), np.zeros((100, 3), bool)
        odd[:, 1] = high * np.sin(np.arange(100) / 9)
        mask[slice(None) if whole else slice(30, 70), 1] = True
        odd[~mask[:, 1], 1] = 0
        support = replace(support.take([0]), x=[odd], mask=[mask])
        made = CLASSICAL["series"]["taxonomy"](hosts, support, list(range(60)))
        kinds = [what.split(":")[1] for what in made.meta["mask_source"]]
        peak = np.array([np.abs(x[:, 1]).max() for x in made.x]) / high
        assert len(set(kinds)) >= 3 and (peak > 1.45).mean() < 0.3
        drawn.append((kinds, peak))
    assert drawn[0][0] == drawn[1][0] == drawn[2][0]
    assert np.abs(drawn[0][1] - drawn[2][1]).max() < 1e-6


def test_hosts_too_short_for_a_level_of_their_own_take_an_exemplar_at_its_size():
    hosts = windows(30)
    hosts = replace(hosts, x=[x * [1, 20, 1] for x in hosts.x])
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    odd[40:44, 1] = np.median(odd[:, 1]) + 8 * SeriesCodec.fit(hosts).scale[1]
    odd[:40, 1] = np.median(odd[:, 1]) + 0.01 * (np.arange(40) % 2)  # a quiet window
    odd[44:, 1] = np.median(odd[:, 1])
    mask[40:44, 1] = True
    support = replace(hosts.take([0]), x=[odd], mask=[mask])
    brief = replace(hosts, x=[x[:6] for x in hosts.x], mask=[m[:6] for m in hosts.mask])
    seen = Channels.of(hosts, support, SeriesCodec.fit(hosts))
    exemplar = Exemplar.draw(np.random.default_rng(0), odd, mask, seen)
    level, unit = place(np.random.default_rng(0), brief.x[3], exemplar, seen)[2:]
    assert unit[1] == exemplar.scale[1] and level[1] == seen.level[1]


def test_channels_are_measured_by_all_normals_where_the_hosts_are_some():
    """Of hosts that hardly move alone, two channels of the anomaly would be its own; of all normals one is."""
    rng = np.random.default_rng(0)
    x = [(0.01 if i < 6 else 2.0) * rng.uniform(-1, 1, (60, 4)) for i in range(60)]
    every = Records("series", make_meta(60), x, [np.zeros((60, 4), bool)] * 60, {"channels": list("abcd")})
    odd, mask = x[50].copy(), np.zeros((60, 4), bool)
    odd[20:40, 2] += 20
    odd[20:40, 0] *= 1.5  # two spreads of all
    mask[20:40] = True
    support = replace(every.take([0]), x=[odd], mask=[mask])
    still = every.take(range(6))
    for seen, expected in ((None, 2), (Channels.of(every, support, SeriesCodec.fit(every)), 1)):
        made = CLASSICAL["series"]["paste"](still, support, list(range(20)), seen=seen)
        assert {int(m.any(0).sum()) for m in made.mask} == {expected}
    for seed in range(40):  # one record, on one host
        added = additions("classical", every, support, every.take([]), every.take([0]), seed=seed)
        assert [m.any(0).tolist() for m in added[0].mask] == [[False, False, True, False]]


def test_what_only_anomalies_write_more_finely_is_kept():
    """A channel of whole numbers that an anomaly takes to a quarter."""
    hosts = windows(20)
    for window in hosts.x:
        window[:, 0] = np.round(window[:, 0] * 10)
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    odd[40:60, 0], mask[40:60, 0] = 0.25 + np.arange(20) / 64, True
    support = replace(hosts.take([0]), x=[odd], mask=[mask])
    seen = Channels.of(hosts, support, SeriesCodec.fit(hosts))
    assert SeriesCodec.fit(hosts).decimals[0] == 0 and seen.decimals[0] == 6
    assert seen.tidy(np.array([0.26, 0.1234567]), np.zeros(2), 0).tolist() == [0.26, 0.123457]
    for value, places in ((1 / 3, None), (-1e12, 0)):  # full precision; off all that is seen, but no finer
        odd[50, 0] = value
        assert Channels.of(hosts, support, SeriesCodec.fit(hosts)).decimals[0] == places
        odd[40:60, 0] = 7


def test_a_window_marked_whole_keeps_its_size_on_a_host_that_is_stiller_than_all():
    """Recordings at 0, 1, .. 9, each hardly moving: an odd 40 is put as 40 times the factor, not as a tenth of it."""
    rng = np.random.default_rng(0)
    x = [i % 10 + 0.1 * rng.standard_normal((50, 2)) for i in range(60)]
    hosts = Records("series", make_meta(60), x, [np.zeros((50, 2), bool)] * 60, {"channels": ["a", "b"]})
    odd = x[0] + [40.0, 0.0]
    support = replace(hosts.take([0]), x=[odd], mask=[np.ones((50, 2), bool)])
    made = CLASSICAL["series"]["paste"](hosts, support, list(range(40)))
    middle = [np.median(x[m] - 4.5) / 35.5 / f for x, m, f in zip(made.x, made.mask, made.meta["severity"])]
    assert np.abs(np.array(middle) - 1).max() < 0.1
    assert all(m.any(0).tolist() == [True, False] for m in made.mask)


def test_an_exemplar_has_a_level_of_its_own_from_eight_normal_steps_on():
    """With seven it is measured by all hosts' level and scale; so is where it goes on a host of seven steps."""
    hosts = windows(30)
    seen = Channels.of(hosts, hosts.take([]), SeriesCodec.fit(hosts))
    odd = hosts.x[0] + 50
    for count in (7, 8):
        mask = np.ones((100, 3), bool)
        mask[:count] = False
        got = Exemplar.draw(np.random.default_rng(0), odd, mask, seen)
        far = (odd[count:] - seen.level) / seen.scale
        assert got.alone.tolist() == [count == 7] * 3
        assert (np.abs(got.dev - far).max() < 1e-9) == (count == 7)
    for count in (7, 8):
        host = np.random.default_rng(1).normal(20, 5, (count, 3))
        level = place(np.random.default_rng(0), host, got, seen)[2]
        assert (level == seen.level).all() == (count == 7)


def test_channels_that_start_one_after_another_are_measured_each_by_its_own_normal_steps():
    """b is marked for ten steps of the eighty that a is: its level is that of the other ninety."""
    hosts = windows(30)
    seen = Channels.of(hosts, hosts.take([]), SeriesCodec.fit(hosts))
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    mask[4:97, 0], mask[40:50, 1] = True, True
    odd[:, 1] = 7 + np.arange(100) % 2
    odd[:4, 1] = 1000
    got = Exemplar.draw(np.random.default_rng(0), odd, mask, seen)
    assert got.alone.tolist() == [True, False, False] and got.marked.sum(0).tolist() == [93, 10, 0]
    assert got.scale[0] == seen.scale[0] and got.scale[1] == pytest.approx(1.4826)
    assert np.abs(got.dev[36:46, 1] * got.scale[1]).max() <= 1
    _, _, level, unit = place(np.random.default_rng(0), hosts.x[1] + 500, got, seen)
    assert level[0] == seen.level[0] and unit[0] == got.scale[0] and level[1] > 400


def test_a_restless_flag_gets_textbook_changes_of_every_type():
    """It flips every step, so that a flip is less than two of its units."""
    hosts = flags(20)
    for window in hosts.x:
        window[:, 0] = np.arange(100) % 2
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    odd[40:70, 0], mask[40:70, 0] = 1, True
    support = replace(hosts.take([0]), x=[odd], mask=[mask])
    made = CLASSICAL["series"]["taxonomy"](hosts, support, list(range(200)))
    kinds = pd.Series([what.split(":")[1] for what in made.meta["mask_source"]]).value_counts(normalize=True)
    assert len(kinds) >= 6 and kinds.max() < 0.3, kinds
    assert all(set(x[:, 0]) <= {0.0, 1.0} for x in made.x)


def test_a_span_marked_whole_is_drawn_in_its_own_channels_beside_one_that_names_some():
    hosts = windows(30)
    codec = SeriesCodec.fit(hosts)
    seen = Channels.of(hosts, hosts.take([]), codec)
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    mask[10:30], mask[60:90, 1:] = True, True
    odd[10:30, 0] += 30
    own = shown(((odd - codec.centre) / codec.scale).T, mask.T, codec.still)[1]
    assert own[:, 10:30].any(1).tolist() == [True, False, False]
    assert own[:, 60:90].any(1).tolist() == [False, True, True], "a label that names channels is believed"
    numbers = mask.astype(np.uint8)
    drawn = [Exemplar.draw(np.random.default_rng(seed), odd, numbers, seen).marked for seed in range(20)]
    assert {(len(m), *m.any(0).tolist()) for m in drawn} == {(20, True, False, False), (30, False, True, True)}


def test_each_of_two_spans_is_drawn_in_its_own_channels():
    """Marked whole both times, a is odd in the first and b in the second: an exemplar is of one of the two."""
    hosts = windows(30)
    seen = Channels.of(hosts, hosts.take([]), SeriesCodec.fit(hosts))
    odd, mask = hosts.x[0].copy(), np.zeros((100, 3), bool)
    mask[10:30], mask[60:90] = True, True
    odd[10:30, 0] += 30
    odd[60:90, 1] += 30
    drawn = [Exemplar.draw(np.random.default_rng(seed), odd, mask, seen).marked for seed in range(20)]
    assert {(len(m), *m.any(0).tolist()) for m in drawn} == {(20, True, False, False), (30, False, True, False)}
    assert all((m == m[0]).all() for m in drawn)


def table(n: int, *, label=0, seed=0) -> Records:
    rng = np.random.default_rng(seed)
    x = pd.DataFrame({
        "amount": rng.lognormal(2 + 3 * label, 0.5, n).round(2),
        "count": pd.array(rng.poisson(5 + 40 * label, n), dtype="Int64"),
        "colour": pd.array(rng.choice(["red", "green"] if label else ["red", "blue"], n), dtype="string"),
        "flag": pd.array(rng.random(n) < 0.5, dtype="boolean"),
        "day": np.datetime64("2024-01-01", "ns") + rng.integers(0, 300, n).astype("timedelta64[D]"),
        "gap": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
    })  # fmt: skip
    x["day"] = x["day"].astype("datetime64[ns]")
    types = ["numeric", "integer", "categorical", "boolean", "date", "numeric"]
    schema = {"columns": [{"name": c, "type": t, "nullable": c == "gap"} for c, t in zip(x, types)]}
    mask = np.zeros((n, 6), bool)
    mask[::2, :2] = label
    meta = make_meta(n, id=[f"{label}-{i}" for i in range(n)], label=label, kind="fraud" if label else "normal")
    return Records("row", meta, x, mask, schema)


SETS = {
    "image": (images([(40, 50), (64, 48), (33, 70)]), images([(48, 60), (36, 36)], label=1, seed=1)),
    "series": (windows(6), windows(3, label=1, seed=1)),
    "row": (table(200), table(12, label=1, seed=1)),
}
SEEDS = [5, 2**52 + 3, 8, 21, 34, 1, 0]


def items(records: Records) -> list:
    return [records.x.iloc[i] for i in range(len(records))] if records.modality == "row" else records.x


def same(a, b) -> bool:
    return a.equals(b) if isinstance(a, pd.Series) else a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_a_record_depends_on_its_seed_not_on_its_batch(modality, name):
    make, (hosts, support) = CLASSICAL[modality][name], SETS[modality]
    whole = make(hosts, support, SEEDS)
    order = [4, 0, 6]
    part = make(hosts, support, [SEEDS[i] for i in order])
    for k, i in enumerate(order):
        assert same(items(whole)[i], items(part)[k])
        assert np.array_equal(whole.mask[i], part.mask[k])
        assert whole.meta.iloc[i].equals(part.meta.iloc[k])
    assert not same(items(whole)[0], items(whole)[1])
    assert len(make(hosts, support, [])) == 0


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_every_record_says_where_it_comes_from(modality, name):
    hosts, support = SETS[modality]
    made = CLASSICAL[modality][name](hosts, support, SEEDS)
    meta, kinds = made.meta, dict(zip(support.meta["id"], support.meta["kind"]))
    assert meta["id"].tolist() == [f"{name}-{s}" for s in SEEDS] and meta["seed"].tolist() == SEEDS
    assert (meta["split"] == "generated").all() and (meta["label"] == 1).all() and meta["synthetic"].all()
    assert (meta["generator"] == name).all() and meta["severity"].between(0.2, 3).all()
    of = support if modality == "row" else hosts
    assert set(meta["host"]) <= set(of.meta["id"])
    for parents, kind, source in zip(meta["parents"], meta["kind"], meta["mask_source"]):
        assert parents and set(parents) <= set(kinds) and kind == kinds[parents[0]] and parents[0] in source
    assert {p for parents in meta["parents"] for p in parents} != {support.meta["id"][0]}


@pytest.mark.parametrize(("modality", "name"), [pair for pair in NAMES if pair[0] != "row"])
def test_outside_the_mask_the_host_is_bit_exact_and_inside_it_changed(modality, name):
    hosts, support = SETS[modality]
    made = CLASSICAL[modality][name](hosts, support, list(range(60)))
    host_of = dict(zip(hosts.meta["id"], hosts.x))
    for x, mask, host in zip(made.x, made.mask, made.meta["host"]):
        before = host_of[host]
        assert x.dtype == before.dtype and x.shape == before.shape and mask.dtype == bool
        assert mask.any() and not mask.all()
        assert np.array_equal(x[~mask], before[~mask])
        assert (x[mask] != before[mask]).mean() > 0.8


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_the_sets_are_not_written_to(modality, name):
    hosts, support = SETS[modality]
    before = concat([hosts, support])
    kept = before.x.copy() if modality == "row" else [v.copy() for v in before.x]
    CLASSICAL[modality][name](hosts, support, SEEDS)
    after = concat([hosts, support])
    assert after.x.equals(kept) if modality == "row" else all(same(a, b) for a, b in zip(after.x, kept))


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_without_hosts_or_parents_the_error_says_what_is_needed(modality, name):
    hosts, support = SETS[modality]
    with pytest.raises(InputError, match="hosts: at least one"):
        CLASSICAL[modality][name](hosts.take([]), support, [1])
    with pytest.raises(InputError, match="support: at least one"):
        CLASSICAL[modality][name](hosts, support.take([]), [1])


def test_the_mix_takes_generators_in_turn_by_seed():
    for modality, made in CLASSICAL.items():
        hosts, support = SETS[modality]
        mix = classical(modality, hosts, support, SEEDS)
        names = list(made)
        assert mix.meta["seed"].tolist() == SEEDS
        assert mix.meta["generator"].tolist() == [names[s % len(names)] for s in SEEDS]
        alone = made[mix.meta["generator"][3]](hosts, support, [SEEDS[3]])
        assert same(items(mix)[3], items(alone)[0])
        assert len(classical(modality, hosts, support, [])) == 0


# images


def test_the_background_of_a_ramp_is_the_ramp_also_under_the_mask():
    ramp = np.linspace(0.2, 0.8, 64, dtype=np.float32)[None, :, None] * np.ones((48, 1, 1), np.float32)
    mask = np.zeros((48, 64), bool)
    mask[18:28, 25:35] = True
    dirty = ramp.copy()
    dirty[mask] = 0
    assert np.abs(background(dirty, mask) - ramp)[8:-8, 8:-8].max() < 0.05
    assert np.isfinite(background(dirty, np.ones_like(mask))).all()


@pytest.mark.parametrize("contrast", [-0.3, 0.3])
def test_a_pasted_defect_has_the_sign_and_the_size_of_its_parents_contrast(contrast):
    hosts, support = images([(64, 64)] * 4), images([(50, 50)], label=1, contrast=contrast, spot=8)
    made = CLASSICAL["image"]["cutpaste"](hosts, support, list(range(80)))
    host_of = dict(zip(hosts.meta["id"], hosts.x))
    pairs = zip(made.x, made.mask, made.meta["host"])
    change = np.array([(x.astype(float) - host_of[h])[m].mean() / 255 for x, m, h in pairs])
    assert (np.sign(change) == np.sign(contrast)).all()
    assert np.median(change) == pytest.approx(contrast, rel=0.35)  # the feather takes some
    area = np.array([m.sum() for m in made.mask])
    assert np.median(area) == pytest.approx(64, rel=0.6) and area.std() > 5
    places = np.array([[v.mean() for v in np.nonzero(m)] for m in made.mask])
    assert (places.std(0) > 8).all()


def test_severity_scales_the_contrast():
    hosts, support = images([(64, 64)]), images([(50, 50)], label=1, contrast=-0.15, spot=8)
    change = []
    for severity in (0.5, 1.0, 2.0):
        made = CLASSICAL["image"]["cutpaste"](hosts, support, list(range(30)), severity=severity)
        change.append(np.median([(hosts.x[0].astype(float) - x)[m].mean() for x, m in zip(made.x, made.mask)]))
    assert change[0] < 0.7 * change[1] < 0.5 * change[2]


def test_a_defect_on_the_border_stays_on_a_border():
    support = images([(50, 50)], label=1, spot=8)
    x, mask = support.x[0].copy(), np.zeros((50, 50), bool)
    mask[20:30, :6] = True
    x[mask] = 20
    support = Records("image", support.meta, [x], [mask], {})
    made = CLASSICAL["image"]["cutpaste"](images([(64, 40)]), support, list(range(30)))
    assert all(max(m[0].any(), m[-1].any(), m[:, 0].any(), m[:, -1].any()) for m in made.mask)


def test_parents_without_a_mask_are_passed_over():
    hosts, support = images([(40, 40)]), images([(40, 40), (40, 40)], label=1)
    support.mask[0][:] = False
    made = CLASSICAL["image"]["cutpaste"](hosts, support, list(range(8)))
    assert {p for (p,) in made.meta["parents"]} == {"anomaly1"}


def test_a_parent_as_flat_as_its_host_still_gives_a_visible_change():
    flat = images([(30, 30)], label=1)
    flat = Records("image", flat.meta, [np.full((30, 30), 255, np.uint8)], flat.mask, {})
    for level in (0, 128, 255):
        host = Records("image", make_meta(1), [np.full((30, 30), level, np.uint8)], [np.zeros((30, 30), bool)], {})
        made = CLASSICAL["image"]["cutpaste"](host, flat, [1, 2, 3])
        assert all(m.any() and (x[m] != level).all() for x, m in zip(made.x, made.mask))


@given(
    host=st.tuples(st.integers(8, 90), st.integers(8, 90)), source=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    dtypes=st.tuples(*[st.sampled_from(["uint8", "uint16"])] * 2), channels=st.tuples(*[st.sampled_from([1, 3])] * 2),
    seed=st.integers(0, 2**53), spot=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_size_and_dtype_can_be_pasted_on_any_other(host, source, dtypes, channels, seed, spot):
    hosts = images([host], dtype=dtypes[0], channels=channels[0])
    support = images([source], dtype=dtypes[1], channels=channels[1], label=1, spot=spot, seed=1)
    made = CLASSICAL["image"]["cutpaste"](hosts, support, [seed])
    x, mask, before = made.x[0], made.mask[0], hosts.x[0]
    assert x.dtype == before.dtype and x.shape == before.shape and mask.shape == before.shape[:2]
    assert mask.any()
    assert np.array_equal(x[~mask], before[~mask]) and not np.array_equal(x, before)


# series


@pytest.mark.parametrize("jump", [-12.0, 12.0])
def test_a_pasted_segment_has_the_sign_the_channel_and_the_size_of_its_exemplar(jump):
    hosts, support = windows(5), windows(3, label=1, seed=1, jump=jump)
    made = CLASSICAL["series"]["paste"](hosts, support, list(range(80)))
    host_of = dict(zip(hosts.meta["id"], hosts.x))
    ratios = []
    for x, mask, host, factor in zip(made.x, made.mask, made.meta["host"], made.meta["severity"]):
        assert mask.any(0).tolist() == [False, True, False]
        assert 15 <= mask.sum() <= 26  # 20 steps, stretched by .8 to 1.25
        ratios.append((x - host_of[host])[mask].mean() / jump / factor)
    assert np.median(ratios) == pytest.approx(1, abs=0.15)
    assert np.ptp(made.meta["severity"]) > 0.7 and made.meta["severity"].between(0.5, 1.5).all()


def test_an_exemplar_of_a_loud_recording_is_scaled_to_a_quiet_host():
    hosts, support = windows(3), windows(2, label=1, seed=1, jump=5.0)
    quiet = Records("series", hosts.meta, [x / 4 for x in hosts.x], hosts.mask, hosts.schema, hosts.time)
    made = CLASSICAL["series"]["paste"](quiet, support, list(range(60)))
    host_of = dict(zip(quiet.meta["id"], quiet.x))
    rise = [
        (x - host_of[h])[m].mean() / f
        for x, m, h, f in zip(made.x, made.mask, made.meta["host"], made.meta["severity"])
    ]
    assert np.median(rise) == pytest.approx(5 / 4, rel=0.3)


def test_of_a_fully_marked_exemplar_only_deviating_channels_are_pasted():
    support = windows(2, label=1, seed=1)
    for mask in support.mask:
        mask[40:60] = True
    made = CLASSICAL["series"]["paste"](windows(4), support, list(range(20)))
    assert all(m.any(0).tolist() == [False, True, False] for m in made.mask)


def test_counts_stay_whole_and_never_fall_below_zero():
    rng = np.random.default_rng(0)
    hosts, support = windows(4), windows(2, label=1, seed=1)
    counts = [rng.poisson(2, x.shape).astype(float) for x in hosts.x]
    hosts = Records("series", hosts.meta, counts, hosts.mask, hosts.schema, hosts.time)
    counts = [rng.poisson(2, x.shape) + 30.0 * m for x, m in zip(support.x, support.mask)]
    support = Records("series", support.meta, counts, support.mask, support.schema, support.time)
    for x in classical("series", hosts, support, list(range(60))).x:
        assert (x == np.round(x)).all() and (x >= 0).all()


def test_a_taper_is_a_cosine_of_its_share_and_symmetric():
    w = fade(100, 0.1)
    assert (w[10:90] == 1).all() and np.allclose(w, w[::-1])
    np.testing.assert_allclose(w[:10], np.sin(np.pi * np.arange(1, 11) / 22) ** 2)
    assert (fade(5, 0.1) == 1).all()


def test_the_taxonomy_uses_every_type_on_the_exemplars_channels():
    made = CLASSICAL["series"]["taxonomy"](windows(5), windows(3, label=1, seed=1), list(range(120)))
    assert {source.split(":")[1] for source in made.meta["mask_source"]} == set(TAXONOMY)
    assert all(m.any(0).tolist() == [False, True, False] for m in made.mask)
    assert all(m.sum() <= 26 for m in made.mask)


def test_textbook_changes_are_what_they_are_called():
    rng, x = np.random.default_rng(0), np.sin(np.arange(40) / 3)
    assert np.allclose(TAXONOMY["level_shift"](rng, x, 3.0) - x, 3)
    ramp = TAXONOMY["trend"](rng, x, 3.0) - x
    assert np.allclose(np.diff(ramp, 2), 0) and np.abs(ramp).max() == pytest.approx(3)
    assert TAXONOMY["noise"](rng, x, 3.0).std() > 1
    assert np.ptp(TAXONOMY["flat_line"](rng, x, 3.0)) == 0
    assert 0 < (TAXONOMY["spike"](rng, x, 3.0) != x).sum() < 30
    for seed in range(9):
        rng = np.random.default_rng(seed)
        assert np.abs(TAXONOMY["reversal"](rng, x, 3.0) - x).max() > 0.5
        fast = TAXONOMY["frequency"](rng, x, 3.0)
        assert fast.min() >= x.min() and fast.max() <= x.max() and fast[0] == x[0]
        ratio = np.ptp(TAXONOMY["amplitude"](rng, x, 3.0)) / np.ptp(x)
        assert ratio > 3 or ratio < 1 / 4


@given(length=st.integers(1, 60), source=st.integers(1, 60), channels=st.integers(1, 4), seed=st.integers(0, 2**53),
       constant=st.booleans(), whole=st.booleans())  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_any_window_takes_any_exemplar(length, source, channels, seed, constant, whole):
    rng = np.random.default_rng(seed)
    schema = {"channels": [str(c) for c in range(channels)]}
    host = np.zeros((length, channels)) if constant else rng.normal(size=(length, channels))
    mask = np.zeros((source, channels), bool)
    mask[0 if whole else source // 2 :, rng.integers(channels)] = True
    odd = np.zeros((source, channels)) if constant else rng.normal(size=(source, channels)) + 5 * mask
    hosts = Records("series", make_meta(1), [host], [np.zeros(host.shape, bool)], schema, [np.arange(length)])
    support = Records("series", make_meta(1, label=1), [odd], [mask], schema, [np.arange(source)])
    for name, make in CLASSICAL["series"].items():
        made = make(hosts, support, [seed])
        x, label = made.x[0], made.mask[0]
        assert label.any() and np.isfinite(x).all(), name
        assert np.array_equal(x[~label], host[~label]) and not np.array_equal(x, host), name
        assert (label.any(0) <= mask.any(0)).all(), name


# rows


@pytest.mark.parametrize("name", ["jitter", "smote"])
def test_rows_keep_types_and_missing_cells_and_say_which_cells_changed(name):
    hosts, support = SETS["row"]
    made = CLASSICAL["row"][name](hosts, support, list(range(150)))
    host = support.take([support.meta["id"].tolist().index(h) for h in made.meta["host"]])
    assert (made.x.dtypes == support.x.dtypes).all()
    assert (made.x["gap"].isna() == host.x["gap"].isna()).all()
    changed = np.array(made.meta["changed"].tolist())
    for j, column in enumerate(made.x):
        a, b = made.x[column], host.x[column]
        differ = ~((a == b).fillna(False).astype(bool) | (a.isna() & b.isna()))
        assert (differ.to_numpy() == changed[:, j]).all(), column
    assert changed.any(1).all()
    own = support.mask.any(1)
    expected = np.where(own[:, None], support.mask, True)
    at = [support.meta["id"].tolist().index(h) for h in made.meta["host"]]
    assert (made.mask == expected[at]).all()
    assert set(made.x["colour"]) <= {"red", "green"}  # never a value no anomaly has


def test_jitter_has_its_std_in_quantile_space():
    from data.records.codecs import CODECS

    hosts, support = SETS["row"]
    codec = CODECS["row"].fit(concat([hosts, support]))
    made = CLASSICAL["row"]["jitter"](hosts, support, list(range(400)))
    host = support.take([support.meta["id"].tolist().index(h) for h in made.meta["host"]])
    moved = codec.encode(made)[0] - codec.encode(host)[0]
    assert moved[:, 0].std() == pytest.approx(0.3, rel=0.15) and abs(moved[:, 0].mean()) < 0.06
    changed = np.array(made.meta["changed"].tolist())
    assert 0 < changed[:, [2, 3]].mean() < 0.08  # categories are seldom exchanged


def test_smote_lies_between_two_anomalies_of_a_kind():
    hosts, support = SETS["row"]
    support = support.with_meta(kind=["fraud", "theft"] * 6)
    made = CLASSICAL["row"]["smote"](hosts, support, list(range(100)))
    values, kind = support.x.set_index(support.meta["id"]), dict(zip(support.meta["id"], support.meta["kind"]))
    for i, parents in enumerate(made.meta["parents"]):
        a, b = (values.loc[p] for p in parents)
        assert kind[parents[0]] == kind[parents[1]] == made.meta["kind"][i]
        for column in ("amount", "count", "day"):
            low, high = sorted([a[column], b[column]])
            assert low <= made.x[column][i] <= high
        assert made.x["colour"][i] in (a["colour"], b["colour"])


def test_one_anomaly_is_enough_and_is_never_copied():
    hosts, support = SETS["row"]
    one = support.take([0])
    for name, make in CLASSICAL["row"].items():
        made = make(hosts, one, list(range(20)))
        assert np.array(made.meta["changed"].tolist()).any(1).all(), name


def test_rows_of_categories_alone_move_one():
    x = pd.DataFrame({"a": pd.array(list("xyxy"), dtype="string"), "b": pd.array(list("ppqq"), dtype="string")})
    schema = {"columns": [{"name": c, "type": "categorical", "nullable": False} for c in "ab"]}
    records = Records("row", make_meta(4, label=1), x, np.ones((4, 2), bool), schema)
    made = CLASSICAL["row"]["jitter"](records, records, list(range(30)))
    assert np.array(made.meta["changed"].tolist()).any(1).all()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_thin_scratch_is_labelled_no_wider_than_it_is(width):
    """A dark line on noise: the pasted label is about its shape, and what it labels did change."""
    rng = np.random.default_rng(0)
    ground = lambda: np.clip(0.5 + 0.03 * rng.standard_normal((96, 96)), 0, 1)  # noqa: E731
    line = np.zeros((96, 96), bool)
    line[20:70, 40 : 40 + width] = True
    eight = lambda x: (np.clip(x, 0, 1) * 255).round().astype(np.uint8)  # noqa: E731
    support = Records("image", make_meta(1, id=["s"], label=1, kind="k"), [eight(ground() - 0.2 * line)], [line], {})
    hosts = Records("image", make_meta(4), [eight(ground()) for _ in range(4)], [np.zeros_like(line)] * 4, {})
    made = CLASSICAL["image"]["cutpaste"](hosts, support, list(range(24)))
    area = [m.sum() / line.sum() for m in made.mask]
    host = [hosts.x[list(hosts.meta["id"]).index(h)] for h in made.meta["host"]]
    faint = [(np.abs(x.astype(int) - h)[m] < 0.05 * 255).mean() for x, h, m in zip(made.x, host, made.mask)]
    assert np.median(area) < 1.7 and np.median(faint) < 0.15
