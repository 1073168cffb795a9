"""What params.yaml may hold, as strict models; pipelines/settings.py reads it and holds its sections to each other.

A section is named after its stage and holds one model per modality; only those of the data sets in use are needed.
To add a setting, add a field here and its value to params.yaml and presets/; a test checks that they agree.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pipelines.explain import Model

ROUNDS = (1, 2, 3)  # as unrolled in dvc.yaml
MODALITIES = ("image", "series", "row")

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def ordered(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise ValueError(f"must be the lower, then the higher: {sorted(values)}")
    return values


Span = Annotated[list[Unit], Field(min_length=2, max_length=2), AfterValidator(ordered)]  # low, high
Kinds = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class Source(BaseModel):
    """Where a data set comes from; further keys are options of its reader, which knows their names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    reader: Literal["mvtec", "folder", "deeppcb", "csv", "npz", "demo"]
    path: Annotated[str, Field(min_length=1)]

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Dataset(Model):
    modality: Literal["image", "series", "row"]
    source: Source


# prepare


class PrepareImage(Model):
    near: Unit = 0.05  # images closer than this are copies: one group, or refused in train and test; 0 is none


class PrepareSeries(Model):
    window: Annotated[int, Field(ge=8, le=4096)]  # time steps of a record
    near: Unit = 0.002  # windows closer than this are copies: a few are left out of training, many refused
    split: Literal["time", "recording"] = "time"  # the second half of each recording is the test; or whole ones


class PrepareRow(Model):
    pass


class Prepare(Model):
    seeds: Annotated[int, Field(ge=1, le=50)]  # supports drawn, and so repetitions of everything that follows
    support: Annotated[int, Field(ge=2, le=1000)]  # labelled anomalies in a support
    folds: Annotated[int, Field(ge=2, le=20)]  # of the cross-fitted judges
    test_share: Share  # of images, rows and whole recordings without a test of their own; none of ones split in time
    calib_share: Share  # of the normals to train on, set aside to tell what a usual score is
    strict: bool  # an unreadable item ends the run instead of being quarantined
    image: PrepareImage | None = None
    series: PrepareSeries | None = None
    row: PrepareRow | None = None


# fit: the base on normals


class Latent(Model):
    kind: Literal["pixels", "train", "pretrained"]
    channels: Count
    factor: Literal[1, 2, 4, 8]
    width: Count
    steps: Annotated[int, Field(ge=0)]  # training of the autoencoder; kind train only
    lr: Positive
    source: str | None = None  # folder or hub id; kind pretrained only
    revision: str | None = None


class FitImage(Model):
    size: Annotated[int, Field(ge=16, le=1024)]  # side of the crops; a multiple of latent.factor * 2^(widths - 1)
    steps: Annotated[int, Field(ge=0)]  # 0 with a pretrained pipeline that is taken as it is
    batch: Count
    pool: Count  # crops drawn once, from which batches are taken
    lr: Positive
    widths: Annotated[list[Count], Field(min_length=1, max_length=6)]
    layers: Count
    latent: Latent
    pretrained: str | None = None  # an inpainting pipeline, folder or hub id, in place of the network trained here
    revision: str | None = None
    prompts: dict[str, str] | None = None  # kind: prompt, for a pretrained pipeline


class FitSeries(Model):
    steps: Count
    batch: Count
    pool: Count
    lr: Positive
    patch: Count  # time steps of a token; divides prepare.series.window
    width: Count  # a multiple of 4
    depth: Count


class FitRow(Model):
    steps: Count
    batch: Count
    pool: Count
    lr: Positive
    width: Count  # even
    depth: Count


class Fit(Model):
    image: FitImage | None = None
    series: FitSeries | None = None
    row: FitRow | None = None


# adapt: LoRA on the support


class AdaptSettings(Model):
    steps: Count
    batch: Count
    lr: Positive
    pool: Count  # examples drawn once, from which batches are taken
    prior: Unit  # share of a batch that is normal
    rank: Annotated[int, Field(ge=1, le=256)]
    match: Count  # records generated per kind and scale, from which the scale is chosen


