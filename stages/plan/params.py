"""The schema of ``params.yaml``.

Everything that a person may set, with its type, its default and what is allowed. A misspelt key, a wrong type, an
unknown task or method or an impossible pair is one clear error before anything runs.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from stages.errors import InputError
from stages.formats import yaml12

__all__ = [
    "Compute",
    "MergeFamily",
    "Method",
    "Params",
    "ParamsError",
    "Task",
    "load_params",
    "parse_params",
    "read_params_file",
]

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _distinct(values: list[Any]) -> list[Any]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} stands twice")
    return values


Distinct = AfterValidator(_distinct)


class ParamsError(InputError):
    """``params.yaml`` is not valid; the message lists every fault with its key, what is allowed, and the fix."""


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
    """Share of the groups that is tested on, where there is no official split."""
    max_train: Count | None = None
    max_test: Count | None = None
    pretrain: str | None = None
    """Another task whose edge model is the start (finetune); none: trained from scratch."""
    flip: bool | None = None
    """Random mirroring in training; by default where the adapter says that it is safe."""


class Training(Section):
    """A training recipe; see mergeline.training.Recipe."""

    epochs: Count = 6
    batch_size: Count = 64
    learning_rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Fraction = 0.15
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[int, Field(ge=0)] = 2
    compile: bool = False


class Statistics(Section):
    """The images that activation moments are taken on, and the blocks that are kept."""

    images: Count = 1000
    """Images of each task of a pair."""
    batch_size: Count = 125
    blocks: Literal["cross", "full"] = "cross"
    """"full" adds the blocks within each model, which zip, cca and dual_zip need."""


class Normalization(BaseModel):
    """What a normalisation after merging looks at, and its own options (the fields of its options in mergeline)."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    images: Count = 1000
    """Training images of each task."""
    batch_size: Count = 125

    @property
    def options(self) -> dict[str, Any]:
        """The normalisation's own options."""
        return dict(self.model_extra or {})


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


