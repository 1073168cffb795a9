"""Codecs: exact round trips, hosts untouched outside the mask, the quantile transform against scipy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.errors import InputError
from data.records import Records, make_meta
from data.records.codecs import CODECS
from data.records.image import crop, feather, from_float, grey, paste, resize, to_float
from data.records.table import Quantile, decimals

QUICK = settings(max_examples=40, deadline=None)
CATEGORIES = ["ok", "späť", "a,b", ""]


def meta(count: int) -> pd.DataFrame:
    return make_meta(count, id=[f"r{i}" for i in range(count)], group=[f"g{i}" for i in range(count)])


def same_cells(a: pd.Series, b: pd.Series) -> np.ndarray:
    return ((a == b).fillna(False) | (a.isna() & b.isna())).to_numpy(bool)


def assert_payload(a, b) -> None:
    """Equal elementwise, dtypes included."""
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
        return
    assert len(a) == len(b)
    for one, other in zip(a, b):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@st.composite
def images(draw) -> Records:
    count, shape = draw(st.integers(1, 3)), draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    x, mask = [], []
    for _ in range(count):
        colour = (3,) if draw(st.booleans()) else ()
        x.append(draw(hnp.arrays(draw(st.sampled_from([np.uint8, np.uint16])), shape + colour)))
        mask.append(draw(hnp.arrays(bool, shape)))
    return Records("image", meta(count), x, mask, {})


@st.composite
def series(draw) -> Records:
    count, steps, channels = draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
    number = st.floats(-1e6, 1e6) | st.integers(-100, 100).map(lambda k: k / 100)
    x = [draw(hnp.arrays(np.float64, (steps, channels), elements=number)) for _ in range(count)]
    if draw(st.booleans()):
        for values in x:
            values[:, 0] = x[0][0, 0]
    mask = [draw(hnp.arrays(bool, (steps, channels))) for _ in range(count)]
    time = [np.arange(steps)] * count
    return Records("series", meta(count), x, mask, {"channels": [f"c{i}" for i in range(channels)]}, time)


@st.composite
def rows(draw) -> Records:
    count = draw(st.integers(1, 12))

    def cells(strategy, nullable: bool):
        return draw(st.lists(st.none() | strategy if nullable else strategy, min_size=count, max_size=count))

    def numbers(strategy, nullable: bool) -> np.ndarray:
        return pd.array(cells(strategy, nullable), "Float64").to_numpy(float, na_value=np.nan)

    names = ("full", "cents", "count", "word", "flag", "day", "moment")
    nullable = {name: draw(st.booleans()) for name in names}
    number = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0])
    moment = st.datetimes(pd.Timestamp(1950, 1, 1), pd.Timestamp(2050, 1, 1))
    moment = moment.map(lambda t: t.replace(microsecond=0))
    dtype = draw(st.sampled_from(["string", "str", "object"]))
    frame = pd.DataFrame({
        "full": numbers(number, nullable["full"]),
        "cents": numbers(st.integers(-9999, 9999).map(lambda k: k / 100), nullable["cents"]),
        "count": pd.array(cells(st.integers(-5, 10**6) | st.just(0), nullable["count"]), "Int64"),
        "word": pd.array(cells(st.sampled_from(CATEGORIES), nullable["word"]), dtype),
        "flag": pd.array(cells(st.booleans(), nullable["flag"]), "boolean"),
        "day": pd.to_datetime(pd.Series(cells(moment.map(lambda t: t.replace(hour=0, minute=0, second=0)),
                                              nullable["day"]), dtype="datetime64[ns]")),
        "moment": pd.to_datetime(pd.Series(cells(moment, nullable["moment"]), dtype="datetime64[ns]")),
    })  # fmt: skip
    types = ["numeric", "numeric", "integer", "categorical", "boolean", "date", "date"]
    columns = [{"name": n, "type": t, "nullable": nullable[n]} for n, t in zip(frame, types)]
    columns[3]["categories"] = CATEGORIES
    return Records("row", meta(count), frame, draw(hnp.arrays(bool, frame.shape)), {"columns": columns})


RECORDS = {"image": images(), "series": series(), "row": rows()}
every = pytest.mark.parametrize("modality", list(CODECS))


@every
@QUICK
@given(data=st.data())
def test_decode_inverts_encode(modality, data):
    """With the records' own masks and with everything masked, the codec's state gone through JSON before."""
    records = data.draw(RECORDS[modality])
    codec = CODECS[modality].fit(records)
    codec = CODECS[modality].from_state(json.loads(json.dumps(codec.state())))
    x, mask = codec.encode(records)
    assert np.isfinite(x).all() and mask.dtype == bool
    assert_payload(codec.decode(x, records, mask), records.x)
    assert_payload(codec.decode(x, records, np.ones_like(mask)), records.x)


@every
@QUICK
@given(data=st.data())
def test_unmasked_elements_stay_the_hosts_whatever_x_is(modality, data):
    records = data.draw(RECORDS[modality])
    codec = CODECS[modality].fit(records)
    x, mask = codec.encode(records)
    noise = np.random.default_rng(0).standard_normal(x.shape)
    noise[~np.broadcast_to(mask, x.shape)] = np.nan  # never looked at
    out = codec.decode(noise.astype(x.dtype), records, mask)
    if modality == "row":
        for j, name in enumerate(records.x):
            free = ~records.mask[:, j]
            pd.testing.assert_series_equal(out[name][free], records.x[name][free])
            assert out[name].dtype == records.x[name].dtype
    else:
        for new, host, hole in zip(out, records.x, records.mask):
            assert new.dtype == host.dtype and new[~hole].tobytes() == host[~hole].tobytes()


@every
@QUICK
@given(data=st.data())
def test_values_reach_another_host(modality, data):
    """Decoding everything onto other hosts gives the record: rounding, not the host, brings values back."""
    records = data.draw(RECORDS[modality])
    codec = CODECS[modality].fit(records)
    x, mask = codec.encode(records)
    turn = (np.arange(len(records)) + 1) % len(records)
    if modality == "image" and len({(image.ndim, image.dtype) for image in records.x}) > 1:
        return
    out = codec.decode(x, records.take(turn), np.ones_like(mask))
    if modality == "image":
        assert_payload(out, records.x)
    elif modality == "series":
        for c, places in enumerate(codec.decimals):
            for new, old in zip(out, records.x):
                if places is None:
                    np.testing.assert_allclose(new[:, c], old[:, c], rtol=1e-9, atol=1e-9 * codec.scale[c])
                else:
                    np.testing.assert_array_equal(new[:, c], old[:, c])
    else:
        full = records.x["full"]
        largest = full.abs().fillna(1).clip(lower=1).max()
        np.testing.assert_allclose(out["full"], full, rtol=1e-9, atol=1e-9 * largest)
        for name in list(records.x)[1:]:
            assert same_cells(out[name], records.x[name]).all(), name


# images


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_of_an_image_survives(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    x = to_float(levels)
    assert x.dtype == np.float32 and (x[0], x[-1]) == (-1, 1) and (np.diff(x) > 0).all()
    np.testing.assert_array_equal(from_float(x, dtype), levels)


def test_grey_joins_colour_as_three_channels_and_colour_is_refused_by_a_grey_codec():
    flat, colour = np.full((2, 3), 7, np.uint8), np.zeros((2, 3, 3), np.uint8)
    holes = [np.zeros((2, 3), bool)] * 2
    both = Records("image", meta(2), [flat, colour], holes, {})
    codec = CODECS["image"].fit(both)
    assert codec.encode(both)[0].shape == (2, 3, 2, 3)
    with pytest.raises(InputError, match=r"r1.*grey"):
        CODECS["image"].fit(both.take([0])).encode(both)


def test_images_of_different_sizes_are_refused():
    records = Records("image", meta(2), [np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)],
                      [np.zeros((2, 2), bool), np.zeros((2, 3), bool)], {})  # fmt: skip
    with pytest.raises(ValueError, match="equally sized"):
        CODECS["image"].fit(records).encode(records)


def test_generated_values_beyond_the_range_are_clipped_and_nan_is_refused():
    records = Records("image", meta(1), [np.zeros((1, 2), np.uint8)], [np.ones((1, 2), bool)], {})
    codec = CODECS["image"].fit(records)
    wild = np.array([[[[-3.0, 9.0]]]])
    np.testing.assert_array_equal(codec.decode(wild, records, records.mask)[0], [[0, 255]])
    with pytest.raises(ValueError, match="NaN"):
        codec.decode(np.full((1, 1, 1, 2), np.nan), records, records.mask)


def test_crop_and_paste_are_inverse_and_alpha_zero_is_the_host():
    rng = np.random.default_rng(0)
    host, box = rng.integers(0, 256, (9, 8, 3), dtype=np.uint8), (2, 1, 4, 5)
    patch = 255 - crop(host, box)
    whole = paste(host, patch, box, np.ones((4, 5)))
    np.testing.assert_array_equal(crop(whole, box), patch)
    whole[2:6, 1:6] = host[2:6, 1:6]
    np.testing.assert_array_equal(whole, host)
    np.testing.assert_array_equal(paste(host, patch, box, np.zeros((4, 5))), host)
    for bad in [(-1, 0, 2, 2), (0, 0, 10, 2), (0, 7, 2, 2), (0, 0, 0, 1)]:
        with pytest.raises(ValueError, match="box"):
            crop(host, bad)


def test_shrinking_averages_and_growing_keeps_a_constant():
    board = np.indices((8, 8)).sum(0) % 2 * 200
    np.testing.assert_array_equal(resize(board.astype(np.uint8), (4, 4)), np.full((4, 4), 100))  # no aliasing
    np.testing.assert_allclose(resize(np.full((3, 4, 3), 0.25, np.float32), (7, 2)), 0.25, atol=1e-6)
    step = np.repeat([0.0, 1.0], 4)[None].repeat(8, 0).astype(np.float32)
    grown = resize(step, (24, 24))
    assert grown.min() == 0 and grown.max() == 1  # cubic overshoot is cut
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    np.testing.assert_array_equal(resize(mask, (4, 4)), np.arange(4)[None].repeat(4, 0) < 2)


def test_feather_rises_inside_the_mask_only_and_not_at_the_image_border():
    mask = np.zeros((9, 12), bool)
    mask[:, :6] = True  # touches three borders
    alpha = feather(mask, 2)
    row = np.r_[1, 1, 1, 1, 2 / 3, 1 / 3, np.zeros(6)]
    np.testing.assert_allclose(alpha, np.tile(row, (9, 1)), atol=1e-6)
    assert feather(np.ones((3, 3), bool), 2).min() == 1 and feather(mask, 0)[mask].min() == 1
    assert grey(np.full((2, 2, 3), 0.5)).shape == (2, 2)


# series


def test_series_are_centred_and_scaled_robustly():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(5, 2, 4000), np.full(4000, 3.25), rng.random(4000) < 0.02])
    x[:20, 0] = 1e3  # outliers
    schema, time = {"channels": list("abc")}, [np.arange(4000)]
    records = Records("series", meta(1), [x], [np.zeros(x.shape, bool)], schema, time)
    codec = CODECS["series"].fit(records)
    assert codec.centre == pytest.approx([5, 3.25, 0], abs=0.2) and codec.scale[1] == 1
    assert codec.scale[2] == pytest.approx(0.5 * x[:, 2].std())
    np.testing.assert_array_equal(codec.encode(records)[0][0, 1], 0)


def test_a_small_error_changes_no_rounded_value():
    """Values recorded to 0.01 come back as such from other values' hosts; a fine channel keeps its error."""
    rng = np.random.default_rng(5)
    x = np.column_stack([np.round(rng.normal(300, 5, 50), 2), rng.normal(size=50)])
    time = [np.arange(50)] * 2
    records = Records("series", meta(2), [x, x[::-1]], [x > 1e9] * 2, {"channels": ["a", "b"]}, time)
    codec = CODECS["series"].fit(records)
    assert codec.decimals == [2, None]
    code, mask = codec.encode(records)
    out = codec.decode((code[::-1] + 1e-5), records, np.ones_like(mask))
    np.testing.assert_array_equal(out[0][:, 0], x[::-1, 0])
    np.testing.assert_allclose(out[0][:, 1], x[::-1, 1] + 1e-5 * codec.scale[1], atol=1e-12)