class AdaptImage(AdaptSettings):
    pass


class AdaptSeries(AdaptSettings):
    pass


class AdaptRow(AdaptSettings):
    pass


class Adapt(Model):
    image: AdaptImage | None = None
    series: AdaptSeries | None = None
    row: AdaptRow | None = None


# crossfit: the judges


class Segmentation(Model):
    """detection.segmentation.Segmentation."""

    size: Annotated[int, Field(ge=32, le=1024)] = 128  # long side that images are resized to
    steps: Count = 200
    real_share: Unit = 0.5  # least part of the anomalous half of what it sees that is real


class Memory(Model):
    """detection.memory.MemoryBank."""

    size: Annotated[int, Field(ge=32, le=1024)] = 128
    bank: Count = 2000  # patches kept


class ConvForest(Model):
    """detection.windows.ConvForest."""

    trees: Count = 300
    kernels: Count = 32
    real_share: Unit = 0.5


class Forest(Model):
    """detection.rows.Forest."""

    trees: Count = 400
    real_share: Unit = 0.5


class ImageDetectors(Model):
    segmentation: Segmentation = Segmentation()
    memory: Memory = Memory()


class SeriesDetectors(Model):
    forest: ConvForest = ConvForest()


class RowDetectors(Model):
    forest: Forest = Forest()


class Judging(Model):
    likelihood: bool  # a third judge: the likelihood ratio of a denoiser fitted anew without the fold


class CrossfitImage(ImageDetectors, Judging):
    pass


class CrossfitSeries(SeriesDetectors, Judging):
    pass


class CrossfitRow(RowDetectors, Judging):
    pass


class Crossfit(Model):
    image: CrossfitImage | None = None
    series: CrossfitSeries | None = None
    row: CrossfitRow | None = None


# tune, generate, judge, filter: r1, r2, .. hold what a round changes of the settings beside them, e.g. {count: 50}


class Changes(Model):
    image: dict[str, Any] | None = None
    series: dict[str, Any] | None = None
    row: dict[str, Any] | None = None


def nothing(changes: dict) -> dict:
    if changes:
        raise ValueError("must be empty, round 1 generates with the adapters of adapt; change r2 or r3")
    return changes


Nothing = Annotated[dict[str, Any], AfterValidator(nothing)]


class NoChanges(Model):
    image: Nothing | None = None  # empty: before the first verdicts there is nothing to tune by
    series: Nothing | None = None  # empty: before the first verdicts there is nothing to tune by
    row: Nothing | None = None  # empty: before the first verdicts there is nothing to tune by


class RoundSection(Model):
    r1: Changes
    r2: Changes
    r3: Changes


class TuneSettings(Model):
    steps: Annotated[int, Field(ge=0)]  # 0: every round generates with the first adapters
    batch: Count
    lr: Positive
    beta: Positive  # how sharply kept and refused records are told apart
    pool: Count  # examples of the support drawn once, the anchor of every batch


class TuneImage(TuneSettings):
    pass


class TuneSeries(TuneSettings):
    pass


class TuneRow(TuneSettings):
    pass


class Tune(RoundSection):
    r1: NoChanges
    image: TuneImage | None = None
    series: TuneSeries | None = None
    row: TuneRow | None = None


class GenerateSettings(Model):
    count: Count  # records per support and round
    steps: Annotated[int, Field(ge=2, le=1000)]
    sampler: Literal["dpmpp_2m", "heun"]
    sigma_max: Positive
    scale: Positive = 1.0  # severity: times the guidance matched to the support; 0 would be normal, 1 like the examples
    kind_noise: Annotated[float, Field(ge=0)] = 0.0  # noise on a record's kind vector, in its rms: variety


class GenerateImage(GenerateSettings):
    strength: Annotated[float, Field(gt=0, le=1)]  # 1 starts from pure noise
    masks: Literal["bank", "random"] = "bank"  # the support's own, reshaped, or any blobs and strokes


