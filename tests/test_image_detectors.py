"""Image features, their cache, the memory bank, the segmentation head, and detectors on disk."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from data.errors import InputError
from data.records import Records, concat, make_meta
from detection import features, memory, segmentation
from detection.features import FeatureCache, extract, frame, sizes, to_size, unpack
from detection.segmentation import Segmentation, draw
from detection.store import load, save

SHAPE = (32, 48)


def noise(n: int, shape=(40, 52), seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(n)]


def records(x: list[np.ndarray], label=0, mask=None, **columns) -> Records:
    mask = [np.zeros(i.shape[:2], bool) for i in x] if mask is None else mask
    return Records("image", make_meta(len(x), label=label, **columns), x, mask, {})


# features


def test_maps_have_the_shape_of_their_stride():
    maps = unpack(torch.stack(extract(noise(2), SHAPE)), SHAPE)
    assert {s: tuple(m.shape) for s, m in maps.items()} == {
        2: (2, 16, 16, 24), 4: (2, 24, 8, 12), 8: (2, 40, 4, 6), 16: (2, 112, 2, 3)}  # fmt: skip
    assert [m.flatten(1).shape[1] for m in maps.values()] == [c * h * w for c, h, w in sizes(SHAPE)]


def test_maps_are_the_networks_own_at_the_image_and_place():
    """Unpacking is the inverse of packing: each map equals the block's output, before any flattening."""
    image = noise(1)[0]
    x = torch.from_numpy(np.stack([features.planes(image, SHAPE)] * features.BATCH))
    with torch.no_grad():
        direct = features.backbone("cpu")(x.to(memory_format=torch.channels_last))
    for got, expected in zip(unpack(torch.stack(extract([image], SHAPE, "cpu")), SHAPE).values(), direct):
        torch.testing.assert_close(got[0].float(), expected[0], rtol=2e-3, atol=2e-3)


def test_the_network_was_trained():
    """A wrongly loaded or scaled network would not tell photographs by content: two crops of one texture are nearer to
    each other than to a crop of another."""
    from skimage import data

    crops = [np.ascontiguousarray(part) for photo in (data.brick(), data.grass(), data.gravel())
             for part in (photo[:128, :128], photo[300:428, 300:428])]  # fmt: skip
    deep = unpack(torch.stack(extract(crops, (128, 128))), (128, 128))[16].float().mean((2, 3))
    distance = torch.cdist(deep, deep)
    for i in range(6):
        other = [j for j in range(6) if j // 2 != i // 2]
        assert distance[i, i ^ 1] < distance[i, other].min()


def test_features_do_not_depend_on_the_batch():
    images = noise(features.BATCH + 3)
    together = extract(images, SHAPE)
    for i in (0, features.BATCH - 1, features.BATCH + 2):
        assert torch.equal(extract([images[i]], SHAPE)[0], together[i])


def test_grey_is_colour_with_equal_channels_and_sixteen_bits_are_scaled():
    image = noise(1)[0]
    grey, colour = extract([image, np.repeat(image[..., None], 3, 2)], SHAPE)
    assert torch.equal(grey, colour)
    deep = extract([image.astype(np.uint16) * 257], SHAPE)[0]
    assert torch.equal(deep, grey)


@pytest.mark.parametrize(("shapes", "size", "expected"), [
    ([(100, 100)], 128, (128, 128)), ([(100, 200)], 128, (64, 128)), ([(300, 100)], 128, (128, 48)),
    ([(10, 1000)], 128, (32, 128)), ([(50, 100), (50, 100), (300, 100)], 64, (32, 64)),
])  # fmt: skip
def test_images_are_resized_to_the_long_side_and_their_median_aspect(shapes, size, expected):
    assert frame([np.zeros(s, np.uint8) for s in shapes], size) == expected


def test_score_maps_come_back_at_the_images_size():
    grid = np.zeros((4, 6), np.float32)
    grid[1, 4] = 1
    out = to_size(grid, (40, 60, 3))
    assert out.shape == (40, 60) and out.dtype == np.float32
    assert np.unravel_index(out.argmax(), out.shape)[0] // 10 == 1 and out.max() <= 1
    assert to_size(np.ones((8, 8), np.float32), (3, 4)).tolist() == [[1.0] * 4] * 3


# cache


def test_features_outlive_their_process_and_the_oldest_go_first(tmp_path):
    import subprocess
    import sys

    code = ("import numpy as np; from detection.features import CACHE\n"
            "x = np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)\n"
            "print(CACHE.computed if CACHE.features([x], (32, 32), 'cpu').any() and CACHE.computed else 'kept')")
    env = {**os.environ, "ODDSMITH_FEATURES": str(tmp_path)}
    said = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
            for _ in range(2)]  # fmt: skip
    assert said == ["1\n", "kept\n"]
    first = next(tmp_path.glob("*.safetensors"))
    os.utime(first, (1, 1))
    (tmp_path / "z.safetensors").write_bytes(first.read_bytes())
    FeatureCache(tmp_path, limit=first.stat().st_size)
    assert [f.name for f in tmp_path.iterdir()] == ["z.safetensors"]


