"""params.yaml: a mistake is one clear line with the key, what is allowed, and what was probably meant."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mergeline.matching import MATCHERS
from mergeline.tasks import TASKS
from stages.formats import yaml12
from stages.formats.yaml12 import YamlError
from stages.plan.loading import ParamsError, load_params, parse_params, read_params_file
from stages.plan.params import Params
from tests.conftest import bench_values

ROOT = Path(__file__).resolve().parent.parent
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
MISSING = object()


def changed(path: Sequence[Any], value: Any) -> dict[str, Any]:
    """The small benchmark with one value put at ``path``, or taken away."""
    values = copy.deepcopy(bench_values())
    *parents, last = path
    place: Any = values
    for key in parents:
        place = place[key]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return values


def faults(values: Any) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        parse_params(values)
    return str(caught.value).split("\n")


# -- what is valid --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PROFILES], ids=lambda path: path.name)
def test_every_profile_is_valid(path: Path) -> None:
    params = load_params(path)
    assert params.merges
    assert params.tasks


def test_there_are_profiles() -> None:
    assert "demo.yaml" in {path.name for path in PROFILES}


def test_the_small_benchmark_is_valid_and_gets_defaults() -> None:
    params = parse_params(bench_values())
    assert params.train.momentum == 0.9
    assert params.evaluate.calibration_bins == 15
    assert params.tasks["bars"].test_fraction == 0.25
    assert params.merges["pairs"].normalize == ["reset"]


def test_params_cannot_be_changed_afterwards() -> None:
    params = parse_params(bench_values())
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 3


def test_an_integer_is_a_number_where_a_number_is_wanted() -> None:
    assert parse_params(changed(["train", "learning_rate"], 1)).train.learning_rate == 1.0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["methods"], {"permute": {}, "aligned": {"use": "permute"}}),
        (["methods"], {"zip": {"options": {"alpha": 0.5}, "grid": {"beta": [0, 0.25]}}}),
        (["merges", "same", "stops"], ["layer2.0", None]),
        (["merges", "same", "weights"], [0.3, 0.7]),
        (["merges", "same", "normalize"], ["reset", "none"]),
        (["merges", "same", "preserves"], [None, 3, 0.25]),
        (["merges", "same", "measures"], ["diagnosis"]),
        (["merges", "pairs", "measures"], ["diagnosis"]),
        (["merges", "same", "sweep"], {"learning_rate": [1, 0.5], "initialization": ["kaiming_normal"]}),
        (["merges", "same", "sweep"], {"optimizer": ["sgd", "adamw"], "momentum": [0.5]}),
        (["recipes"], {"r29": {"learning_rate": 0.5}, "r17": {"optimizer": "adamw"}}),
        (["imports"], {"bars.r17.s0": "mine/model.pth"}),
        (["tasks", "bars", "classes"], [3, 1]),
    ],
)
def test_what_may_be_set_is_accepted(path: list[str], value: Any) -> None:
    values = changed(path, value)
    if path == ["methods"]:
        values["statistics"] = {"moments": "full"}
        for family in values["merges"].values():
            family.pop("methods", None)
    assert isinstance(parse_params(values), Params)


# -- one clear line for one mistake ---------------------------------------------------------------------------------

PRUNING = {"tasks": ["bars"], "methods": ["magnitude"], "sparsities": [0.5]}
NARROWING = {"tasks": ["bars"], "methods": ["zip"], "widths": [0.5]}
CASES: list[tuple[list[Any], Any, str]] = [
    # what merges keep, and normalisations that do nothing
    (["merges", "same", "preserves"], [0], "merges.same.preserves[0]: must be a whole number of layers"),
    (["merges", "same", "preserves"], [1.5], "merges.same.preserves[0]: must be a whole number of layers"),
    (["merges", "same", "normalize"], ["repair"], "merges.same.normalize[0]: repair needs images; add normalize.repair"),
    (["merges", "same", "architectures"], ["vgg11"], "merges.same.normalize[0]: reset would do nothing to vgg11, which"),
    # pruning
    (["pruning"], {"p": PRUNING | {"tasks": ["bar"]}}, "pruning.p.tasks[0]: unknown 'bar' (did you mean 'bars'?); allowed: bars"),
    (["pruning"], {"p": PRUNING | {"architectures": ["r16"]}}, "pruning.p.architectures[0]: unknown 'r16' (did you mean 'r"),
    (["pruning"], {"p": PRUNING | {"seeds": [4]}}, "pruning.p.seeds[0]: 4 is not one of seeds: [0, 1]"),
    (["pruning"], {"p": PRUNING | {"methods": ["wonda"]}}, "pruning.p.methods[0]: unknown 'wonda' (did you mean 'wanda'?)"),
    (["pruning"], {"p": PRUNING | {"sparsities": [0.5, 1.0]}}, "pruning.p.sparsities[1]: Input should be less than 1, got 1.0"),
    (["pruning"], {"p": PRUNING | {"sparsities": [-0.1]}}, "pruning.p.sparsities[0]: Input should be greater than or equal"),
    (["pruning"], {"p": PRUNING | {"sparsities": [0, 0.0]}}, "pruning.p.sparsities: 0.0 stands twice"),
    (["pruning"], {"p": PRUNING | {"sparsity": [0.5]}}, "pruning.p.sparsity: unknown key (did you mean 'sparsities'?)"),
    (["pruning"], {"p": PRUNING | {"normalize": ["repair"]}}, "pruning.p.normalize[0]: repair needs images; add normalize.repair"),
    (["pruning"], {"p": PRUNING | {"normalize": ["bias_removal"]}}, "pruning.p.normalize[0]: unknown 'bias_removal'; allowed: no"),
    (["pruning"], {"p": PRUNING | {"normalize": ["reset"], "architectures": ["vgg11"]}},
     "pruning.p.normalize[0]: reset would do nothing to vgg11, which has no batch norms"),
    # narrowing
    (["narrowing"], {"n": NARROWING | {"methods": ["transport"]}}, "narrowing.n.methods[0]: unknown 'transport'; allowed: zip"),
    (["narrowing"], {"n": NARROWING | {"methods": ["zap"]}}, "narrowing.n.methods[0]: unknown 'zap' (did you mean 'zip'?)"),
    (["narrowing"], {"n": NARROWING | {"widths": [0.5, 0]}}, "narrowing.n.widths[1]: Input should be greater than 0, got 0"),
    (["narrowing"], {"n": NARROWING | {"widths": [1.5]}}, "narrowing.n.widths[0]: Input should be less than or equal to 1"),
    (["narrowing"], {"n": NARROWING | {"widths": []}}, "narrowing.n.widths: Value should have at least 1 item"),
    (["narrowing"], {"n": NARROWING | {"width": [0.5]}}, "narrowing.n.width: unknown key (did you mean 'widths'?)"),
    (["narrowing"], {"n": NARROWING | {"normalize": ["repair"]}}, "narrowing.n.normalize[0]: repair needs images; add norm"),
    (["narrowing"], {"n": NARROWING | {"tasks": ["bar"]}}, "narrowing.n.tasks[0]: unknown 'bar' (did you mean 'bars'?)"),
    (["narrowing"], {"n": NARROWING | {"architectures": ["vgg11-ln"]}},
     "narrowing.n.architectures: vgg11-ln cannot be narrowed: its layer norm compares units with each other"),
    (["narrowers"], {"zap": {}}, "narrowers.zap: unknown 'zap' (did you mean 'zip'?); allowed: zip, largest, random"),
    (["narrowers"], {"zip": {"alpha": 2.0}}, "narrowers.zip.alpha: alpha must be above 0 and at most 1, got 2.0"),
    (["narrowers"], {"largest": {"alpha": 1.0}}, "narrowers.largest.alpha: unknown key; allowed: batch_size, images"),
    (["pruners"], {"magic": {}}, "pruners.magic: unknown 'magic'; allowed: magnitude, magnitude_layer, fisher"),
    (["pruners"], {"wanda": {"sample": 3}}, "pruners.wanda.sample: unknown key (did you mean 'samples'?); allowed: batch_size, im"),
    (["pruners"], {"wanda": {"samples": 0}}, "pruners.wanda.samples: samples must be an integer from 1 on; got 0"),
    # recipes of architectures
    (["recipes"], {"r18": {}}, "recipes.r18: unknown 'r18' (did you mean 'r17'?); allowed: r17, r26"),
    (["recipes"], {"vit8": {}}, "recipes.vit8: no merge or pruning trains vit8; they train: r17, r29"),
    (["recipes"], {"r17": {"epoch": 3}}, "recipes.r17.epoch: unknown key (did you mean 'epochs'?); allowed: batch_size, compile"),
    (["recipes"], {"r17": {"epochs": 0}}, "recipes.r17.epochs: Input should be greater than or equal to 1, got 0"),
    (["recipes"], {"r17": {"optimizer": "adam"}}, "recipes.r17.optimizer: Input should be 'sgd' or 'adamw', got 'adam'"),
    (["recipes"], {"r17": {"optimizer": "adamw", "momentum": 0.5}}, "recipes.r17.momentum: would do nothing to r17: adamw, which"),
    (["train", "optimizer"], "adam", "train.optimizer: Input should be 'sgd' or 'adamw', got 'adam'"),
    (["merges", "same", "sweep"], {"optimizer": ["adamw", "adam"]}, "merges.same.sweep.optimizer[1]: Input should be 'sgd' or"),
    # sweeps
    (["merges", "same", "sweep"], {"learning_rat": [1]}, "merges.same.sweep.learning_rat: unknown setting (did you mean 'learn"),
    (["merges", "same", "sweep"], {"learning_rate": [0.1, 0]}, "merges.same.sweep.learning_rate[1]: Input should be greater"),
    (["merges", "same", "sweep"], {"epochs": ["many"]}, "merges.same.sweep.epochs[0]: Input should be a valid integer"),
    (["merges", "same", "sweep"], {"epochs": []}, "merges.same.sweep.epochs: Value should have at least 1 item"),
    (["merges", "same", "sweep"], {"initialization": ["he"]}, "merges.same.sweep.initialization[0]: unknown 'he'; allowed: kaim"),
    (["merges", "pairs", "sweep"], {"initialization": ["kaiming_normal"]}, "merges.pairs.sweep.initialization: late is finetuned"),
    # what measures cannot be taken of
    (["merges", "pairs", "measures"], ["curve"], "merges.pairs.measures[0]: a curve lies between two models"),
    (["merges", "pairs", "measures"], ["diagnose"], "merges.pairs.measures[0]: "),
    (["diagnosis"], {"images": 3}, "diagnosis.images: "),
    # widths that nothing can merge
    (["merges", "same", "architectures"], ["r17x2", "r17"], "merges.same.methods: none of identity, permute merges r17x2 and r17, "
     "which differ in width; zip and transport do, or set merges.same.homogeneous_only: true"),
    (["architectures"], ["r17", "r17x3"], "architectures[1]: unknown 'r17x3' (did you mean 'r17x"),
    (["merges", "same", "architectures"], ["vgg11", "vgg11x2-bn"], "merges.same.architectures: none of vgg11, vgg11x2-bn can hold"),
    (["merges", "same", "architectures"], ["vgg11-ln", "vgg16-ln"], "merges.same.architectures: none of vgg11-ln, vgg16-ln can"),
    # networks, tasks and the encoder read the same
    (["tasks", "bars"], {"source": "tweets"}, "tasks.dots: are images with classes, and those of bars are texts with classes"),
    (["similarity", "encoder"], "minilm", "similarity.encoder: the samples of bars are images, which minilm does not read; set "),
    (["pretrained"], {"r71": "x"}, "pretrained.r71: unknown 'r71' (did you mean 'r17'?); allowed: r17, r26"),
    (["pretrained"], {"vgg11": "x"}, "pretrained.vgg11: nothing is made of vgg11; there are: r17, r29"),
    # unknown and misspelt keys
    (["nonsense"], 1, "nonsense: unknown key; allowed: architectures, compute, "),
    (["seedz"], 1, "seedz: unknown key (did you mean 'seed"),
    (["train", "epoch"], 3, "train.epoch: unknown key (did you mean 'epochs'?); allowed: batch_size, compile, epochs"),
    (["tasks", "bars", "max_trian"], 3, "tasks.bars.max_trian: unknown key (did you mean 'max_train'?); allowed: classes"),
    (["merges", "same", "runz"], "all", "merges.same.runz: unknown key (did you mean 'runs'?)"),
    (["methods", "permute", "optons"], {}, "methods.permute.optons: unknown key (did you mean 'options'?); allowed: grid"),
    (["normalize", "reset", "image"], 3, "normalize.reset.image: unknown key (did you mean 'images'?)"),
    (["compute", "treads"], 1, "compute.treads: unknown key (did you mean 'threads'?); allowed: device, threads"),
    # missing keys
    (["seed"], MISSING, "seed: is missing"),
    (["model", "width"], MISSING, "model.width: is missing"),
    (["merges", "same", "tasks"], MISSING, "merges.same.tasks: is missing"),
    # wrong types
    (["seed"], "a", "seed: Input should be a valid integer, got 'a'"),
    (["seed"], 1.0, "seed: Input should be a valid integer, got 1.0"),
    (["seed"], True, "seed: Input should be a valid integer, got True"),
    (["seed"], None, "seed: Input should be a valid integer, got None"),
    (["train", "compile"], 1, "train.compile: Input should be a valid boolean, got 1"),
    (["train", "compile"], "on", "train.compile: Input should be a valid boolean, got 'on'"),
    (["train", "learning_rate"], "fast", "train.learning_rate: Input should be a valid number, got 'fast'"),
    (["architectures"], "r17", "architectures: Input should be a valid list, got 'r17'"),
    (["tasks", "bars"], None, "tasks.bars: Input should be a valid dictionary"),
    (["train"], [], "train: Input should be a valid dictionary"),
    # numbers that are none, and out of range
    (["train", "learning_rate"], float("nan"), "train.learning_rate: Input should be a finite number, got nan"),
    (["train", "learning_rate"], float("inf"), "train.learning_rate: Input should be a finite number, got inf"),
    (["train", "learning_rate"], 0, "train.learning_rate: Input should be greater than 0, got 0"),
    (["seed"], 2**31, "seed: Input should be less than 2147483648, got 2147483648"),
    (["seeds"], [0, -1], "seeds[1]: Input should be greater than or equal to 0, got -1"),
    (["model", "input_size"], 48, "model.input_size: Input should be 32, 64 or 224, got 48"),
    (["compute", "device"], "gpu", "compute.device: Input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    (["tasks", "bars", "test_fraction"], 1.0, "tasks.bars.test_fraction: Input should be less than 1, got 1.0"),
    (["execution"], {"retries": 9}, "execution.retries: Input should be less than or equal to 5, got 9"),
    # lists
    (["seeds"], [], "seeds: Value should have at least 1 item"),
    (["seeds"], [0, 1, 0], "seeds: 0 stands twice"),
    (["architectures"], ["r17", "r17"], "architectures: 'r17' stands twice"),
    (["tasks"], {}, "tasks: Dictionary should have at least 1 item"),
    (["methods"], {}, "methods: Dictionary should have at least 1 item"),
    (["merges", "same", "tasks"], [], "merges.same.tasks: List should have at least 1 item"),
    (["tasks", "bars", "classes"], [1, 1], "tasks.bars.classes: 1 stands twice"),
    (["tasks", "bars", "classes"], [1], "tasks.bars.classes: Value should have at least 2 items"),
    # names that are not known
    (["tasks", "nosuch"], {}, f"tasks.nosuch: unknown 'nosuch'; allowed: {', '.join(TASKS)}"),
    (["tasks", "bars", "source"], "foldr", "tasks.bars.source: unknown 'foldr' (did you mean 'folder'?); allowed: "),
    (["architectures"], ["r17", "r28"], "architectures[1]: unknown 'r28' (did you mean 'r29'?); allowed: r17, r26"),
    (["methods", "permut"], {}, "methods.permut: unknown 'permut' (did you mean 'permute'?); allowed: identity, permute"),
    (["methods", "mine"], {"use": "zipp"}, "methods.mine.use: unknown 'zipp' (did you mean 'zip'?); allowed: "),
    (["merges", "same", "tasks"], ["bar"], "merges.same.tasks[0]: unknown 'bar' (did you mean 'bars'?); allowed: bars"),
    (["merges", "pairs", "tasks"], [["bars", "dot"]], "merges.pairs.tasks[0]: unknown 'dot' (did you mean 'dots'?)"),
    (["merges", "pairs", "tasks"], [["bars", "bars"]], "merges.pairs.tasks[0]: a task stands twice; name it alone"),
    (["merges", "same", "architectures"], ["r99"], "merges.same.architectures[0]: unknown 'r99'"),
    (["merges", "same", "methods"], ["permut"], "merges.same.methods[0]: unknown 'permut' (did you mean 'permute'?)"),
    (["merges", "same", "normalize"], ["rest"], "merges.same.normalize[0]: unknown 'rest' (did you mean 'reset'?); allowed: none"),
    (["merges", "same", "controls"], ["selv"], "merges.same.controls[0]: Input should be 'self', 'random' or 'untrained'"),
    (["merges", "same", "runs"], "some", "merges.same.runs: Input should be 'all' or 'neighbours', got 'some'"),
    (["merges", "same", "seeds"], [7], "merges.same.seeds[0]: 7 is not one of seeds: [0, 1]"),
    (["similarity", "encoder"], "dinov7", "similarity.encoder: "),
    (["imports"], {"bars.r17.s9": "x.pth"}, "imports.bars.r17.s9: no merge, pruning or narrowing uses this edge (did you mean"),
    # names that would break files or stage names
    (["tasks", "a/b"], {"source": "folder"}, "tasks.a/b: String should match pattern"),
    (["tasks", "a@b"], {"source": "folder"}, "tasks.a@b: String should match pattern"),
    (["tasks", "a+b"], {"source": "folder"}, "tasks.a+b: String should match pattern"),
    (["methods", "a.b"], {"use": "permute"}, "methods.a.b: String should match pattern"),
    (["merges", "a b"], {"tasks": ["bars"]}, "merges.a b: String should match pattern"),
    # things that cannot go together
    (["tasks", "dots", "pretrain"], "dots", "tasks.dots.pretrain: dots -> dots is a circle"),
    (["tasks", "late", "pretrain"], "dot", "tasks.late.pretrain: unknown 'dot' (did you mean 'dots'?); allowed: bars"),
    (["methods", "permute"], {"options": {"alpha": 1}}, "methods.permute.options.alpha: unknown option; allowed: none"),
    (["methods", "zip"], {"options": {"alfa": 1}}, "methods.zip.options.alfa: unknown option (did you mean 'alpha'?); "),
    (["methods", "zip"], {"grid": {"alpha": [0.1]}}, "methods.zip.options: a grid needs options beside it, even if empty"),
    (["methods", "zip"], {"options": {}, "grid": {"alpha": []}}, "methods.zip.grid.alpha: Value should have at least 1 item"),
    (["methods", "zip"], {}, "methods.zip: zip needs the moments within each model; set statistics.moments: full"),
    (["merges", "same", "weights"], [0.5, 0.6], "merges.same.weights: must sum to 1, sum to 1.1"),
    (["merges", "same", "weights"], [0.5, 0.25, 0.25], "merges.same.weights: 3 weights for 2 models of bars"),
    (["merges", "same", "models"], 3, "merges.same: makes no merge at all; models of one task need two seeds at least"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), CASES, ids=[case[2].split(": ")[0] for case in CASES])
def test_a_mistake_is_one_line_with_its_key(path: list[Any], value: Any, message: str) -> None:
    lines = faults(changed(path, value))
    own = [line for line in lines if line.startswith(f"params.yaml: {message}")]
    assert len(own) == 1, lines
    assert len(own[0]) < 450


def test_networks_read_what_the_tasks_are() -> None:
    found = faults(changed(["architectures"], ["r17", "bert3"]))
    assert any(
        "architectures: bert3 is for texts with classes, and the samples of bars are images with classes; allowed: r17, "
        in line
        for line in found
    )
    assert not any("allowed: " in line and "bert6" in line for line in found)


def test_a_mistake_makes_no_other_lines() -> None:
    several = ["zip", "dots", "imports", "same"]
    for path, value, message in CASES:
        if not any(word in message for word in several):
            assert len(faults(changed(path, value))) == 1, message


def test_two_widths_have_no_landscape() -> None:
    series = {"tasks": ["bars"], "architectures": ["r17", "r17x2"], "measures": ["curve", "landscape"]}
    values = bench_values(methods={"permute": {}, "transport": {}}, merges={"widths": series})
    assert faults(values) == [
        "params.yaml: merges.widths.measures[1]: no plane lies through networks of different widths (r17x2 and r17); put landscape "
        "into a series without"
    ]


def test_two_widths_are_fine_where_one_method_merges_them_or_nothing_does() -> None:
    series = {"tasks": ["bars"], "architectures": ["r17", "r17x2"]}
    both = bench_values(methods={"permute": {}, "transport": {}}, merges={"widths": series})
    apart = bench_values(merges={"widths": series | {"homogeneous_only": True}})
    three = bench_values(seeds=[0, 1, 2], merges={"widths": series | {"models": 3}})
    for values in (both, apart, three):
        assert isinstance(parse_params(values), Params)


def test_a_momentum_is_not_swept_over_models_that_are_trained_without_one() -> None:
    series = {"tasks": ["bars"], "architectures": ["vit4"], "normalize": ["none"], "sweep": {"momentum": [0.5]}}
    assert faults(bench_values(merges={"vit": series})) == [
        "params.yaml: merges.vit.sweep.momentum: would do nothing to vit4: adamw, which trains it, has no momentum"
    ]


def test_a_longer_circle_of_pretraining_is_shown() -> None:
    values = changed(["tasks", "dots", "pretrain"], "late")
    assert "params.yaml: tasks.dots.pretrain: dots -> late -> dots is a circle" in faults(values)


def test_one_seed_makes_no_merge_of_equal_models() -> None:
    values = bench_values(seeds=[0], merges={"one": {"tasks": ["bars"], "homogeneous_only": True}})
    assert faults(values) == [
        "params.yaml: merges.one: makes no merge at all; models of one task need two seeds at least (seeds: [0])"
    ]


def test_every_fault_has_its_own_line() -> None:
    values = changed(["seed"], "x")
    values["train"]["epochs"] = 0
    values["nonsense"] = 1
    assert [line.split(": ")[1] for line in faults(values)] == ["seed", "train.epochs", "nonsense"]


def test_every_matcher_may_be_used_with_its_defaults() -> None:
    values = bench_values(methods={name: {} for name in MATCHERS}, statistics={"moments": "full"})
    assert set(parse_params(values).methods) == set(MATCHERS)


# -- the file -------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0\nseed: 1\n", r"line 2: the key 'seed' already stands in line 1"),
        ("tasks:\n  digits: {}\n  digits: {}\n", r"line 3: the key 'digits' already stands in line 2"),
        ("seed: [1, 2\n", r"line 2, column 1: did not find expected"),
        ("a: b: c\n", r"line 1, column 5: mapping values are not allowed"),
        ("\tseed: 0\n", r"line 1, column 1: found character that cannot start any token"),
        ("? [a, b]\n: 1\n", r"line 1: a key must be a word or a number"),
        ("seed: !!python/object/apply:os.getcwd []\n", r"could not determine a constructor"),
        ("- 1\n- 2\n", r"expected keys and values at the top, found list"),
        ("", r"expected keys and values at the top, found NoneType"),
    ],
)
def test_a_file_that_is_no_params_says_where(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ParamsError, match=rf"{path}: .*{message}"):
        read_params_file(path)


def test_a_missing_file_names_a_profile_to_copy(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml is missing\. Make it a profile: mergeline run --profile demo"):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_is_not_text_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ParamsError, match="cannot be read"):
        read_params_file(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2", -2),
        ("010", 10),
        ("08", 8),
        ("on", "on"),
        ("off", "off"),
        ("no", "no"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("'1'", "1"),
    ],
)
def test_a_value_is_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = yaml12.load(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_the_values_are_those_that_dvc_reads() -> None:
    from dvc.utils.serialize import parse_yaml

    text = "a: 1e-3\nb: 010\nc: on\nd: no\ne: .5\nf: 12:30\ng: ~\nh: [1, 2.0, x]\ni: true\nj: 2024-01-01x\nk: -1e+2\n"
    assert yaml12.load(text) == dict(parse_yaml(text, "params.yaml"))


def test_a_merged_mapping_may_be_overridden() -> None:
    text = "base: &base {epochs: 1, shift: 2}\ntrain:\n  <<: *base\n  epochs: 3\n"
    assert yaml12.load(text)["train"] == {"epochs": 3, "shift": 2}
    with pytest.raises(YamlError, match="line 2: the key 'a' already"):
        yaml12.load("a: {<<: {b: 1}}\na: 2")


def test_blocks_need_images_enough_to_be_compared_on() -> None:
    values = bench_values(statistics={"images": 3, "batch_size": 3})
    assert parse_params(values).statistics.images == 3
    values["merges"]["depth"]["placements"] = ["append", "lma"]
    with pytest.raises(
        ParamsError, match=r"placements: lma compares blocks on 4 images at least; statistics\.images is 3"
    ):
        parse_params(values)


@pytest.mark.parametrize(
    ("method", "words"), [({"use": "transport", "options": {"regularization": 0.01}}, "soft"), ({"use": "cca"}, "soft")]
)
def test_methods_that_mix_units_are_refused_where_norms_compare_them(method: dict[str, Any], words: str) -> None:
    params = changed(["architectures"], ["vit4"])
    params["methods"] = {words: method}
    params["statistics"]["moments"] = "full"
    params["report"] = {}
    params["seeds"] = [0, 1]
    for series in params["merges"].values():
        series.pop("methods", None)
        series.pop("seeds", None)
        series["normalize"] = ["none"]
    lines = faults(params)
    assert any(
        f"{words} mixes units, which the layer norms of vit4 compare with each other" in line for line in lines
    ), lines


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ["methods", "zip"],
            {"options": {"compatible": "no; touch x #"}},
            "compatible is 'no; touch x #', and takes true or false",
        ),
        (["methods", "zip"], {"options": {"alpha": "0.5"}}, "alpha is '0.5', and takes a number"),
        (["methods", "zip"], {"options": {"beta": True}}, "beta is True, and takes a number"),
        (
            ["methods", "dual_permute"],
            {"options": {"balance": "gird"}},
            "balance is 'gird', and takes a number or 'grid'",
        ),
        (["methods", "weight"], {"options": {"restarts": 1.5}}, "restarts is 1.5, and takes a whole number"),
        (["methods", "x; touch y"], {"use": "permute"}, "should match pattern"),
        (["methods", "$(touch y)"], {"use": "permute"}, "should match pattern"),
    ],
)
def test_nothing_but_names_and_numbers_comes_into_commands(path: list[str], value: Any, words: str) -> None:
    params = changed(path, value)
    params["statistics"]["moments"] = "full"
    for series in params["merges"].values():
        series.pop("methods", None)
    lines = faults(params)
    assert any(words in line for line in lines), lines


@pytest.mark.parametrize("stop", ["layer1; touch x", "a b", "`x`", "${x}"])
def test_a_stop_is_a_name_too(stop: str) -> None:
    params = changed(["merges", next(iter(bench_values()["merges"])), "stops"], [stop])
    assert any("cannot be a cell's name" in line for line in faults(params))