class GenerateSeries(GenerateSettings):
    strength: Span
    masks: Literal["bank", "random"] = "bank"  # the support's spans and channels, or any


class GenerateRow(GenerateSettings):
    strength: Span  # noise on a row crossed of several anomalies; more of it, more is made anew
    share: Share  # of a row's cells that are made anew where there is no other anomaly of its kind to cross it with


class Generate(RoundSection):
    image: GenerateImage | None = None
    series: GenerateSeries | None = None
    row: GenerateRow | None = None


class JudgeImage(Model):
    pass


class JudgeSeries(Model):
    pass


class JudgeRow(Model):
    pass


class Judge(RoundSection):
    image: JudgeImage | None = None
    series: JudgeSeries | None = None
    row: JudgeRow | None = None


class FilterSettings(Model):
    min_overlap: Unit  # of the intended mask with what really changed; less is "unchanged"
    seam: Positive  # judges' percentile of the adapter-off twin; more is "seam"
    contrast: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)]  # of least, most real
    copy_: Annotated[float, Field(ge=0, alias="copy")]  # distance to the nearest real anomaly over real to real
    posterior: Unit  # least chance of being of its own kind; less is "kind"
    floor: Unit  # judges' percentiles that bound the limit of "invisible"
    ceiling: Unit
    low: Unit  # quantiles of the real anomalies' scores that set invisible and trivial
    high: Unit
    trivial_share: Annotated[float, Field(ge=0, lt=1)]  # most that trivial records may be of what the ranking is given
    criterion: Literal["eap", "near", "alike", "balanced", "plain", "hard", "likelihood", "typical"]  # ranks the rest
    keep_share: Annotated[float, Field(gt=0, le=1)]  # best-ranked part of each kind's records left that is kept
    kind_most: Annotated[float, Field(gt=0, le=1)]  # the part of the kept that one kind may be; but half of it stays
    kind_least: Annotated[int, Field(ge=0)]  # records of a kind that come back, if only bands or ranks refused them
    collapse: Unit  # a round less varied than this share of the one before stops the loop
    settled: Unit  # steering that moves by less stops it too

    @field_validator("ceiling", "high")
    @classmethod
    def above(cls, value: float, info: ValidationInfo) -> float:
        name = {"ceiling": "floor", "high": "low"}[info.field_name]
        if value < info.data.get(name, value):
            raise ValueError(f"must be >= {name}, {info.data[name]:g}")
        return value


class FilterImage(FilterSettings):
    pass


class FilterSeries(FilterSettings):
    pass


class FilterRow(FilterSettings):
    pass


class Filter(RoundSection):
    image: FilterImage | None = None
    series: FilterSeries | None = None
    row: FilterRow | None = None


# gate: what the exported training set is


def with_real(arms: list[str]) -> list[str]:
    if "real" not in arms:
        raise ValueError("must name real, which every other arm is held against")
    return arms


class GateSettings(Model):
    supports: Count  # most supports that the loop is run again for, fold by fold; more say more and take longer
    count: Count  # records generated without each fold
    arms: Annotated[list[Literal["real", "standard", "classical", "generated", "dropped", "filtered", "mixed"]],
                    Field(min_length=1), AfterValidator(with_real)]  # training sets compared, `real` among them
    weights: Annotated[list[Unit], Field(min_length=1)]  # least shares of real anomalies compared
    confidence: Annotated[float, Field(ge=0.5, lt=1)]  # of the interval that must lie above 0


class GateImage(GateSettings):
    detectors: Annotated[list[Literal["segmentation", "memory"]], Field(min_length=1)]


class GateSeries(GateSettings):
    detectors: Annotated[list[Literal["forest", "pca", "knn"]], Field(min_length=1)]


class GateRow(GateSettings):
    detectors: Annotated[list[Literal["forest", "lightgbm", "knn", "iforest"]], Field(min_length=1)]


class Gate(Model):
    image: GateImage | None = None
    series: GateSeries | None = None
    row: GateRow | None = None


# train, evaluate, report


