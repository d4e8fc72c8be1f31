"""Fingerprints of what comes from outside: they change exactly when names or contents do."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergeline.encoder_names import EncoderError
from stages.errors import InputError, StageError
from stages.fingerprints import fingerprint as fingerprints
from stages.fingerprints import places
from stages.fingerprints.changes import difference
from stages.fingerprints.fingerprint import Fingerprint, listed, read_fingerprint, take
from stages.fingerprints.notes import Notes, open_notes
from stages.fingerprints.outside import MissingInputError, md5_of, outside_inputs, task_input, unchanged
from stages.fingerprints.packages import package_of
from stages.fingerprints.walk import walk
from stages.plan.loading import parse_params
from tests.conftest import bench_values


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    with open_notes(tmp_path) as opened:
        yield opened


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamps are trusted at once."""
    monkeypatch.setattr(fingerprints, "SETTLED", -(10**15))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def taken(notes: Notes, root: Path) -> Fingerprint:
    return take(notes, {"all": root}, root)


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on."""
    read: list[str] = []
    original = fingerprints._hash
    monkeypatch.setattr(fingerprints, "_hash", lambda path: (read.append(Path(path).name), original(path))[1])
    return read


FILES = {"robin/a.jpg": b"one", "robin/b.jpg": b"two", "wren/c.jpg": b"three", "list.txt": b"robin\nwren\n"}

part = st.text(alphabet="abé \n'\"Z.", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
trees = st.dictionaries(st.tuples(part.map("d{}".format), part), st.binary(max_size=4), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees, trees)
def test_two_places_have_one_fingerprint_exactly_if_names_and_contents_are_the_same(
    tmp_path: Path, first: dict[tuple[str, str], bytes], second: dict[tuple[str, str], bytes]
) -> None:
    texts = []
    with open_notes(tmp_path) as notes:
        for name, tree in (("here", first), ("there", second), ("again", dict(reversed(first.items())))):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            (tmp_path / name).mkdir()
            root = write(tmp_path / name, {"/".join(path): data for path, data in tree.items()})
            texts.append(taken(notes, root).text)
    assert texts[0] == texts[2]
    assert (texts[0] == texts[1]) == (first == second)


def test_the_text_reads_back_and_counts(notes: Notes, tmp_path: Path) -> None:
    found = taken(notes, write(tmp_path / "data", FILES))
    assert read_fingerprint(found.text) == found
    assert list(found.folders) == [".", "robin", "wren"]
    assert (found.files, found.bytes) == (4, sum(map(len, FILES.values())))
    assert str(tmp_path) not in found.text
    for damaged in ("", "{}", '{"format": 7}', found.text[:-9]):
        assert read_fingerprint(damaged) is None


def test_a_touched_file_is_read_again_and_changes_nothing(
    notes: Notes, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "data", FILES)
    before, read = taken(notes, root), hashed(monkeypatch)
    assert taken(notes, root) == before
    assert read == []
    (root / "robin/a.jpg").touch()
    assert taken(notes, root) == before
    assert read == ["a.jpg"]
    assert taken(notes, root) == before
    assert read == ["a.jpg"], "and is known after that"


def test_a_file_with_its_size_and_time_set_back_is_noticed(notes: Notes, tmp_path: Path, settled: None) -> None:
    root = write(tmp_path / "data", FILES)
    before, path = taken(notes, root), root / "robin/a.jpg"
    status = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"ONE")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    after = taken(notes, root)
    assert difference(before, after, notes.listing) == "1 image changed (robin/a.jpg)"


def test_files_that_were_just_written_are_not_trusted_by_their_stamps(
    notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the clock a file can change twice and keep its stamp."""
    root = write(tmp_path / "data", FILES)
    taken(notes, root)
    read = hashed(monkeypatch)
    taken(notes, root)
    assert sorted(read) == ["a.jpg", "b.jpg", "c.jpg", "list.txt"]


def test_anew_reads_every_file(notes: Notes, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "data", FILES)
    before, read = taken(notes, root), hashed(monkeypatch)
    assert take(notes, {"all": root}, root, anew=True) == before
    assert len(read) == 4


def test_a_file_that_changes_while_it_is_read_is_read_again(
    notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "data", {"a/x.bin": b"old"})
    original, times = fingerprints.hashlib.file_digest, []

    def digest(stream: object, name: str) -> object:
        found = original(stream, name)
        times.append(name)
        if len(times) == 1:
            (root / "a/x.bin").write_bytes(b"newer")
        return found

    monkeypatch.setattr(fingerprints.hashlib, "file_digest", digest)
    found = taken(notes, root)
    assert len(times) == 2
    monkeypatch.undo()
    assert taken(notes, root) == found
    assert found.bytes == 5