def test_an_image_is_computed_once_whatever_its_name_or_order():
    cache, images = FeatureCache(), noise(4)
    first = cache.features(images, SHAPE)
    again = cache.features([images[2].copy(), images[0], images[2]], SHAPE)
    assert cache.computed == 4
    assert torch.equal(again, first[[2, 0, 2]])


@pytest.mark.parametrize("change", ["pixel", "shape", "dtype", "size"])
def test_the_key_covers_all_that_features_depend_on(change):
    image, shape = noise(1, (32, 64))[0], SHAPE
    other = {"pixel": image ^ (np.arange(image.size).reshape(image.shape) == 77), "shape": image.reshape(64, 32),
             "dtype": image.view(np.uint16), "size": image}[change]  # fmt: skip
    changed = (48, 48) if change == "size" else shape
    assert FeatureCache.key(image, shape, "cpu") != FeatureCache.key(other, changed, "cpu")


def test_a_full_cache_forgets_the_longest_unused():
    images = noise(3)
    one = extract(images[:1], SHAPE)[0].nbytes
    cache = FeatureCache(limit=2 * one)
    cache.features(images[:2], SHAPE)
    cache.features(images[:1], SHAPE)  # used again: the second is now the longest unused
    cache.features(images[2:], SHAPE)
    assert cache.held == 2 * one and cache.computed == 3
    cache.features(images[:1], SHAPE)
    assert cache.computed == 3
    cache.features(images[1:2], SHAPE)
    assert cache.computed == 4


def test_a_folder_shares_features_between_processes_and_survives_a_torn_file(tmp_path):
    images, folder = noise(3), tmp_path / "cache"
    cache = FeatureCache(folder)
    first = cache.features(images, SHAPE)
    cache.flush()
    assert [p.suffix for p in folder.iterdir()] == [".safetensors"]
    other = FeatureCache(folder)
    assert torch.equal(other.features(images, SHAPE), first) and other.computed == 0
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:100])
    again = FeatureCache(folder)
    assert torch.equal(again.features(images, SHAPE), first) and again.computed == 3


# memory bank