def test_series_with_a_gap_or_of_unequal_length_are_refused():
    x = [np.zeros((4, 1)), np.zeros((5, 1))]
    schema, time = {"channels": ["level"]}, [np.arange(4), np.arange(5)]
    records = Records("series", meta(2), x, [v > 1 for v in x], schema, time)
    codec = CODECS["series"].fit(records)
    with pytest.raises(ValueError, match="equally long"):
        codec.encode(records)
    x[1][3] = np.nan
    with pytest.raises(InputError, match=r"r1.*step 3 of 'level'"):
        codec.encode(records.take([1]))


# rows


def test_quantiles_of_distinct_values_are_scipy_normal_scores():
    from scipy import stats

    values = np.random.default_rng(0).lognormal(size=300)
    z = Quantile.fit(values).to_normal(values)
    np.testing.assert_allclose(z, stats.norm.ppf((stats.rankdata(values) - 0.5) / 300), atol=1e-12)
    tied = np.random.default_rng(0).poisson(1, 400).astype(float)
    scores = stats.norm.ppf((stats.rankdata(tied) - 0.5) / 400)
    np.testing.assert_allclose(Quantile.fit(tied).to_normal(tied), scores)


@QUICK
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_the_quantile_transform_increases_and_inverts_far_beyond_the_ends(values, seed):
    values = np.round(values, 3)
    quantile = Quantile.fit(values)
    probe = np.unique(np.round(np.r_[values, np.random.default_rng(seed).uniform(-3e4, 3e4, 50)], 3))
    z = quantile.to_normal(probe)
    assert (np.diff(z) > 0).all()
    np.testing.assert_allclose(quantile.from_normal(z), probe, rtol=1e-9, atol=1e-7)
    assert (np.diff(quantile.from_normal(np.linspace(-9, 9, 500))) >= 0).all()