def test_a_file_that_never_rests_is_an_error_that_names_it(
    notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "data", {"a/x.bin": b""})
    original = fingerprints.hashlib.file_digest

    def digest(stream: object, name: str) -> object:
        with (root / "a/x.bin").open("ab") as other:
            other.write(b"more")
        return original(stream, name)

    monkeypatch.setattr(fingerprints.hashlib, "file_digest", digest)
    with pytest.raises(InputError, match=r"x\.bin is being written"):
        taken(notes, root)


def test_hashing_that_is_cut_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: None
) -> None:
    root = write(tmp_path / "data", {"a/1.bin": b"1", "b/2.bin": b"2"})
    original = fingerprints._hash

    def interrupted(path: str) -> object:
        if path.endswith("2.bin"):
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(fingerprints, "_hash", interrupted)
    with pytest.raises(KeyboardInterrupt), open_notes(tmp_path) as notes:
        taken(notes, root)
    monkeypatch.setattr(fingerprints, "_hash", original)
    read = hashed(monkeypatch)
    with open_notes(tmp_path) as notes:
        taken(notes, root)
    assert read == ["2.bin"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"robin/new.jpg": b"new"}, "1 image added (robin/new.jpg)"),
        ({"robin/new.jpg": b"x", "wren/d.png": b"y", "list.txt": b""}, "2 files added (robin/new.jpg, ...), 1 changed (list.txt)"),
        ({"robin/a.jpg": None}, "1 image deleted (robin/a.jpg)"),
        ({"robin/a.jpg": None, "wren/z.jpg": b"one"}, "1 image renamed (robin/a.jpg -> wren/z.jpg)"),
        ({"robin/a.jpg": b"1", "robin/b.jpg": b"2"}, "2 images changed (robin/a.jpg, ...)"),
        ({"wren/c.jpg": None}, "1 image deleted (wren/c.jpg)"),
        ({"owl/": b""}, "empty folders came or went: owl"),
    ],
)  # fmt: skip
def test_a_difference_says_which_files(
    notes: Notes, tmp_path: Path, change: dict[str, bytes | None], words: str
) -> None:
    root = write(tmp_path / "data", FILES)
    before = taken(notes, root)
    for name, data in change.items():
        if data is None:
            (root / name).unlink()
        elif name.endswith("/"):
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)
    after = taken(notes, root)
    assert difference(before, after, notes.listing) == words
    unknown = difference(before, after, lambda digest: None)
    assert unknown.startswith("changed in "), "where the notes are lost, folders are named"


def test_links_are_followed_but_not_in_circles(notes: Notes, tmp_path: Path, settled: None) -> None:
    other = write(tmp_path / "other", {"x.jpg": b"x"})
    root = write(tmp_path / "data", {"robin/a.jpg": b"one"})
    plain = taken(notes, root)
    (root / "linked").symlink_to(other)
    (root / "robin/up").symlink_to(root)
    (root / "robin/lost.jpg").symlink_to(tmp_path / "nowhere")
    found = taken(notes, root)
    assert list(found.folders) == ["linked", "robin"]
    assert difference(plain, found, notes.listing) == "2 images added (linked/x.jpg, ...)"
    (other / "x.jpg").write_bytes(b"other")
    assert taken(notes, root) != found


def test_files_beside_the_root_and_without_one_go_by_their_keys(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {"images/a.jpg": b"one", "images.txt": b"list", "more/left_out.jpg": b""})
    vocabulary = write(tmp_path / "package", {"words.json": b"{}"}) / "words.json"
    files = {"images": root / "images", "list": root / "images.txt", "vocabulary": vocabulary}
    names = {(folder.name, name) for folder in walk(files, root) for name in folder.stamps}
    assert names == {("images", "a.jpg"), (".", "images.txt"), ("..", "vocabulary")}
    names = {(folder.name, name) for folder in walk({"all": root, **files}, root) for name in folder.stamps}
    assert ("more", "left_out.jpg") in names
    assert len(names) == 4, "none twice"
    names = {(folder.name, name) for folder in walk({"b/table": vocabulary}, None) for name in folder.stamps}
    assert names == {("b", "table")}


def test_names_of_any_bytes_are_told_apart(notes: Notes, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"1")
    found = taken(notes, root)
    listing = notes.listing(found.folders["."])
    assert listing is not None
    assert [name for name, _ in listed(listing)] == [os.fsdecode(b"bad\xff.jpg")]
    assert found.text.encode()


