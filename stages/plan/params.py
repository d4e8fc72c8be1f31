"""The schema of ``params.yaml``.

Everything that a person may set, with its type, its default and what is allowed. A misspelt key, a wrong type, an
unknown task or method or an impossible pair is one clear error before anything runs
(:mod:`stages.plan.consistency`, :mod:`stages.plan.loading`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)

from mergeline.readings import SMALLEST_BATCH

__all__ = [
    "Compute",
    "MergeSeries",
    "Method",
    "Params",
    "Task",
]

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _distinct(values: list[Any]) -> list[Any]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} stands twice")
    return values


Distinct = AfterValidator(_distinct)


def _layers_or_share(value: float) -> float:
    if not (0 < value < 1 or (value >= 1 and value == int(value))):
        raise ValueError("must be a whole number of layers, or a share between 0 and 1")
    return value


Preserve = Annotated[float, AfterValidator(_layers_or_share)]


class Section(BaseModel):
    """Strict types, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Compute(Section):
    """Where and with how many threads a stage computes. Results on a CPU depend on the threads, not on the jobs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1


class Model(Section):
    """What all networks of a benchmark share."""

    input_size: Literal[32, 64, 224]
    width: Positive


class Targets(Section):
    """What a network's output means."""

    kind: Literal["logits", "text"] = "logits"
    """"logits": a score per class; "text": a point in the space of text embeddings, compared with the class names'."""
    encoder: str = "minilm"
    template: Annotated[str, Field(pattern=r"\{\}")] = "a photo of {}"
    scale: Positive = 20.0


class Task(Section):
    """One task: where its images come from and which of them are used."""

    source: str | None = None
    """The adapter; by default the task's own name."""
    root: str | None = None
    """The user's folder with the data, where the adapter needs one."""
    n_classes: Count | None = None
    """The number of classes that is expected; an error if the data have another."""
    classes: Annotated[list[Annotated[int, Field(ge=0)]], Distinct, Field(min_length=2)] | None = None
    """Keep these classes only, renumbered in this order (disjoint halves of one task)."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the origins that is tested on, where there is no official split."""
    max_train: Count | None = None
    max_test: Count | None = None
    pretrain: str | None = None
    """Another task whose edge model is the start (finetune); none: trained from scratch."""
    flip: bool | None = None
    """Random mirroring in training; by default where the adapter says that it is safe."""


class Training(Section):
    """A training recipe; see mergeline.training.Recipe. What a section leaves out, :mod:`stages.plan.recipes` finds elsewhere."""

    epochs: Count = 6
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of sgd alone."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Fraction = 0.15
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[int, Field(ge=0)] = 2
    """Pixels; none where there is a label for each pixel."""
    compile: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of forward and backward passes: auto is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is faster if the processor
    computes in it."""


class Statistics(Section):
    """The images that activation moments are taken on, and the moments that are kept."""

    images: Count = 1000
    """Images of each task of a pair."""
    batch_size: Count = 125
    moments: Literal["cross", "full"] = "cross"
    """"cross": covariances between the models; "full" adds those within each model, which zip, cca and dual_zip need."""
    places: Literal["all", "last"] = "all"
    """Where units that several layers read, as those of a residual stream, are seen: everywhere, or at the last place alone, as in
    the papers."""


class WithOptions(BaseModel):
    """The images that an entry of a registry looks at, and its own options (the fields of its options in mergeline)."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    images: Count = 1000
    """Training images of each task."""
    batch_size: Count = 125

    @property
    def options(self) -> dict[str, Any]:
        """The entry's own options."""
        return dict(self.model_extra or {})


class Normalization(WithOptions):
    """A normalisation after merging, pruning or narrowing."""


class Pruner(WithOptions):
    """A method of pruning."""


class Narrower(WithOptions):
    """A method of narrowing."""


class Evaluate(Section):
    """How test images are run."""

    batch_size: Count = 250
    calibration_bins: Count = 15


