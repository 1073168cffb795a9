"""The detectors by modality and name; a class is imported when it is first used."""

from __future__ import annotations

from importlib import import_module

from data.errors import SettingsError, closest


class Lazy:
    """A detector class by its address "module:class"; calling it makes a detector with the options given."""

    def __init__(self, address: str):
        self.address = address

    def load(self) -> type:
        """The class itself."""
        module, name = self.address.split(":")
        return getattr(import_module(f"detection.{module}"), name)

    def __call__(self, **options):
        return self.load()(**options)

    def from_state(self, arrays: dict, config: dict):
        """The detector that gave this state."""
        return self.load().from_state(arrays, config)


DETECTORS: dict[str, dict[str, Lazy]] = {
    "image": {
        "memory": Lazy("memory:MemoryBank"),
        "segmentation": Lazy("segmentation:Segmentation"),
    },
    "series": {
        "pca": Lazy("windows:PCAResidual"),
        "knn": Lazy("windows:SubsequenceKNN"),
        "forest": Lazy("windows:ConvForest"),
    },
    "row": {
        "knn": Lazy("rows:KNN"),
        "iforest": Lazy("rows:IsolationForest"),
        "forest": Lazy("rows:Forest"),
        "lightgbm": Lazy("rows:LightGBM"),
    },
}


def detector(modality: str, name: str) -> Lazy:
    """The detector class of a name; SettingsError where there is none."""
    choices = DETECTORS[modality]
    if name not in choices:
        raise SettingsError(f"detector: '{name}' must be one of the {modality} detectors; {closest(name, choices)}")
    return choices[name]


def name_of(instance: object) -> tuple[str, str]:
    """(modality, name) under which a detector's class is listed; ValueError for a foreign one."""
    address = f"{type(instance).__module__.removeprefix('detection.')}:{type(instance).__name__}"
    for modality, choices in DETECTORS.items():
        for name, lazy in choices.items():
            if lazy.address == address:
                return modality, name
    raise ValueError(f"a detector must be listed in DETECTORS, got {address}")