def test_damaged_notes_cost_reading_again_and_no_more(tmp_path: Path) -> None:
    root = write(tmp_path / "data", FILES)
    with open_notes(tmp_path) as notes:
        before = taken(notes, root)
    path = tmp_path / places.NOTES
    for damage in (b"no database at all", b""):
        path.write_bytes(damage)
        with open_notes(tmp_path) as notes:
            assert taken(notes, root) == before
    connection = sqlite3.connect(path)
    connection.execute("pragma user_version = 99")
    connection.commit()
    connection.close()
    with open_notes(tmp_path) as notes:
        assert taken(notes, root) == before


def test_old_fingerprints_go_the_last_are_kept(notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.fingerprints.notes.KEPT", 2)
    root = tmp_path / "data"
    found = []
    for index in range(6):
        found.append(taken(notes, write(root, {"a/x.jpg": str(index).encode()})))
        notes.note_fingerprint("place", md5_of(found[-1].text), found[-1].text)
    kept = [notes.fingerprint("place", md5_of(one.text)) is not None for one in found]
    assert kept[-1]
    assert sum(kept) == 3
    assert notes.listing(found[-1].folders["a"]) is not None
    assert notes.listing(found[0].folders["a"]) is None


def test_a_file_of_a_package_is_known_by_its_version() -> None:
    import numpy
    import yaml

    assert package_of(str(numpy.__file__)) == ("numpy", numpy.__version__)
    assert package_of(str(yaml.__file__))[0].lower() == "pyyaml"
    assert package_of("/usr/share/fonts/a.ttf") == ("", "")
    assert package_of("/x/site-packages/no_such_module/a.csv") == ("", "")


def test_every_kind_of_input_has_a_place_and_files(tmp_path: Path) -> None:
    values = bench_values(targets={"kind": "text", "encoder": "clip:clip-folder"})
    values["similarity"]["weights"] = "mine/encoder.pth"
    values["tasks"]["bars"] = {"source": "folder", "root": "data/bars"}
    write(tmp_path, {"data/bars/a/1.png": b"1", "mine/encoder.pth": b"w", "clip-folder/model.safetensors": b"m"})
    found = {str(source.place): source for source in outside_inputs(tmp_path, parse_params(values))}
    assert set(found) == {
        *(str(places.task(name)) for name in values["tasks"]), str(places.ENCODER), str(places.TEXT_ENCODER),
    }  # fmt: skip
    with open_notes(tmp_path) as notes:
        assert list(found[str(places.task("bars"))].fingerprint(notes).folders) == ["a"]
        before = found[str(places.ENCODER)].fingerprint(notes)
        write(tmp_path, {"mine/encoder.pth": b"other"})
        assert found[str(places.ENCODER)].fingerprint(notes) != before
        before = found[str(places.TEXT_ENCODER)].fingerprint(notes)
        write(tmp_path, {"clip-folder/tokenizer.json": b"{}"})
        assert found[str(places.TEXT_ENCODER)].fingerprint(notes) != before
        (tmp_path / "mine/encoder.pth").unlink()
        with pytest.raises(MissingInputError, match=r"similarity.encoder: .*encoder\.pth are missing"):
            found[str(places.ENCODER)].fingerprint(notes)
        shutil.rmtree(tmp_path / "data/bars/a")
        with pytest.raises(MissingInputError, match=r"tasks.bars: .*holds no files"):
            found[str(places.task("bars"))].fingerprint(notes)


@pytest.mark.parametrize("encoder", ["minilm", "efficientnet-lite0"])
def test_an_encoders_package_is_named_where_it_is_missing(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from mergeline.encoder_files import encoder_files

    assert all(path.is_file() for path in encoder_files(encoder, None).values())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install"):
        encoder_files(encoder, None)


def test_what_is_made_of_other_data_than_were_planned_is_refused(tmp_path: Path) -> None:
    values = bench_values()
    values["tasks"]["bars"] = {"source": "folder", "root": "data/bars"}
    write(tmp_path, {"data/bars/a/1.png": b"1"})
    source = task_input(tmp_path, parse_params(values), "bars")
    with unchanged(tmp_path, source):
        write(tmp_path, {"data/bars/a/2.png": b"2"})  # without a plan there is nothing to hold to
    with open_notes(tmp_path) as notes:
        write(tmp_path, {str(source.place): source.fingerprint(notes).text.encode()})
    with unchanged(tmp_path, source):
        pass
    with pytest.raises(StageError, match="task bars changed while they were read"), unchanged(tmp_path, source):
        write(tmp_path, {"data/bars/a/2.png": b"3"})
    with pytest.raises(StageError, match="mergeline plan"), unchanged(tmp_path, source):
        pytest.fail("is not begun")