class Similarity(Section):
    """Fréchet distance of the tasks' embeddings."""

    encoder: str = "efficientnet-lite0"
    weights: str | None = None
    """A file with the encoder's weights, for encoders that do not come in a package."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    images: Count = 2000
    """Images of each task (a fixed random choice), or all there are."""
    batch_size: Count = 50
    tau: Positive
    """Temperature of Sim = exp(-FD / tau); changes the last step only."""


class Method(Section):
    """A way to match: the matcher it uses, its options, and a grid of options that makes one cell each."""

    use: str | None = None
    options: dict[str, Any] | None = None
    grid: dict[str, Annotated[list[Any], Distinct, Field(min_length=1)]] | None = None


Control = Literal["self", "random", "untrained"]
Measure = Literal["curve", "landscape", "diagnosis", "examples"]
"""What can be measured of a merge beside its scores; see :mod:`stages.formats.measurements`."""


class MergeSeries(Section):
    """A series of merges: which tasks, which pairs of depths and widths, which runs, with which methods."""

    tasks: Annotated[list[str | Annotated[list[str], Field(min_length=2)]], Field(min_length=1)]
    """Each entry one task (merged with itself) or a list of tasks (one model of each)."""
    both_directions: bool = False
    """Merge every task list also in reverse: the first is the reference and has the deeper (or wider) model. Models of one
    architecture with equal weights have no direction, and are merged once."""
    architectures: Annotated[list[str], Distinct, Field(min_length=1)] | None = None
    """All pairs of these are merged, the deeper first, and of two as deep the wider; by default of the benchmark's architectures.
    Pairs of different widths (r26 and r26x2) are merged by those of ``methods`` that can, zip and transport."""
    homogeneous_only: bool = False
    runs: Literal["all", "neighbours"] = "all"
    """"all": every combination of different seeds; "neighbours": seeds that stand next to each other in the list."""
    seeds: Annotated[list[Seed], Distinct, Field(min_length=1)] | None = None
    methods: Annotated[list[str], Distinct, Field(min_length=1)] | None = None
    """Names from the section methods; by default all. A method that merges one width alone makes no cells for pairs of different
    widths; where none of them can merge such a pair, that is an error."""
    normalize: Annotated[list[str], Distinct, Field(min_length=1)] = ["reset"]
    placements: Annotated[list[str], Distinct, Field(min_length=1)] = ["append"]
    """Where the blocks of the shallow models stand in the deep topology, for pairs of different depth."""
    stops: Annotated[list[str | None], Distinct, Field(min_length=1)] = [None]
    """Spaces after which each model keeps its own layers; null: all is merged."""
    preserves: Annotated[list[Preserve | None], Distinct, Field(min_length=1)] = [None]
    """How many of the first layers each model keeps (or a share of the multiply-adds); null: none."""
    models: Annotated[int, Field(ge=2)] | None = None
    """Number of models of one task that are merged at once; by default two."""
    sweep: dict[str, Annotated[list[Any], Distinct, Field(min_length=1)]] | None = None
    """Settings of train or finetune (or ``initialization``) and their values: each combination has edge models of its own."""
    weights: Annotated[list[Fraction], Field(min_length=2)] | None = None
    """Weight of each model; by default all the same."""
    controls: Annotated[list[Control], Distinct] = []
    measures: Annotated[list[Measure], Distinct] = []
    """What is measured of every merge of the series, controls left out, beside its scores."""


class Compression(Section):
    """A series of edge models that are made smaller: every model with every method, to every share, with every normalisation."""

    tasks: Annotated[list[str], Distinct, Field(min_length=1)]
    architectures: Annotated[list[str], Distinct, Field(min_length=1)] | None = None
    """By default the benchmark's."""
    seeds: Annotated[list[Seed], Distinct, Field(min_length=1)] | None = None
    """By default all."""
    methods: Annotated[list[str], Distinct, Field(min_length=1)]
    normalize: Annotated[list[str], Distinct, Field(min_length=1)] = ["none"]


class Pruning(Compression):
    """A series of pruned edge models; ``methods``: keys of mergeline.pruning.METHODS."""

    sparsities: Annotated[list[Sparsity], Distinct, Field(min_length=1)]
    """Shares of the weights of convolutions and linear layers that go."""


