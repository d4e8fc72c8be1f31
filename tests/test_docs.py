"""The documentation is true: its commands and Python run, its parameters are valid, its links lead somewhere, its site is built."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from flows.cli import app
from flows.editing import apply_settings, profile_path
from mergeline.architectures import ARCHITECTURES, Architecture, build
from mergeline.matching import MATCHERS
from mergeline.tasks import TASKS
from stages.formats import yaml12
from stages.plan import paths
from stages.plan.loading import load_params, parse_params
from stages.plan.params import Params
from stages.plan.pipelines import make_plan
from tests.browser import CHROMIUM, chromium
from tests.documents import (
    PAGES,
    ROOT,
    Block,
    Command,
    anchors,
    blocks,
    commands,
    constants,
    inline_commands,
    links,
    parsed,
)
from tests.pipeline.conftest import MICRO

RUN_BENCHMARKS = (
    "docs/tutorial.md",
    "docs/howto/share_the_cache.md",
    "docs/howto/publish_a_result.md",
    "docs/howto/schedule.md",
)
"""Pages whose benchmarks are run, with small parameters in place of theirs. On all others ``mergeline run`` is a dry run."""
ONE_SESSION = (*RUN_BENCHMARKS, "docs/howto/own_images.md")
"""Pages whose blocks go on in the folder where the one before ended; those of others begin in the same folder each."""
PARSED = {
    "serve": "does not end; tests/pipeline/test_prefect.py starts it",
    "refresh": "takes a whole run; docs/howto/schedule.md does it",
}
"""Commands of mergeline that are parsed, options and all, and started on pages of benchmarks alone, or nowhere."""
EXCEPTIONS = {
    ("docs/orchestration.md", "prefect work-pool create --type process local"): "needs a Prefect server",
    ("docs/orchestration.md", "prefect deploy --all"): "needs a Prefect server",
    ("docs/orchestration.md", "prefect worker start --pool local"): "does not end",
    ("docs/orchestration.md", "git push"): "there is nowhere to push to",
}
"""What is not run, and why."""
LANGUAGES = {"sh", "console", "python", "yaml", "toml", "text"}
DIRECT = {
    "init", "status", "check", "plan", "verify", "doctor", "prune", "report", "papers", "merge", "show", "diagnose",
    "tasks", "methods", "normalizations", "placements",
}  # fmt: skip
"""Commands that are run as they stand."""
TINY = 0.0625


# -- a workspace --------------------------------------------------------------------------------------------------------------


def images(folder: Path, classes: Sequence[str], each: int = 8, side: int = 32) -> None:
    """Small pictures, a folder for each class."""
    rng = np.random.default_rng(len(classes))
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
            pixels[8 * label : 8 * label + 8] += np.uint8(150)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


def checkpoint(path: Path, name: str, classes: int, seed: int) -> None:
    """A small network as a trainer saves it, in the form that the file's ending says."""
    state = build(Architecture(name, classes, TINY, 224), seed).state_dict()
    wrapped = {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(wrapped if path.suffix == ".ckpt" else state, path)


def mergeline(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(list(words))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: a benchmark, images, checkpoints."""
    root = tmp_path_factory.mktemp("docs") / "here"
    before = Path.cwd()
    os.chdir(root.parent)
    try:
        assert mergeline("init", "here") == 0
        small_benchmark(root)
        os.chdir(root)
        assert mergeline("plan") == 0
    finally:
        os.chdir(before)
    images(root / "data" / "birds", ("robin", "wren", "tit"))
    images(root / "data" / "cars", ("van", "bus"))
    for seed, (file, name, classes) in enumerate(
        (
            ("a.pth", "r17", 3), ("b.pth", "r17", 3), ("b.ckpt", "r17", 3), ("birds.pth", "r17", 3), ("cars.pth", "r17", 2),
            ("r50.pth", "r50", 3),
        )
    ):  # fmt: skip
        checkpoint(root / file, name, classes, seed)
    return root


def of_different_depth(root: Path) -> None:
    """README speaks of an r50 and an r101."""
    checkpoint(root / "a.pth", "r50", 3, 0)
    for file in ("b.pth", "b.ckpt"):
        checkpoint(root / file, "r101", 3, 1)


def of_torchvision(root: Path) -> None:
    from torchvision.models import resnet18

    for name in ("resnet_a", "resnet_b"):
        torch.save(resnet18(num_classes=3).state_dict(), root / f"{name}.pth")


def small_benchmark(root: Path) -> None:
    """A benchmark of seconds, in place of one of minutes that ``init`` made; of its tasks, where these are folders."""
    values = yaml.safe_load((root / paths.PARAMS).read_text())
    small = yaml.safe_load(MICRO)
    if any(task.get("source") == "folder" for task in values["tasks"].values()):
        small |= {
            "tasks": values["tasks"],
            "merges": {"same": {"tasks": [*values["tasks"]]}},
            "imports": values["imports"],
        }
        small |= {"architectures": values["architectures"][:1], "model": values["model"]}
    (root / paths.PARAMS).write_text(yaml.safe_dump(small))


BEFORE: Mapping[str, Callable[[Path], None]] = {
    "README.md": of_different_depth,
    "docs/howto/load_a_merged_file.md": of_torchvision,
}


# -- commands -----------------------------------------------------------------------------------------------------------------


@dataclass
class Shell:
    """Where a page's commands run. ``whole``: benchmarks are run; ``installed``: folders of packages; ``skipped``: the exceptions
    that were met; ``dry``: the dry runs that were made."""

    page: str
    here: Path
    scratch: Path
    whole: bool = False
    installed: list[str] = field(default_factory=list)
    skipped: list[Command] = field(default_factory=list)
    dry: set[tuple[Any, ...]] = field(default_factory=set)

    def do(self, command: Command) -> None:
        words = command.words
        if (self.page, str(command)) in EXCEPTIONS:
            self.skipped.append(command)
        elif words[0] == "mergeline":
            code = self._mergeline(words)
            assert code == (2 if command.fails else 0), f"{self.page}: {command} ended with {code}"
        elif words[0] == "cd":
            self.here = (self.here / words[1]).resolve()
            assert self.here.is_dir(), command
        elif words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "export":  # of Prefect's settings, those that mergeline uses itself
            used = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "flows" / "mirror").glob("*.py"))
            assert all(word.partition("=")[0] in used for word in words[1:]), command
        elif words == (".", ".venv/bin/activate"):
            assert "BIN := .venv/bin\n" in (ROOT / "Makefile").read_text()
        elif words[:2] == ("pip", "install"):
            self._install(words)
        else:
            assert words[0] in ("git", "dvc"), f"{self.page}: nothing is known of {command}"
            self._process(words)

    def _mergeline(self, words: tuple[str, ...]) -> int:
        if words[1].startswith("-"):
            return mergeline(*words[1:])
        given = parsed(words)
        if self.installed or (self.whole and words[1] in ("run", "refresh")):
            extra = ["--no-prefect"] if words[1] == "run" and "--dry" not in words else []
            return self._process([sys.executable, "-m", "flows.cli", *words[1:], *extra], check=False)
        if words[1] in PARSED:
            return 0
        os.chdir(self.here)
        if words[1] == "run":
            return self._dry(given)
        assert words[1] in DIRECT, f"say what {' '.join(words)} is"
        return mergeline(*words[1:])

    def _dry(self, given: Mapping[str, Any]) -> int:
        """What would run is said; parameters that a run would change first are changed and planned in a folder of their own."""
        if not given["profile"] and not given["settings"]:
            asked = (self.here, *(given["targets"] or []))
            code = 0 if asked in self.dry else mergeline("run", "--dry", *asked[1:])
            self.dry.add(asked)
            return code
        source = profile_path(self.here, given["profile"]) if given["profile"] else self.here / paths.PARAMS
        shutil.copyfile(source, self.scratch / paths.PARAMS)
        apply_settings(self.scratch, given["settings"] or [])
        assert make_plan(load_params(self.scratch / paths.PARAMS)).merges
        return 0

    def _install(self, words: Sequence[str]) -> None:
        """What pip leaves of a package of entry points, without pip: tests install nothing."""
        assert "--editable" in words
        package = tomllib.loads((self.here / "pyproject.toml").read_text())["project"]
        info = self.here / f"{package['name'].replace('-', '_')}-{package['version']}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {package['name']}\nVersion: {package['version']}\n"
        (info / "METADATA").write_text(metadata)
        entries = configparser.ConfigParser()
        entries.read_dict(package["entry-points"])
        with (info / "entry_points.txt").open("w") as stream:
            entries.write(stream)
        self.installed.append(str(self.here))

    def _process(self, words: Sequence[str], check: bool = True) -> int:
        bin_folder = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), *self.installed)),
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "GIT_EDITOR": "sh -c 'echo results > \"$0\"'",
            **{
                f"GIT_{who}_{what}": "somebody@example.org"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        }
        ended = subprocess.run(
            list(words), cwd=self.here, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert ended.returncode == 0 or not check, f"{' '.join(words)}: {ended.stdout}{ended.stderr}"
        if ended.returncode:
            print(ended.stdout, ended.stderr)
        return ended.returncode


# -- Python -------------------------------------------------------------------------------------------------------------------


def network(name: str, classes: int, seed: int) -> nn.Module:
    return build(Architecture(name, classes, TINY, 32), seed).eval()


def presets() -> dict[str, Any]:
    """What the pages take for granted: models and loaders."""
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 3, 32, 32, generator=generator), torch.arange(16) % 3) for _ in range(2)]
    return {
        "model_a": network("r17", 3, 0), "model_b": network("r17", 3, 1), "model": network("r17", 3, 2),
        "vgg_a": network("vgg11", 3, 0), "vgg_b": network("vgg11", 3, 1),
        "loader": batches, "loader_a": batches, "loader_b": batches[::-1], "images": batches[0][0],
    }  # fmt: skip


@pytest.fixture
def registries() -> Iterator[None]:
    """What pages add to registries is taken out again."""
    known: list[Any] = [MATCHERS, ARCHITECTURES, TASKS]
    before = [set(registry) for registry in known]
    yield
    for registry, names in zip(known, before, strict=True):
        for name in set(registry) - names:
            del registry[name]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, registries: None) -> types.ModuleType:
    """Where a page's Python runs, as one module. Networks that would be downloaded are small ones of the same relation."""
    import torchvision

    made = types.ModuleType("a_page_of_the_docs")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    vars(made).update(presets())
    monkeypatch.setattr(torchvision.models, "resnet50", lambda weights: network("r17", 3, 0))
    monkeypatch.setattr(torchvision.models, "wide_resnet50_2", lambda weights: network("r17x2", 3, 1))
    return made


# -- pages --------------------------------------------------------------------------------------------------------------------


def go_through(page: str, shell: Shell, module: types.ModuleType) -> None:
    """Do what a page says, in its order."""
    start = shell.here
    for block in blocks(page, "sh", "console", "python", "toml"):
        shell.here = shell.here if page in ONE_SESSION else start
        os.chdir(shell.here)
        if block.title:
            (shell.here / block.title).parent.mkdir(parents=True, exist_ok=True)
            (shell.here / block.title).write_text(block.text)
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), vars(module))
        elif block.language != "toml":
            for command in commands(block):
                shell.do(command)
                if command.words[:2] == ("mergeline", "init"):
                    small_benchmark(shell.here / command.words[2])
    expected = [text for name, text in EXCEPTIONS if name == page]
    assert [str(command) for command in shell.skipped] == expected, "an exception that the page has no more"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in RUN_BENCHMARKS and blocks(page, "sh", "console", "python")]
)
def test_what_a_page_says_runs(
    page: str, template: Path, tmp_path: Path, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "here"
    shutil.copytree(template, root, symlinks=True)
    if page in BEFORE:
        BEFORE[page](root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "scratch").mkdir()
    go_through(page, Shell(page, root, tmp_path / "scratch"), module)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_what_pages_about_whole_benchmarks_say_runs(
    tmp_path: Path, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tutorial from nothing; the others go on from what it made, each in a copy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    first, *others = RUN_BENCHMARKS
    shell = Shell(first, tmp_path, tmp_path / "scratch", whole=True)
    go_through(first, shell, module)
    assert (shell.here / paths.PAGE).is_file()
    for page in others:
        folder = tmp_path / Path(page).stem
        shutil.copytree(shell.here, folder / "first", symlinks=True, ignore=shutil.ignore_patterns("fresh.json"))
        own = Shell(page, folder / "first", tmp_path / "scratch", whole=True)
        go_through(page, own, module)
        if page.endswith("share_the_cache.md"):
            assert own.here == folder / "second"
            assert (own.here / paths.RESULTS).read_bytes() == (folder / "first" / paths.RESULTS).read_bytes()


def test_every_block_is_of_a_language_that_is_tested() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{block} is {block.language or 'of no language'}"


def test_every_exception_still_stands_on_its_page() -> None:
    for page, text in EXCEPTIONS:
        assert text in [str(command) for block in blocks(page, "sh", "console") for command in commands(block)]
    used = {command.words[1] for page in PAGES for block in blocks(page, "sh", "console") for command in commands(block)
            if command.words[0] == "mergeline"}  # fmt: skip
    assert set(PARSED) <= used


@pytest.mark.parametrize("page", [page for page in PAGES if inline_commands(page)])
def test_commands_in_the_text_are_commands(page: str) -> None:
    for command in inline_commands(page):
        if not re.search(r"\b[A-Z]{4,}\b|\.\.\.|--help|-h\b", str(command)) and len(command.words) > 2:
            if command.words[1] in ("merge", "diagnose") and "--data" not in command.words:
                continue  # the name of the command with an option
            parsed(command.words)
        elif command.words[1] != "COMMAND":
            assert command.words[1] in _names(), command


def _names() -> set[str]:
    import typer

    group: Any = typer.main.get_command(app)
    return set(group.commands)


# -- parameters ---------------------------------------------------------------------------------------------------------------

BASE = {
    "architectures": ["r26", "r50"],
    "seeds": [0, 1],
    "tasks": {
        "digits": {},
        "birds": {"source": "folder", "root": "data/birds"},
        "cars": {"source": "folder", "root": "data/cars"},
    },
    "merges": {"same": {"tasks": ["digits", "birds"], "normalize": ["none"]}},
    "methods": {"identity": {}, "permute": {}, "zip": {}, "transport": {}},
    "normalize": {"reset": {}, "repair": {}, "rescale": {}},
    "report": {},
}
"""What snippets of parameters stand in."""
AROUND: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("docs/data.md", "Texts"): {"tasks": {}, "merges": {"texts": {"tasks": ["tweets", "mine"], "normalize": ["none"]}}},
    ("docs/data.md", "Tasks that come in packages"): {
        "tasks": {}, "architectures": ["r17-seg"], "merges": {"maps": {"tasks": ["covermap"]}},
    },
    ("docs/methods.md", "How models are trained"): {
        "architectures": ["vit8", "vgg16-bn"],
        "merges": {"same": {"tasks": ["digits"], "normalize": ["none"], "homogeneous_only": True}},
    },
}  # fmt: skip
"""By page and section, what a snippet needs beside it that is not of the base."""


def with_snippet(base: Mapping[str, Any], snippet: Mapping[str, Any]) -> dict[str, Any]:
    """A whole params.yaml: series of merges are the snippet's own, of other sections what it does not have stays."""
    values = dict(base)
    for key, value in snippet.items():
        mapping = isinstance(value, dict) and isinstance(values.get(key), dict) and key != "merges"
        values[key] = {**values[key], **value} if mapping else value
    return values


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "yaml")], ids=str)
def test_parameters_are_valid(block: Block) -> None:
    snippet = yaml12.load(block.text)
    assert isinstance(snippet, dict)
    assert set(snippet) <= set(Params.model_fields), f"{block} has keys that params.yaml has not"
    base = yaml.safe_load((ROOT / "profiles" / "own.yaml").read_text()) | BASE
    around = AROUND.get((block.page, block.section), {})
    parse_params(with_snippet({**base, **around}, snippet), str(block))