class MergeFamily(Section):
    """A family of merges: which tasks, which depth pairs, which runs, with which methods."""

    tasks: Annotated[list[str | Annotated[list[str], Field(min_length=2)]], Field(min_length=1)]
    """Each entry one task (merged with itself) or a list of tasks (one model of each)."""
    both_directions: bool = False
    """Merge every task list also in reverse: the first is the reference and has the deeper model."""
    architectures: Annotated[list[str], Distinct, Field(min_length=1)] | None = None
    """All pairs of these are merged, the deeper first; by default of the benchmark's architectures."""
    homogeneous_only: bool = False
    runs: Literal["all", "neighbours"] = "all"
    """"all": every combination of different seeds; "neighbours": seeds that stand next to each other in the list."""
    seeds: Annotated[list[Seed], Distinct, Field(min_length=1)] | None = None
    methods: Annotated[list[str], Distinct, Field(min_length=1)] | None = None
    """Names from the section methods; by default all."""
    normalize: Annotated[list[str], Distinct, Field(min_length=1)] = ["reset"]
    stops: Annotated[list[str | None], Distinct, Field(min_length=1)] = [None]
    """Spaces after which each model keeps its own layers; null: all is merged."""
    models: Annotated[int, Field(ge=2)] | None = None
    """Number of models of one task that are merged at once; by default two."""
    weights: Annotated[list[Fraction], Field(min_length=2)] | None = None
    """Weight of each model; by default all the same."""
    controls: Annotated[list[Control], Distinct] = []


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
    targets: Targets
    imports: dict[str, str]
    """Checkpoints that stand in for trained edges: edge name (task.architecture.s0) to file."""
    statistics: Statistics
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    normalize: dict[str, Normalization]
    """Normalisations by name; ``reset`` sets the statistics of untrained networks, too."""
    merges: dict[Name, MergeFamily]
    """Families of merges by name; edge models are trained as they need them."""
    evaluate: Evaluate
    similarity: Similarity
    report: Report
    regression: Regression = Regression()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Params:
        from mergeline.architectures import ARCHITECTURES, Architecture
        from mergeline.encoder_names import describe_encoder
        from mergeline.matching import MATCHERS
        from mergeline.normalization import NORMALIZATIONS
        from mergeline.tasks import TASKS

        faults: list[str] = []

        def known(path: str, value: str, allowed: Iterable[str]) -> bool:
            names = list(allowed)
            if value in names:
                return True
            faults.append(f"{path}: unknown {value!r}{_suggestion(value, names)}; allowed: {', '.join(names)}")
            return False

        for index, architecture in enumerate(self.architectures):
            if known(f"architectures[{index}]", architecture, ARCHITECTURES):
                try:
                    Architecture(architecture, 1, self.model.width, self.model.input_size)
                except ValueError as error:
                    faults.append(f"architectures[{index}]: {error}")
        for name, task in self.tasks.items():
            known(f"tasks.{name}" + (".source" if task.source else ""), task.source or name, TASKS)
            if task.pretrain is not None and known(f"tasks.{name}.pretrain", task.pretrain, self.tasks):
                chain = [name]
                while (base := self.tasks[chain[-1]].pretrain) is not None and base in self.tasks:
                    if base in chain:
                        faults.append(f"tasks.{name}.pretrain: {' -> '.join([*chain, base])} is a circle")
                        break
                    chain.append(base)
        for name, method in self.methods.items():
            faults += _method_faults(name, method, MATCHERS, known, self.statistics.blocks)
        for name, options in self.normalize.items():
            if known(f"normalize.{name}", name, NORMALIZATIONS):
                faults += _option_faults(f"normalize.{name}", NORMALIZATIONS[name].options, options.options)
        if "reset" not in self.normalize:
            faults.append("normalize.reset: is missing; networks need it for their batch statistics")
        for name, family in self.merges.items():
            path = f"merges.{name}"
            for index, entry in enumerate(family.tasks):
                for task_name in [entry] if isinstance(entry, str) else entry:
                    known(f"{path}.tasks[{index}]", task_name, self.tasks)
                if isinstance(entry, list) and len(set(entry)) != len(entry):
                    faults.append(f"{path}.tasks[{index}]: a task stands twice; name it alone to merge it with itself")
                size = len(entry) if isinstance(entry, list) else family.models or 2
                if family.weights is not None and len(family.weights) != size:
                    faults.append(f"{path}.weights: {len(family.weights)} weights for {size} models of {entry}")
            if family.weights is not None and abs(sum(family.weights) - 1) > 1e-6:
                faults.append(f"{path}.weights: must sum to 1, sum to {sum(family.weights):g}")
            for index, architecture in enumerate(family.architectures or []):
                known(f"{path}.architectures[{index}]", architecture, ARCHITECTURES)
            for index, seed in enumerate(family.seeds or []):
                if seed not in self.seeds:
                    faults.append(f"{path}.seeds[{index}]: {seed} is not one of seeds: {self.seeds}")
            for index, method_name in enumerate(family.methods or []):
                known(f"{path}.methods[{index}]", method_name, self.methods)
            for index, normalization in enumerate(family.normalize):
                reads = known(f"{path}.normalize[{index}]", normalization, NORMALIZATIONS) and (
                    NORMALIZATIONS[normalization].reads_images
                )
                if reads and normalization not in self.normalize:
                    faults.append(
                        f"{path}.normalize[{index}]: {normalization} needs images; add normalize.{normalization}"
                    )
            faults += _depth_faults(path, family.architectures or self.architectures, family.homogeneous_only)
        if self.report.method is not None:
            known("report.method", self.report.method, self.methods)
        if self.report.simplicity_reference is not None:
            known("report.simplicity_reference", self.report.simplicity_reference, self.architectures)
        try:
            describe_encoder(self.similarity.encoder)
        except ValueError as error:
            faults.append(f"similarity.encoder: {error}")
        if not faults:
            faults += _cell_faults(self)
        if faults:
            raise ValueError("\n".join(faults))
        return self


def _method_faults(name: str, method: Method, matchers: Any, known: Any, blocks: str) -> list[str]:
    path = f"methods.{name}"
    if not known(f"{path}.use" if method.use else path, method.use or name, matchers):
        return []
    matcher = matchers[method.use or name]
    faults = []
    fields = {field.name: field for field in dataclasses.fields(matcher.options)}
    for place, values in (("options", method.options or {}), ("grid", method.grid or {})):
        for key, value in values.items():
            if key not in fields:
                allowed = ", ".join(fields) or "none"
                faults.append(f"{path}.{place}.{key}: unknown option{_suggestion(key, fields)}; allowed: {allowed}")
                continue
            for entry in value if place == "grid" else [value]:
                try:
                    matcher.options(**{key: entry})
                except (TypeError, ValueError) as error:
                    faults.append(f"{path}.{place}.{key}: {error}")
    if method.grid is not None and method.options is None:
        faults.append(f"{path}.options: a grid needs options beside it, even if empty: options: {{}}")
    if matcher.moments == "full" and blocks != "full":
        faults.append(f"{path}: {matcher.name} needs the blocks within each model; set statistics.blocks: full")
    return faults