class Narrowing(Compression):
    """A series of narrowed edge models; ``methods``: keys of mergeline.narrowing.METHODS."""

    widths: Annotated[list[Width], Distinct, Field(min_length=1)]
    """Shares of the units of every space that are left."""


class Curve(Section):
    """The line between the two models of a merge: shares of the second at which loss and accuracy are measured."""

    points: Annotated[int, Field(ge=3)] = 21


class Landscape(Section):
    """The plane through a merged network and its two source models."""

    steps: Annotated[int, Field(ge=2)] = 15
    """Grid points along each side."""
    margin: Annotated[float, Field(ge=0)] = 0.25
    """How far the grid goes beyond the three networks, as a share of their extent."""
    images: Count = 500
    """Test images of each task (the first of them) that the loss is measured on."""


class Diagnosis(Section):
    """A merged network beside its source models, layer by layer."""

    images: Annotated[int, Field(ge=SMALLEST_BATCH)] = 500
    """Training images of each task (a fixed random choice)."""
    batch_size: Annotated[int, Field(ge=SMALLEST_BATCH)] = 125


class Execution(Section):
    """How stages run; changes no result."""

    jobs: Annotated[int, Field(ge=0)] = 0
    """Stages at a time; 0: as many as there are cores for (cores / compute.threads)."""
    timeout: Positive = 86400.0
    """Seconds after which a stage is stopped."""
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """How often a stage that was killed, ran out of memory or met an I/O error is tried again."""


class Report(Section):
    """The report's words and references."""

    title: str = "mergeline benchmark"
    method: str | None = None
    """The method that figures and findings are about; by default the first that aligns."""
    simplicity_reference: str | None = None
    """The architecture whose edges' accuracy is a task's simplicity; by default the deepest."""
    papers: list[str] = ["depth_heterogeneity_table2", "depth_heterogeneity_table3"]
    """Tables of the papers that the merges stand beside; ``mergeline papers`` lists them."""


class Regression(Section):
    """When a refresh calls a change a regression."""

    factor: Annotated[float, Field(ge=1)] = 1.05
    """Smallest ratio of error rates (or of seconds) that counts, as in asv."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Params(Section):
    """A whole benchmark."""

    seed: Seed
    """The seed that all others are derived from."""
    compute: Compute
    model: Model
    architectures: Annotated[list[str], Distinct, Field(min_length=1)]
    seeds: Annotated[list[Seed], Distinct, Field(min_length=1)]
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    train: Training
    finetune: Training
    recipes: dict[str, Training] = {}
    """By architecture, settings that its edge models are trained and finetuned with in place of those of the two above."""
    pretrained: dict[str, str] = {}
    """Trained weights that networks start from, by architecture: a package's name, a file, a folder, or hub:OWNER/NAME."""
    targets: Targets
    imports: dict[str, str]
    """Checkpoints that stand in for trained edges: edge name (task.architecture.s0) to file."""
    statistics: Statistics
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    normalize: dict[str, Normalization]
    """Normalisations by name; ``reset`` sets the statistics of untrained networks, too."""
    merges: dict[Name, MergeSeries]
    """Series of merges by name; edge models are trained as they need them."""
    pruning: dict[Name, Pruning] = {}
    """Series of pruned edge models by name; edge models are trained as they need them."""
    pruners: dict[str, Pruner] = {}
    """What methods of pruning look at, and their options, by method; defaults where none stand here."""
    narrowing: dict[Name, Narrowing] = {}
    """Series of narrowed edge models by name; edge models are trained as they need them."""
    narrowers: dict[str, Narrower] = {}
    """What methods of narrowing look at, and their options, by method; defaults where none stand here."""
    curve: Curve = Curve()
    landscape: Landscape = Landscape()
    diagnosis: Diagnosis = Diagnosis()
    evaluate: Evaluate
    similarity: Similarity
    report: Report
    regression: Regression = Regression()
    execution: Execution = Execution()