# -- errors -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("docs/faq.md", "text"), ids=str)
def test_an_error_that_is_explained_is_one_that_is_said(block: Block) -> None:
    pieces = [piece.strip() for piece in re.split(r"<[^<>]*>", block.text.strip())]
    telling = [piece for piece in pieces if len(piece) > 3]
    assert max(map(len, telling)) >= 12
    for piece in telling:
        assert piece in constants(), f"{block}: no message says {piece!r}"


# -- links and the site -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor and "docs/reference" not in target.as_posix():
            name = target.relative_to(ROOT).as_posix()
            assert anchor in anchors(name), f"{page}: {link}; there are {sorted(anchors(name))}"


def test_sources_name_sections_of_pages_that_there_are() -> None:
    for layer in ("mergeline", "stages", "flows", "tests"):
        for path in (ROOT / layer).rglob("*.py"):
            text = " ".join(path.read_text(encoding="utf-8").split())
            for page, section in re.findall(r'\bdocs/([\w/]+\.md)(?:, "([^"]+)")?', text):
                target = f"docs/{page}"
                assert target in PAGES, f"{path} names {target}"
                if section and layer != "tests":
                    assert f"# {section}\n" in (ROOT / target).read_text(), (
                        f"{path}: {target} has no section {section!r}"
                    )


