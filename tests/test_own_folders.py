"""Machine code is loaded from folders that are the user's own, and from no others."""

import ctypes
import hashlib
import os

import jax
import pytest

from jaxviz import cli
from jaxviz._own_folders import NotOwnError, own_folder, read_own_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the modes of POSIX")


def test_a_folder_is_made_for_the_user_alone(tmp_path):
    folder = own_folder(tmp_path / "cache" / "xla")
    assert folder == tmp_path / "cache" / "xla"
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "file").write_bytes(b"code")
    assert own_folder(folder) == folder


def spoil(folder, case):
    if case == "written by all":
        folder.chmod(0o777)
    elif case == "sticky and written by all":
        folder.chmod(0o1777)
    elif case == "below one that all can write to":
        folder.parent.chmod(0o777)
    elif case == "with a link in it":
        (folder / "link.o").symlink_to("/dev/null")
    elif case == "of another user":
        os.chown(folder, 12345, -1)
    elif case == "with a file of another user":
        (folder / "a.o").write_bytes(b"")
        os.chown(folder / "a.o", 12345, -1)


CASES = ["written by all", "sticky and written by all", "below one that all can write to", "with a link in it"]
CASES += ["of another user", "with a file of another user"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


@pytest.mark.parametrize("case", CASES)
def test_folders_of_others_are_refused(tmp_path, case):
    spoil(own_folder(tmp_path / "cache" / "xla"), case)
    with pytest.raises(NotOwnError, match=r"is writable by others|belongs to another user"):
        own_folder(tmp_path / "cache" / "xla")


def test_below_a_sticky_folder_a_users_own_is_safe(tmp_path):
    folder = own_folder(tmp_path / "cache" / "xla")
    folder.parent.chmod(0o1777)
    assert own_folder(folder) == folder


def test_what_cannot_be_made_is_not_own(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotOwnError, match="file"):
        own_folder(tmp_path / "file" / "xla")


def test_links_lead_to_the_folder_that_is_looked_at(tmp_path):
    folder = own_folder(tmp_path / "mine" / "xla")
    (tmp_path / "link").symlink_to(folder)
    assert own_folder(tmp_path / "link") == folder
    folder.parent.chmod(0o777)
    with pytest.raises(NotOwnError, match="mine is writable by others"):
        own_folder(tmp_path / "link")


def test_files_of_others_are_not_read(tmp_path):
    path = tmp_path / "code"
    path.write_bytes(b"code")
    assert read_own_file(path) == b"code"
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    path.chmod(0o666)
    assert [read_own_file(tmp_path / name) for name in ("code", "link", "none")] == [None] * 3


def test_a_strangers_machine_code_is_not_run(tmp_path, monkeypatch):
    """Its hash beside it is right, as that of whoever can write to the folder is."""
    _ffi = pytest.importorskip("jaxviz.fast.machine_code._ffi")
    shared = tmp_path / "shared"
    shared.mkdir()
    program = "define i32 @{}() {{\n  ret i32 {}\n}}"
    call = lambda text: ctypes.CFUNCTYPE(ctypes.c_int)(_ffi._compiled(text).get_function_address("f"))()
    monkeypatch.setattr(_ffi, "_folder", lambda: shared)
    assert call(program.format("f", 7)) == 7
    (mine,) = shared.iterdir()
    mine.unlink()
    assert call(program.format("f", 666)) == 666
    (strangers,) = shared.iterdir()
    code = strangers.read_bytes()
    assert hashlib.sha256(code[32:]).digest() == code[:32]
    strangers.rename(mine)
    assert call(program.format("f", 7)) == 666, "in a folder of one's own the file would be run"
    monkeypatch.undo()

    before = jax.config.jax_compilation_cache_dir
    shared.chmod(0o777)
    try:
        jax.config.update("jax_compilation_cache_dir", str(shared))
        with pytest.warns(UserWarning, match=r"neither loaded nor cached: .*shared is writable by others"):
            assert call(program.format("f", 7)) == 7
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("shared", [False, True])
def test_the_command_line_keeps_programs_in_a_folder_of_its_users_own(tmp_path, monkeypatch, capsys, shared):
    monkeypatch.setenv("JAXVIZ_CACHE", str(tmp_path / "cache"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777 if shared else 0o755)
    try:
        cli._compile_cache()
        kept = jax.config.jax_compilation_cache_dir
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert kept == (None if shared else str(tmp_path / "cache" / "xla"))
    assert ("cache is writable by others" in capsys.readouterr().err) == shared
