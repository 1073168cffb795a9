"""Row detectors: nearest normals, isolation, balanced trees and boosted trees, a score per row."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.errors import InputError
from data.records import Records
from data.records.table import RowCodec
from detection.forests import Trees, balanced_weights, grow_balanced, grow_isolation

DAY = 86_400 * 10**9  # ns


def weights_of(records: Records) -> np.ndarray:
    """The meta column "weight" (N,), 1 where there is none."""
    if "weight" not in records.meta:
        return np.ones(len(records))
    return records.meta["weight"].to_numpy(np.float64, na_value=1.0)


def normals_of(records: Records) -> Records:
    """The records of label 0 that carry weight; InputError without any."""
    normals = records.take((records.meta["label"].to_numpy() == 0) & (weights_of(records) > 0))
    if not len(normals):
        raise InputError("records: a detector needs at least one normal record to fit, got 0; "
                         "add normal records")  # fmt: skip
    return normals


def training_weights(records: Records, real_share: float) -> np.ndarray:
    """`balanced_weights` of the records' labels, origins and weights."""
    meta = records.meta
    return balanced_weights(meta["label"].to_numpy(), meta["synthetic"].to_numpy(bool), weights_of(records),
                            real_share=real_share)  # fmt: skip


def _features(codec: RowCodec, records: Records) -> np.ndarray:
    return codec.encode(records)[0] if len(records) else np.zeros((0, len(codec.feature_column)))