def test_values_far_beyond_the_ends_are_told_apart_by_their_logarithm():
    """Five spreads out and beyond: a fraud of a million where normals pay tens is no outlier of 100,000 spreads."""
    quantile = Quantile.fit(np.arange(101.0))
    slope, top = quantile.slope[1], quantile.to_normal(np.array([100.0]))[0]
    at = 100 + (np.array([4.9, 5.0, 5 + 1e-6, 6.0, 5 + 1e5]) - top) / slope
    expected = [4.9, 5.0, 5 + 1e-6, 5 + np.log(2), 5 + np.log1p(1e5)]
    np.testing.assert_allclose(quantile.to_normal(at), expected, atol=1e-9)
    np.testing.assert_allclose(quantile.to_normal(100 - at), np.negative(expected), atol=1e-9)
    np.testing.assert_allclose(quantile.from_normal(np.array(expected)), at, rtol=1e-9)
    reach = quantile.from_normal(np.array([-1e300, 1e300, -np.inf, np.inf]))
    assert np.isfinite(reach).all() and (np.sign(reach) == [-1, 1, -1, 1]).all()


def test_tails_are_linear_and_an_atom_swallows_small_errors():
    rng = np.random.default_rng(1)
    values = np.where(rng.random(1000) < 0.4, 0.0, rng.gamma(2, size=1000))
    quantile = Quantile.fit(values)
    top = values.max()
    steps = np.diff(quantile.to_normal(top + np.array([0.1, 0.2, 0.3, 1.3])))
    np.testing.assert_allclose(steps, steps[0] * np.array([1, 1, 10]), rtol=1e-9)
    zero = quantile.to_normal(np.zeros(1))
    np.testing.assert_array_equal(quantile.from_normal(zero + np.linspace(-2, 0.2, 30)), 0)
    assert quantile.from_normal(zero + 0.8) > 0