def configuration() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    return values


def test_the_navigation_has_every_page() -> None:
    def pages(entries: Sequence[Any]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from pages(value) if isinstance(value, list) else [value]

    named = list(pages(configuration()["nav"]))
    assert sorted(named) == sorted(page.removeprefix("docs/") for page in PAGES if page != "README.md")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it, elsewhere."""
    pytest.importorskip("mkdocs")
    target = tmp_path_factory.mktemp("site")
    recipe = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "mkdocs build --strict" in recipe
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr == ""
    return target


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere_and_has_the_commands(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]*)|<link[^>]* href=\"?(https?:[^\" >]*)")
    for page in site.rglob("*.html"):
        assert not loads.findall(page.read_text(encoding="utf-8")), page
    reference = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for name in _names():
        assert f'<h2 id="{name}">' in reference
    assert "normalize-option" in reference
    merging = (site / "reference" / "merging.html").read_text(encoding="utf-8")
    assert 'id="mergeline.api.merge"' in merging
    assert "The last space that is merged" in merging or "the last space that is merged" in merging


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_pages_open_as_files_and_can_be_searched(site: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as tab:
        for width, phone in ((1280, False), (390, True)):
            for name in ("index.html", "tutorial.html", "methods.html", "reference/merging.html", "faq.html"):
                tab.show(site / name, width, phone=phone)
                assert tab.complaints() == [], name
                assert all(url.startswith(("file:", "data:", "blob:")) for url in tab.requests()), name
                assert tab.value("document.documentElement.scrollWidth <= innerWidth"), f"{name} at {width}"
        tab.show(site / "index.html", 1280)
        found = tab.value(
            "new Promise(done => { const i = document.querySelector('.md-search__input'); i.focus(); i.value = 'transport';"
            "i.dispatchEvent(new Event('input', {bubbles: true})); i.dispatchEvent(new KeyboardEvent('keyup'));"
            "let n = 0; const t = setInterval(() => { const f = document.querySelectorAll('.md-search-result__link').length;"
            "if (f || ++n > 100) { clearInterval(t); done(f); } }, 100); })"
        )
        assert found > 0
        assert tab.complaints() == []


def test_docstrings_are_brought_to_the_style_that_is_parsed() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from docstrings import converted  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    text = (
        "What.\n\nParameters\n----------\na: one\n    more. b: two, see :func:`x.y`.\nc, d: both\n\nRaises\n------\n"
        "ValueError: no\n\n>>> 1\n1"
    )
    expected = (
        "What.\n\n\nArgs:\n    a: one more.\n    b: two, see `x.y`.\n    c: both\n    d: both\n\n\n"
        "Raises:\n    ValueError: no\n\n\n```pycon\n>>> 1\n1\n```"
    )
    assert converted(text, ["a", "b", "c", "d"]) == expected