def _pick(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` of the rows, drawn without replacement, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]


class KNN:
    """Mean distance to the k nearest normals in encoded features; needs no anomaly.

    bank: most normals kept, drawn by the seed.
    """

    def __init__(self, *, k: int = 5, bank: int = 20_000):
        self.k, self.most = k, bank

    def fit(self, records: Records, *, seed: int) -> KNN:
        normals = normals_of(records)
        self.codec = RowCodec.fit(normals)
        self._index(_pick(_features(self.codec, normals), self.most, seed))
        return self

    def _index(self, bank: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.bank = np.ascontiguousarray(bank)
        near = min(self.k + 3, len(bank))  # a few spare ones: the search rounds, the distances below do not
        algorithm = "kd_tree" if bank.shape[1] <= 15 else "brute"
        self.index = NearestNeighbors(n_neighbors=near, algorithm=algorithm).fit(self.bank)

    def score_map(self, records: Records) -> np.ndarray:
        """(N,) float32, in units of a feature's spread."""
        x, out = _features(self.codec, records), np.zeros(len(records))
        for low in range(0, len(x), 4096):
            part = x[low : low + 4096]
            near = self.index.kneighbors(part, return_distance=False)
            squared = np.zeros(near.shape)
            for j in range(part.shape[1]):
                squared += (self.bank[near, j] - part[:, j, None]) ** 2
            out[low : low + 4096] = np.sqrt(np.sort(squared, axis=1)[:, : self.k]).mean(1)
        return out.astype(np.float32)

    def score(self, records: Records) -> np.ndarray:
        """As the map: a row is one element."""
        return self.score_map(records)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        return {"bank": self.bank}, {"k": self.k, "bank": self.most, "codec": self.codec.state()}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> KNN:
        out = cls(k=config["k"], bank=config["bank"])
        out.codec = RowCodec.from_state(config["codec"])
        out._index(arrays["bank"])
        return out


class IsolationForest:
    """How few random cuts isolate a row from normals: 2^(-mean path / c), in (0, 1); needs no anomaly.

    sample: normals per tree.
    """

    def __init__(self, *, trees: int = 200, sample: int = 256):
        self.number, self.sample = trees, sample

    def fit(self, records: Records, *, seed: int) -> IsolationForest:
        normals = normals_of(records)
        self.codec = RowCodec.fit(normals)
        x = _features(self.codec, normals)
        self.trees, self.norm = grow_isolation(x, trees=self.number, sample=self.sample, seed=seed)
        return self

    def score_map(self, records: Records) -> np.ndarray:
        """(N,) float32; 0.5 is usual."""
        mean = self.trees.mean(_features(self.codec, records))
        return np.exp2(-mean / max(self.norm, 1e-12)).astype(np.float32)

    def score(self, records: Records) -> np.ndarray:
        """As the map: a row is one element."""
        return self.score_map(records)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, forest = self.trees.state()
        return arrays, {"trees": self.number, "sample": self.sample, "norm": self.norm, "forest": forest,
                        "codec": self.codec.state()}  # fmt: skip

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> IsolationForest:
        out = cls(trees=config["trees"], sample=config["sample"])
        out.codec, out.norm = RowCodec.from_state(config["codec"]), float(config["norm"])
        out.trees = Trees.from_state(arrays, config["forest"])
        return out


class Forest:
    """The share of anomalies in the leaves of balanced, extremely randomised trees on encoded features, in
    [0, 1].

    leaf: least rows of a leaf. real_share: least part of the anomalous weight on real anomalies.
    """

    def __init__(self, *, trees: int = 400, leaf: int = 1, real_share: float = 0.5):
        self.options = {"trees": trees, "leaf": leaf, "real_share": real_share}

    def fit(self, records: Records, *, seed: int) -> Forest:
        weight = training_weights(records, self.options["real_share"])
        self.codec = RowCodec.fit(normals_of(records))
        self.trees = grow_balanced(
            _features(self.codec, records), records.meta["label"].to_numpy(), weight,
            trees=self.options["trees"], leaf=self.options["leaf"], seed=seed,
        )  # fmt: skip
        return self

    def score_map(self, records: Records) -> np.ndarray:
        """(N,) float32."""
        return self.trees.mean(_features(self.codec, records)).astype(np.float32)

    def score(self, records: Records) -> np.ndarray:
        """As the map: a row is one element."""
        return self.score_map(records)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, forest = self.trees.state()
        return arrays, {"options": self.options, "forest": forest, "codec": self.codec.state()}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> Forest:
        out = cls(**config["options"])
        out.codec = RowCodec.from_state(config["codec"])
        out.trees = Trees.from_state(arrays, config["forest"])
        return out


def native(columns: list[dict], frame: pd.DataFrame) -> np.ndarray:
    """Cells as float64 (N, D) for LightGBM: category codes, days, 0/1; NaN where missing or an unknown
    category."""
    out = np.full((len(frame), len(columns)), np.nan)
    for j, column in enumerate(columns):
        cells = frame[column["name"]]
        if column["type"] == "categorical":
            text = cells.astype(object).where(cells.notna(), None)
            code = pd.Categorical(text.map(str, na_action="ignore"), categories=column["categories"]).codes
            out[:, j] = np.where(code < 0, np.nan, code)
        elif column["type"] == "date":
            since = cells.astype("datetime64[ns]").to_numpy().astype(np.int64) / DAY
            out[:, j] = np.where(cells.isna(), np.nan, since)
        else:
            out[:, j] = cells.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return out


class LightGBM:
    """The probability of an anomaly by class-weighted boosted trees on the cells as they are, in [0, 1].

    Categories and missing values are native. smallest: least rows of a leaf; small, as anomalies are few.
    """

    def __init__(self, *, rounds: int = 200, learning_rate: float = 0.05, leaves: int = 15,
                 smallest: int = 10, real_share: float = 0.5):  # fmt: skip
        self.options = {"rounds": rounds, "learning_rate": learning_rate, "leaves": leaves,
                        "smallest": smallest, "real_share": real_share}  # fmt: skip

    def fit(self, records: Records, *, seed: int) -> LightGBM:
        import lightgbm

        weight = training_weights(records, self.options["real_share"])
        self.columns = [_column(c, records.x[c["name"]]) for c in records.schema["columns"]]
        kept = weight > 0
        x, label = native(self.columns, records.x)[kept], (records.meta["label"].to_numpy() > 0)[kept]
        known = [j for j, c in enumerate(self.columns) if c["type"] == "categorical"]
        data = lightgbm.Dataset(x, label.astype(float), weight=weight[kept], categorical_feature=known,
                                params={"verbosity": -1, "min_data_in_bin": 1})  # fmt: skip
        settings = {
            "objective": "binary", "learning_rate": self.options["learning_rate"], "seed": seed,
            "num_leaves": self.options["leaves"], "min_data_in_leaf": self.options["smallest"],
            "min_data_per_group": self.options["smallest"], "cat_smooth": 1.0, "feature_fraction": 0.8,
            "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1,
        }  # fmt: skip
        self._load(lightgbm.train(settings, data, self.options["rounds"]).model_to_string())
        return self

    def _load(self, text: str) -> None:
        import lightgbm

        self.text = text
        self.booster = lightgbm.Booster(model_str=text)

    def score_map(self, records: Records) -> np.ndarray:
        """(N,) float32."""
        if not len(records):
            return np.zeros(0, np.float32)
        return self.booster.predict(native(self.columns, records.x), num_threads=1).astype(np.float32)

    def score(self, records: Records) -> np.ndarray:
        """As the map: a row is one element."""
        return self.score_map(records)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """The model's text as bytes, so that the JSON stays readable."""
        text = np.frombuffer(self.text.encode(), np.uint8).copy()
        return {"model": text}, {"options": self.options, "columns": self.columns}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> LightGBM:
        out = cls(**config["options"])
        out.columns = config["columns"]
        out._load(np.asarray(arrays["model"], np.uint8).tobytes().decode())
        return out


def _column(column: dict, cells: pd.Series) -> dict:
    """Name and type of a column, and the categories of the schema or, without them, of the rows."""
    out = {"name": column["name"], "type": column["type"]}
    if column["type"] == "categorical":
        seen = column.get("categories") or sorted(set(cells.dropna().astype(str)))
        out["categories"] = [str(category) for category in seen]
    return out