class Training(Model):
    shuffled: bool = False  # also a control: the kept records with their masks shuffled


class TrainImage(ImageDetectors, Training):
    pass


class TrainSeries(SeriesDetectors, Training):
    pass


class TrainRow(RowDetectors, Training):
    pass


class Train(Model):
    image: TrainImage | None = None
    series: TrainSeries | None = None
    row: TrainRow | None = None


class Likelihood(Model):
    """Whether the likelihood ratio of adapted to base model is measured too: minutes a support for large images."""

    likelihood: bool = True


class EvaluateImage(Likelihood):
    pass


class EvaluateSeries(Likelihood):
    pass


class EvaluateRow(Likelihood):
    pass


class Evaluate(Model):
    image: EvaluateImage | None = None
    series: EvaluateSeries | None = None
    row: EvaluateRow | None = None


# audit: what must hold of the split and the generated records


class AuditSettings(Model):
    sample: Count = 300  # records that the slower checks look at
    shortcut: Annotated[float, Field(ge=0.5, le=1)] = 0.6  # AUROC of telling records apart by what is not anomalous
    copy_: Annotated[float, Field(ge=0, alias="copy")] = 0.05  # distance to a training anomaly; nearer is a near-copy
    copies: Unit = 0.05  # most of the kept that may be near-copies


class AuditImage(AuditSettings):
    pass


class AuditSeries(AuditSettings):
    pass


class AuditRow(AuditSettings):
    shortcut: Annotated[float, Field(ge=0.5, le=1)] = 0.95  # generated over real, to a detector of others


class Audit(Model):
    image: AuditImage | None = None
    series: AuditSeries | None = None
    row: AuditRow | None = None


# fidelity: how like the real ones the kept are


class FidelityImage(Model):
    most: Count = 256  # records on each side that are compared


class FidelitySeries(Model):
    most: Count = 1000


class FidelityRow(Model):
    most: Count = 1000


class Fidelity(Model):
    image: FidelityImage | None = None
    series: FidelitySeries | None = None
    row: FidelityRow | None = None


class Report(Model):
    examples: Count  # records shown of each kind of outcome


class Publish(Model):
    """Where the training set goes on the Hugging Face Hub; one data set, one repository."""

    enabled: bool = False  # false: a dry run, nothing leaves this machine
    repo: str = ""  # owner/name; {dataset} stands for the data set's name
    private: bool = True
    licence: str | dict[str, str] = ""  # of the real records, one or {data set: one}; see data/hub/licences.py
    base_licence: str = ""  # of a pretrained base model, where one is used and not known
    permission: str = ""  # who allowed it, where a licence is "other" or "unknown"; the card quotes it
    adapters: bool = False  # send the LoRA adapters too


class Settings(Model):
    """The whole of params.yaml."""

    datasets: Annotated[dict[str, Dataset], Field(min_length=1)]
    device: Literal["auto", "cpu", "cuda"]
    prepare: Prepare
    fit: Fit
    adapt: Adapt
    crossfit: Crossfit
    tune: Tune
    generate: Generate
    judge: Judge
    filter: Filter
    gate: Gate
    train: Train
    evaluate: Evaluate
    audit: Audit
    fidelity: Fidelity
    report: Report
    publish: Publish = Publish()

    def section(self, stage: str, modality: str, round_: int | None = None) -> Any:
        """Settings of a stage for a modality, with what `round_` changes of them."""
        section = getattr(self, stage)
        model = getattr(section, modality, section)  # a section without modalities is for all of them
        changes = getattr(getattr(section, f"r{round_}"), modality) if round_ else None
        return type(model).model_validate(merge(model.model_dump(by_alias=True), changes)) if changes else model


BY_MODALITY = tuple(name for name, field in Settings.model_fields.items()
                    if isinstance(field.annotation, type) and "image" in getattr(field.annotation, "model_fields", {}))


def merge(base: dict, changes: dict) -> dict:
    """`base` with the leaves of `changes` put in place."""
    out = dict(base)
    for key, value in changes.items():
        out[key] = merge(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out