def test_a_long_column_keeps_few_knots_and_stays_accurate():
    values = np.random.default_rng(2).normal(size=20_000)
    quantile = Quantile.fit(values)
    assert len(quantile.value) <= 500
    np.testing.assert_allclose(quantile.to_normal(values), values, atol=0.25)
    np.testing.assert_allclose(quantile.from_normal(quantile.to_normal(values)), values, atol=1e-12)


def table(**columns) -> Records:
    types = {"f": "numeric", "I": "integer", "s": "categorical", "b": "boolean", "d": "date"}
    frame = pd.DataFrame({name: values for name, (_, values) in columns.items()})
    schema = [{"name": name, "type": types[kind], "nullable": bool(frame[name].isna().any())}
              for name, (kind, _) in columns.items()]  # fmt: skip
    return Records("row", meta(len(frame)), frame, np.zeros(frame.shape, bool), {"columns": schema})


def test_features_have_unit_spread_and_know_their_column():
    rng = np.random.default_rng(3)
    n = 2000
    gaps = rng.lognormal(size=n)
    gaps[rng.random(n) < 0.3] = np.nan
    records = table(
        gaps=("f", gaps),
        small=("I", pd.array(rng.poisson(0.7, n), "Int64")),
        word=("s", pd.array(rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1]), "string")),
        flag=("b", pd.array(rng.random(n) < 0.5, "boolean")),
    )
    codec = CODECS["row"].fit(records)
    x, _ = codec.encode(records)
    np.testing.assert_array_equal(codec.feature_column, [0, 0, 1, 2, 2, 2, 3])
    here = ~np.isnan(gaps)
    np.testing.assert_allclose(np.r_[x[here, 0].std(), x[:, 1:].std(0)], 1, atol=1e-9)
    assert (x[~here, 0] == 0).all() and len(np.unique(x[:, 1])) == 2
    np.testing.assert_allclose(np.abs(x[:, 6]), 1, atol=0.1)  # a balanced flag is +-1
    one = np.eye(4, dtype=bool)[np.arange(n) % 4]
    _, mask = codec.encode(Records("row", records.meta, records.x, one, records.schema))
    np.testing.assert_array_equal(mask[2], codec.feature_column == 2)


