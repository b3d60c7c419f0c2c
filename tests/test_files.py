"""Names of files for any text, text for terminals, and one run at a time in a folder or at a result."""

import os
import subprocess
import sys
import textwrap

import pytest
from rich.console import Console

from jaxviz._files import alone_at, alone_in, file_name, plain, printable, write_atomically

NAMES = [
    "a",
    "starry night",
    "é",
    "猫",
    "[red]x",
    "{0}",
    "%s",
    "$HOME",
    "a.b",
    "a-0123456789a",
    "x" * 130,
    ";rm -rf ~",
]
TEXTS = ["", ".", "..", "../../x", "/../../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", "a\0b", "a\nb", "\x1b[31m",
         ".hidden", "[/]", "-x", "_x", "_hidden", "a-b", "a_b", "\udcff", "\udcfe", "x" * 151, "x" * 4000, "é" * 100,
         "猫" * 90,         "a-0123456789ab", "a:b", "a?b", 'a"b', "a\u202eb", "a\u200bb"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_can_be_a_name_is_its_own(name):
    assert file_name(name) == name


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_gives_a_file_in_its_folder(text, tmp_path):
    (tmp_path / "out").mkdir()
    write_atomically(tmp_path / "out" / f"{file_name(text)}-00032.safetensors", b"")
    (made,) = (tmp_path / "out").iterdir()
    assert made.name == f"{file_name(text)}-00032.safetensors"
    assert not made.name.startswith((".", "-"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_two_texts_have_one_name():
    texts = {*NAMES, *TEXTS}
    texts |= {file_name(text) for text in texts}  # nor is a text's name another's
    names = {file_name(text) for text in texts}
    assert len(names) == len(texts)
    assert all(len(name.encode()) <= 130 for name in names)


def test_what_a_terminal_would_act_on_is_shown():
    assert printable("a\x1b[31mé\n\udcff\u202e") == r"a\x1b[31mé\n\udcff\u202e"
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"


@pytest.mark.parametrize("name", ["[red]x", "[/]", "[/red]", ":cat:", "[link=file:///x]y[/link]", "\x1b[31m"])
def test_a_name_is_no_markup(name, capsys):
    Console(force_terminal=False, width=200).print(plain(name))
    assert capsys.readouterr().out == f"{printable(name)}\n"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_a_name_as_long_as_can_be_is_written(name, tmp_path):
    write_atomically(tmp_path / name, b"data")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, error in ((tmp_path / "file" / "a.png", OSError), (tmp_path / ("x" * 256), OSError)):
        with pytest.raises(
            error, match=rf"{path.name}: expected a writable file, got (Not a dir|File name too|File ex)"
        ):
            write_atomically(path, b"data")
    if os.path.exists("/dev/full"):
        (tmp_path / "full").mkdir()

        def fill(file):  # the same as on a disk that is full
            with open("/dev/full", "wb") as full:
                full.write(b"data")

        with pytest.raises(OSError, match=r"a\.png: expected a writable file, got No space left on device"):
            write_atomically(tmp_path / "full" / "a.png", fill)
        assert not list((tmp_path / "full").iterdir())


def test_a_folder_that_is_left_empty_is_removed(tmp_path):
    with alone_in(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with alone_in(tmp_path / "old"), alone_in(tmp_path / "full"):
        (tmp_path / "full" / "file").write_bytes(b"")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "full"}


OTHER = """
    import sys
    from pathlib import Path
    from jaxviz._files import alone_at, alone_in
    with {"in": alone_in, "at": alone_at}[sys.argv[1]](Path(sys.argv[2])):
        print("here", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def other_run():
    """Another process that holds a lock."""
    begun = []

    def begin(kind, path):
        command = [sys.executable, "-c", textwrap.dedent(OTHER), kind, str(path)]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert begun[-1].stdout.readline() == b"here\n"
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="where nothing is locked")
@pytest.mark.parametrize(("kind", "lock"), [("in", alone_in), ("at", alone_at)])
def test_one_run_at_a_time_and_a_killed_one_is_none(kind, lock, other_run, tmp_path):
    at = tmp_path / "out" / "result"
    process = other_run(kind, at)
    said = r"result: another run is writing (to )?this.*; wait for it, or use another"
    with pytest.raises(ValueError, match=said), lock(at):
        pass
    with lock(tmp_path / "out" / "other"):  # others do not mind
        pass
    process.kill()
    process.wait()
    with lock(at):
        pass
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="where nothing is locked")
def test_a_run_that_may_wait_does(other_run, tmp_path):
    process = other_run("at", tmp_path / "result")
    waiting = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from jaxviz._files import alone_at\n"
         "with alone_at(Path(sys.argv[1]), wait=True): print(Path(sys.argv[2]).exists())",
         str(tmp_path / "result"), str(tmp_path / "done")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(3)
    (tmp_path / "done").write_bytes(b"")
    process.communicate(b"\n")
    assert waiting.communicate()[0] == b"True\n"
    assert [path.name for path in tmp_path.iterdir()] == ["done"]