def test_the_coreset_is_spread_out():
    """Farthest points first: of three tight clusters the first three chosen lie in three."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 90.0]])
    points = torch.from_numpy((centres.repeat([80, 15, 5], axis=0) + rng.normal(0, 0.1, (100, 2))).astype(np.float32))
    chosen = memory.coreset(points, 3, rng)
    assert sorted(np.searchsorted([80, 95], int(i), "right") for i in chosen) == [0, 1, 2]
    assert sorted(memory.coreset(points, 100, rng).tolist()) == list(range(100))
    assert len(set(memory.coreset(points, 40, rng).tolist())) == 40


def test_a_normal_in_the_bank_has_no_distance_and_the_distance_is_euclids():
    x = noise(3, (64, 64))
    judge = memory.MemoryBank(size=64, bank=10_000).fit(records(x), seed=0)
    new = records(noise(1, (64, 64), seed=9))
    assert judge.score(records(x)).max() < 0.05 * judge.score(new)[0]
    patches = next(judge._patches(new))[0]
    direct = torch.cdist(patches.double(), judge.bank.double()).amin(1).float().reshape(1, 8, 8)
    np.testing.assert_allclose(judge._grids(new), features.smooth(direct).numpy(), rtol=1e-3)


def test_residuals_are_the_distances_to_the_nearest_patch_that_is_not_hidden():
    bank, new = memory.MemoryBank(size=64, bank=60).fit(records(noise(3, (64, 64))), seed=0), noise(2, (64, 64), 9)
    maps = features.features_of(records(new), bank.shape, "cpu")
    hidden = np.random.default_rng(0).random((2, len(bank.bank))) < 0.5
    got = bank.residuals(maps, hidden)
    assert got.shape == (2, 1 + len(memory.STRIDES), 8, 8)
    for patches, out, without in zip(bank._cut(maps), got, hidden):
        seen = bank.bank[torch.from_numpy(~without)]
        distance, nearest = torch.cdist(patches.double(), seen.double()).min(1)
        torch.testing.assert_close(out[0].flatten(), distance.float(), rtol=1e-3, atol=1e-4)
        parts = (patches - seen[nearest]).split([features.LEVELS[s][1] for s in memory.STRIDES], dim=1)
        for part, channel in zip(parts, out[1:]):
            torch.testing.assert_close(channel.flatten(), part.norm(dim=1), rtol=1e-3, atol=1e-4)
    assert (bank.residuals(maps) <= got + 1e-5)[:, 0].all() and not torch.equal(bank.residuals(maps), got)


def test_a_fitted_record_is_kept_apart_from_its_group_its_own_image_and_its_host():
    bank = memory.MemoryBank(size=32)
    bank.source = pd.DataFrame({"id": ["a", "b", "b", "c"], "group": ["g", "g", "g", "h"]})
    columns = {"id": ["a", "x", "y", "z"], "group": ["g", "h", "new", "g"], "host": ["", "", "", "c"]}
    assert bank.apart(make_meta(4, **columns)).tolist() == [
        [True, True, True, False], [False, False, False, True], [False] * 4, [True, True, True, False]]  # fmt: skip
    bank.source["group"] = "g"  # one lot: the image alone, whether it is there itself or as a host
    assert bank.apart(make_meta(4, **columns | {"group": "g"})).tolist() == [
        [True, False, False, False], [False] * 4, [False] * 4, [False, False, False, True]]  # fmt: skip
    bank.source["id"] = "a"  # one image: nothing else to compare with
    assert not bank.apart(make_meta(1, id="a", group="g")).any()


def test_a_bank_is_fitted_once_for_the_same_records_options_and_seed():
    normals, options = records(noise(5, (64, 64))), {"size": 32, "bank": 8, "images": 4}
    first = memory.bank_of(normals, seed=0, **options)
    again = memory.bank_of(records(noise(5, (64, 64))), seed=0, **options)
    assert again is first
    assert torch.equal(first.bank, memory.MemoryBank(**options).fit(normals, seed=0).bank)
    others = [
        memory.bank_of(records(noise(5, (64, 64), 3)), seed=0, **options),
        memory.bank_of(normals.with_meta(group=list("aabbc")), seed=0, **options),
        memory.bank_of(normals, seed=1, **options),
        memory.bank_of(normals, seed=0, **options | {"bank": 9}),
    ]
    assert len({id(bank) for bank in [first, *others]}) == 5
    assert list(others[1].source["group"]) != list(first.source["group"])
    assert len(memory.FITTED) <= memory.HELD
    assert memory.bank_of(normals, seed=0, **options) is not first, "it was forgotten, being the oldest"


def test_without_normals_there_is_nothing_to_compare_with():
    with pytest.raises(InputError, match="at least one normal"):
        memory.MemoryBank(size=32).fit(records(noise(2), label=1), seed=0)


# segmentation


def shares(label, made, weight=None, **options):
    """Per step of a long plan: the part of each (label, made) class in its half, and the records drawn."""
    meta = make_meta(len(label), label=label, synthetic=made)
    weight = np.ones(len(label)) if weight is None else np.array(weight, float)
    plan = draw(meta, weight, steps=2000, batch=16, rng=np.random.default_rng(0), **{"real_share": 0.5} | options)
    label, made = np.array(label)[plan], np.array(made)[plan]
    return label, made, plan


def test_half_of_every_batch_is_normal():
    label, _, _ = shares([0] * 90 + [1] * 3, [False] * 93)
    assert (label.sum(1) == 8).all()


@pytest.mark.parametrize(("real", "made", "share", "expected"), [
    (5, 95, 0.5, 0.5), (5, 95, 0.8, 0.8), (90, 10, 0.5, 0.9), (5, 0, 0.5, 1.0), (0, 7, 0.5, 0.0),
])  # fmt: skip
def test_real_anomalies_keep_their_share_however_many_are_generated(real, made, share, expected):
    label, origin, _ = shares([0] * 10 + [1] * (real + made), [False] * (10 + real) + [True] * made, real_share=share)
    assert (~origin[label == 1]).mean() == pytest.approx(expected, abs=0.015)


def test_generated_normals_never_crowd_out_real_ones():
    label, origin, _ = shares([0] * 104 + [1], [False] * 4 + [True] * 100 + [False])
    assert (~origin[label == 0]).mean() == pytest.approx(0.5, abs=0.015)


def test_records_are_drawn_by_weight():
    _, _, plan = shares([0, 0, 1, 1, 1], [False] * 5, [1, 1, 3, 1, 0])
    count = np.bincount(plan.ravel(), minlength=5) / 16_000
    np.testing.assert_allclose(count, [0.5, 0.5, 0.75, 0.25, 0], atol=0.02)


def test_the_loss_prefers_the_truth_and_skips_unknown_masks():
    """An anomalous image without a mask must not teach that its pixels are normal."""
    target = torch.zeros(2, 8, 8)
    target[0, 2:4, 2:4] = 1
    right, wrong = (target * 2 - 1) * 5, (1 - target * 2) * 5
    both, first = torch.ones(2), torch.tensor([1.0, 0.0])

    def loss(logit, known):
        return float(segmentation.loss_of(logit, target, known, torch.ones(2)))

    assert loss(right, both) < 0.5 * loss(wrong, both)
    spotted = right.clone()
    spotted[1, 6:, 6:] = 5  # something seen where no mask says where
    assert loss(spotted, both) > loss(right, both) and loss(spotted, first) < loss(right, first)


def test_the_pixel_loss_is_focal_by_hand():
    """One image, logits 0: p = 1/2, so each pixel gives 1/4 ln 2; dice 1 - (2 * 1/2 * 1 + 1) / (4 * 1/4 + 1 + 1)."""
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    got = segmentation.loss_of(torch.zeros(1, 2, 2), target, torch.ones(1), torch.ones(1))
    assert float(got) == pytest.approx(segmentation.FOCAL * np.log(2) / 4 + 1 - 2 / 3, rel=1e-6)


def squares(n: int, seed: int, size: int = 16) -> Records:
    rng, x, mask = np.random.default_rng(seed), noise(n, (64, 64), seed), []
    for image in x:
        image //= 3
        where = np.zeros((64, 64), bool)
        top, left = rng.integers(0, 64 - size, 2)
        where[top : top + size, left : left + size] = True
        image[where] += 150
        mask.append(where)
    return records(x, 1, mask, id=[f"a{seed}-{i}" for i in range(n)])


def dark(n: int, seed: int) -> Records:
    return records([i // 3 for i in noise(n, (64, 64), seed)], id=[f"n{seed}-{i}" for i in range(n)])


def test_planted_squares_are_outlined():
    judge = Segmentation(size=64, steps=80).fit(concat([dark(16, 1), squares(6, 2)]), seed=0)
    for chance, mask in zip(judge.score_map(test := squares(4, 3)), test.mask):
        found = chance > 0.5
        assert (found & mask).sum() / (found | mask).sum() > 0.6
    assert max(chance.max() for chance in judge.score_map(dark(4, 4))) < 0.5


@pytest.mark.parametrize("make", [
    lambda: memory.MemoryBank(size=128, bank=60), lambda: Segmentation(size=128, steps=12, batch=4),
])  # fmt: skip
def test_what_is_near_a_mask_is_scored_as_in_the_whole_image_and_less_is_computed(make, monkeypatch):
    detector, rng, seen = make().fit(concat([dark(6, 1), squares(4, 2)]), seed=0), np.random.default_rng(0), []
    shapes = [(128, 128), (300, 260), (70, 60), (128, 128), (90, 200)]
    masks = []
    for high, wide in shapes:
        mask, (top, left) = np.zeros((high, wide), bool), rng.integers(0, 50, 2)
        mask[top : top + 3, left : left + 5] = True
        masks.append(mask)
    masks[3][:] = False  # no mask: all of it
    new = records([noise(1, shape, seed)[0] for seed, shape in enumerate(shapes)], 1, masks)
    whole = detector.score_map(new)
    plain = memory.MemoryBank._squared
    monkeypatch.setattr(memory.MemoryBank, "_squared", lambda self, x: seen.append(len(x)) or plain(self, x))
    near = detector.score_near(new)
    for mask, a, b in zip(masks, near, whole):
        where = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=memory.MARGIN) if mask.any() else ~mask
        np.testing.assert_allclose(a[where], b[where], rtol=2e-4, atol=1e-5)
    assert seen[3] == 256 and max(seen[:3] + seen[4:]) < 150


@pytest.mark.parametrize("side", [9, 16, 23, 40, 150])
def test_a_mask_touches_every_patch_that_its_pixels_and_those_beside_them_lie_in(side):
    rng = np.random.default_rng(side)
    for _ in range(20):
        mask, (high, wide) = np.zeros((side, side + 3), bool), rng.integers(8, 17, 2)
        mask[tuple(rng.integers(0, side, 2))] = True
        y, x = np.argwhere(mask)[0]
        near = np.zeros((high, wide), bool)
        for row in range(high):
            for column in range(wide):
                down = row * side / high < y + 4 and (row + 1) * side / high > y - 3
                across = column * (side + 3) / wide < x + 4 and (column + 1) * (side + 3) / wide > x - 3
                near[row, column] = down and across
        around = ndimage.binary_dilation(near, np.ones((3, 3)))
        np.testing.assert_array_equal(memory.touched(mask, (high, wide), 1), around)


@pytest.mark.parametrize("steps", [1, 9, 10, 11])
def test_a_few_steps_are_enough_to_fit(steps):
    judge = Segmentation(size=32, steps=steps).fit(concat([dark(6, 1), squares(4, 2)]), seed=0)
    assert all(np.isfinite(m).all() for m in judge.score_map(squares(2, 3)))


def test_images_without_masks_are_still_told_apart():
    odd = squares(8, 2)
    odd.mask[:] = [np.zeros_like(m) for m in odd.mask]
    judge = Segmentation(size=64, steps=80).fit(concat([dark(16, 1), odd]), seed=0)
    assert judge.score(squares(4, 3)).min() > judge.score(dark(8, 4)).max()


def test_normals_are_compared_with_others_of_the_kind_that_new_images_are_compared_with():
    """In training a normal's distance to the bank must not be the zero that its own patches would give."""
    train = concat([dark(12, 1), squares(4, 2)])
    judge = Segmentation(size=64, steps=1).fit(train, seed=0)
    maps = features.features_of(train.take(range(12)), judge.shape, "cpu")
    assert float(judge.memory.residuals(maps)[:, 0].mean()) < 0.5 * float(judge.centre["near"][0])