def test_a_missing_cell_is_zero_with_its_flag_up():
    gap = table(
        word=("s", pd.array(["a", "b", None], "string")), flag=("b", pd.array([True, None, False], "boolean"))
    )
    coded = CODECS["row"].fit(gap).encode(gap)[0]  # word a, word b, no word, flag, no flag
    assert (coded[2, :2] == 0).all() and coded[1, 3] == 0 and (coded[[2, 1], [2, 4]] > 0).all()
    assert (coded[0, :4] != 0).all()


def test_masks_may_name_cells_or_features():
    records = table(a=("f", [1.0, 2.0]), word=("s", pd.array(["x", "y"], "string")))
    codec = CODECS["row"].fit(records)
    swapped = codec.encode(records)[0][::-1]
    by_cell = codec.decode(swapped, records, np.array([[False, True], [True, False]]))
    by_feature = codec.decode(swapped, records, np.array([[False, True, True], [True, False, False]]))
    pd.testing.assert_frame_equal(by_cell, by_feature)
    assert list(by_cell["a"]) == [1.0, 1.0] and list(by_cell["word"]) == ["y", "y"]


def test_a_small_error_changes_no_rounded_cell():
    rng = np.random.default_rng(4)
    n = 200
    records = table(
        cents=("f", np.round(rng.lognormal(3, 1, n), 2)),
        count=("I", pd.array(rng.integers(0, 9, n), "Int64")),
        wide=("I", pd.array(rng.permutation(n) * 100, "Int64")),
        word=("s", pd.array(rng.choice(["a", "b"], n), "string")),
        day=("d", pd.Timestamp(2020, 1, 1) + pd.to_timedelta(rng.integers(0, 999, n), "D").as_unit("ns")),
    )
    codec = CODECS["row"].fit(records)
    x, mask = codec.encode(records)
    for error in (1e-7, -1e-7):
        out = codec.decode((x + error).astype(np.float32), records, np.ones_like(mask))
        pd.testing.assert_frame_equal(out, records.x)


def test_bad_cells_are_refused_by_row_and_column():
    records = table(a=("f", [1.0, 2.0]), word=("s", pd.array(["x", "y"], "string")))
    codec = CODECS["row"].fit(records)

    def changed(**cells) -> Records:
        return Records("row", records.meta, records.x.assign(**cells), records.mask, records.schema)

    known = codec.encode(records)[0]
    strange = codec.encode(changed(word=pd.array(["x", "z"], "string"), a=[np.nan, 2.0]))[0]
    assert strange[0, 0] == 0 and strange[1, 0] == known[1, 0]  # a gap where there was none is the middle
    np.testing.assert_array_equal(strange[:, 1:], np.stack([known[0, 1:], np.minimum(known[0, 1:], known[1, 1:])]))
    with pytest.raises(InputError, match="row r1, column 'a': must be finite"):
        codec.encode(changed(a=[0.0, np.inf]))
    with pytest.raises(ValueError, match="column 'a' must be finite"):
        codec.decode(np.full((2, 3), np.nan), records, np.ones((2, 2), bool))


def test_decimals_are_the_fewest_that_write_the_values():
    assert decimals(np.array([1.0, 20.0])) == 0
    assert decimals(np.array([0.1, 0.25, np.nan])) == 2
    assert decimals(np.array([np.pi])) is None and decimals(np.array([])) is None


def test_a_row_codec_encodes_no_rows_at_all():
    import tiny

    fit, _ = tiny.make("row")
    codec = CODECS["row"].fit(fit)
    x, mask = codec.encode(fit.take([]))
    assert x.shape == mask.shape == (0, len(codec.feature_column))


def test_whole_numbers_too_large_for_float64_keep_their_size():
    """Account numbers of 17 digits: a cell made anew is as large, not the largest that is exact."""
    x = pd.DataFrame({"account": pd.array(np.arange(40) * 10**12 + 10**17, dtype="Int64")})
    schema = {"columns": [{"name": "account", "type": "integer", "nullable": False}]}
    records = Records("row", meta(40), x, np.ones((40, 1), bool), schema)
    codec = CODECS["row"].fit(records)
    found = codec.decode(codec.encode(records)[0] + 0.01, records, np.ones((40, 1), bool))["account"]
    assert found.is_unique and found.between(10**17 - 10**13, 10**17 + 10**14).all()
    whole = codec.decode(np.full((40, 1), 1e6), records, np.ones((40, 1), bool))["account"]
    assert (whole > 10**17).all()