def _option_faults(path: str, kind: type, values: dict[str, Any]) -> list[str]:
    """Options that a registered thing does not have or does not take."""
    fields = {field.name for field in dataclasses.fields(kind)} | set(Normalization.model_fields)
    faults = []
    for key, value in values.items():
        if key not in fields:
            faults.append(f"{path}.{key}: unknown key{_suggestion(key, fields)}; allowed: {', '.join(sorted(fields))}")
            continue
        try:
            kind(**{key: value})
        except (TypeError, ValueError) as error:
            faults.append(f"{path}.{key}: {error}")
    return faults


def _depth_faults(path: str, architectures: list[str], homogeneous_only: bool) -> list[str]:
    from mergeline.architectures import ARCHITECTURES, deepest

    if homogeneous_only or any(name not in ARCHITECTURES for name in architectures):
        return []
    faults = []
    for index, first in enumerate(architectures):
        for second in architectures[index + 1 :]:
            try:
                deepest([first, second])
            except ValueError as error:
                faults.append(f"{path}.architectures: {error}; set homogeneous_only: true to merge only equals")
    return faults


def _cell_faults(params: Params) -> list[str]:
    """Faults that only show once cells are made: too few seeds, imports of edges that nothing uses."""
    from stages.plan.cells import expand_cells

    faults = []
    for name, family in params.merges.items():
        if not expand_cells(params, {name: family}):
            faults.append(
                f"merges.{name}: makes no merge at all; models of one task need two seeds at least "
                f"(seeds: {family.seeds or params.seeds})"
            )
    used = {str(edge) for cell in expand_cells(params, params.merges) for edge in cell.edges}
    for edge in params.imports:
        if edge not in used:
            hint = _suggestion(edge, used)
            faults.append(f"imports.{edge}: no merge uses this edge{hint}; edges are named task.architecture.s0")
    return faults


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_params_file(path: Path) -> Any:
    """The plain values of a params file.

    Raises
    ------
    ParamsError: missing, or not YAML.
    """
    try:
        values = yaml12.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing. Copy a profile: cp profiles/demo.yaml {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from error
    except yaml12.YamlError as error:
        raise ParamsError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    return values


def parse_params(values: Any, origin: str = "params.yaml") -> Params:
    """Check plain values against the schema.

    Raises
    ------
    ParamsError: every fault, one a line, with the key's path.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [line for fault in error.errors() for line in _fault_lines(fault, values)]
        raise ParamsError("\n".join(f"{origin}: {line}" for line in dict.fromkeys(lines))) from None


def load_params(path: Path) -> Params:
    """Read and check a params file."""
    return parse_params(read_params_file(path), path.name)


def _fault_lines(fault: Any, values: Any) -> list[str]:
    location = [part for part in fault["loc"] if not _is_union_tag(part)]
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    message, kind = fault["msg"], fault["type"]
    if kind == "value_error" and not location:
        return message.removeprefix("Value error, ").split("\n")
    if kind == "extra_forbidden":
        allowed = sorted(_fields_at(location[:-1]))
        return [f"{path}: unknown key{_suggestion(str(location[-1]), allowed)}; allowed: {', '.join(allowed)}"]
    if kind == "missing":
        return [f"{path}: is missing"]
    given = fault.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool | None) else ""
    return [f"{path}: {message.removeprefix('Value error, ')}{shown}"]


def _is_union_tag(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "list"))


def _fields_at(location: list[Any]) -> list[str]:
    """The keys that the section at a path may have."""
    section: type[BaseModel] | None = Params
    inside_mapping = False
    for part in location:
        if inside_mapping:  # a name that the user chose, in tasks, methods or merges
            inside_mapping = False
        elif section is not None and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            inside_mapping = getattr(annotation, "__origin__", None) is dict
            section = _inner_section(annotation)
    return list(section.model_fields) if section is not None else []


def _inner_section(annotation: Any) -> type[BaseModel] | None:
    """The section class inside a field's type (behind dict, Optional and Annotated)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_section(argument) for argument in getattr(annotation, "__args__", ()))
    return next((section for section in inner if section is not None), None)