def test_generated_normals_do_not_enter_the_bank():
    made = dark(12, 5).with_meta(synthetic=True, host="n1-0")
    judge = Segmentation(size=32, steps=1).fit(concat([dark(6, 1), made, squares(4, 2)]), seed=0)
    assert set(judge.memory.source["id"]) == {f"n1-{i}" for i in range(6)}
    alone = Segmentation(size=32, steps=1).fit(concat([made, squares(4, 2)]), seed=0)
    assert set(alone.memory.source["id"]) == set(made.meta["id"])


def test_channels_are_left_out_by_seed_and_the_mean_stays():
    one = segmentation.keep(torch.ones(200, 50, 2, 3), torch.Generator().manual_seed(0))
    assert one.shape == (200, 50, 1, 1) and torch.equal(
        one, segmentation.keep(torch.ones(200, 50, 2, 3), torch.Generator().manual_seed(0)))  # fmt: skip
    assert one.unique().tolist() == pytest.approx([0, 1 / (1 - segmentation.DROP)])
    assert float(one.mean()) == pytest.approx(1, abs=0.03)


def test_a_fit_leaves_the_global_generators_alone_and_seeds_differ():
    train = concat([dark(8, 1), squares(4, 2)])
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    one, two = (Segmentation(size=32, steps=2).fit(train, seed=s) for s in (0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not np.array_equal(one.score(train), two.score(train))


@pytest.mark.parametrize("label", [0, 1])
def test_one_sided_training_sets_are_refused(label):
    with pytest.raises(InputError, match="needs normal and anomalous"):
        Segmentation(size=32).fit(records(noise(3), label=label), seed=0)


# store


@pytest.fixture
def bank() -> memory.MemoryBank:
    return memory.MemoryBank(size=32, bank=8).fit(records(noise(2)), seed=0)


def test_a_detector_replaces_an_older_one_but_no_foreign_folder(bank, tmp_path):
    folder = tmp_path / "deep" / "d"
    save(bank, folder)
    save(bank, folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["d"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"nothing else, got notes\.txt"):
        save(bank, folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_failed_save_leaves_the_older_one_and_no_scraps(bank, tmp_path, monkeypatch):
    from pathlib import Path

    save(bank, tmp_path / "d")
    older = (tmp_path / "d" / "model.safetensors").read_bytes()

    def full(self, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    from data.errors import ResourceError

    with pytest.raises(ResourceError, match="room"):
        save(bank, tmp_path / "d")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert (tmp_path / "d" / "model.safetensors").read_bytes() == older


def test_an_older_detector_comes_back_where_the_new_one_cannot_take_its_place(bank, tmp_path, monkeypatch):
    from data import atomic

    save(bank, tmp_path / "d")
    rename, refused = atomic.os.replace, []

    def refuse(source, target):
        if str(target).endswith("/d") and not refused:
            refused.append(source)
            raise PermissionError(13, "Permission denied")
        return rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", refuse)
    with pytest.raises(PermissionError):
        save(bank, tmp_path / "d")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    load(tmp_path / "d")


def damage(folder, how: str) -> None:
    config = folder / "config.json"
    if how in ("config.json", "model.safetensors"):
        (folder / how).unlink()
    elif how == "torn":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "format":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 99}))
    else:
        config.write_text({"json": "{", "list": "[]", "empty": "{}"}[how])


@pytest.mark.parametrize("how", ["config.json", "model.safetensors", "torn", "format", "json", "list", "empty"])
def test_a_damaged_detector_is_refused_by_name(bank, tmp_path, how):
    save(bank, tmp_path / "d")
    damage(tmp_path / "d", how)
    with pytest.raises(InputError, match=r"d.*(lacks|must be)"):
        load(tmp_path / "d")
