"""The command line: what it offers, and errors in one line."""

import shutil
import subprocess
import sys

import pytest

import jaxviz
from jaxviz import cli
from jaxviz.cli import _weights


def run(*args, **options):
    return subprocess.run([sys.executable, "-m", "jaxviz", *args], capture_output=True, text=True, **options)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVIZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "_compile_cache", lambda: None)  # leave this process's settings alone


def test_help_lists_the_commands():
    result = run("--help")
    assert result.returncode == 0
    verbs = "tour weights saliency ascend sheet dream invert texture style fast-style features neighbors embed patches"
    for verb in verbs.split():
        assert verb in result.stdout


def test_weights_list(capsys):
    cli.main(["weights", "list"])
    shown = capsys.readouterr().out
    assert "vgg16_features" in shown
    assert "yes" not in shown  # an empty cache


def test_weights_help_lists_its_verbs(capsys):
    with pytest.raises(SystemExit):
        cli.main(["weights", "--help"])
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("list", "fetch", "verify", "import"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tour", "none.jpg"], "none.jpg: expected an image file"),
        (["tour", "--only", "nope"], "no section nope; there are filters, "),
        (["weights", "fetch", "vgg99"], "did you mean 'vgg19'"),
        (["weights", "import", "none.pth"], "none.pth"),
    ],
)
def test_errors_are_one_line_and_write_nothing(args, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tour").exists()


def test_a_folder_may_have_brackets(capsys, monkeypatch, tmp_path):
    from jaxviz.report import _tour

    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(_tour, "run_tour", lambda image, folder, **_: folder / "index.html")
    for name in ("trips[rome]", "a[", "a[/b]"):
        cli.main(["tour", "--out", name])
        assert f"{name}/index.html after 0 s" in capsys.readouterr().out


def test_lines_are_no_markup(capsys, monkeypatch):
    from jaxviz.report import _tour

    def run_tour(image, folder, *, report, **_):
        report("[/] :cat: \x1b[31m …")
        report("[red]x[/] :cat: \x1b[31m")
        return folder

    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(_tour, "run_tour", run_tour)
    cli.main(["tour"])
    assert "[red]x[/] :cat: \\x1b[31m\n" in capsys.readouterr().out


def test_an_interruption_is_one_line(capsys, monkeypatch):
    def interrupted(verb) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_weights.List, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["weights", "list"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "jaxviz: stopped\n"


def test_help_fits_on_one_screen():
    """Of 80 columns and 50 rows, in the groups that the library has."""
    lines = run("--help").stdout.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    for title in ("What do the units respond to?", "Which pixels matter?", "Which image ...?"):
        assert title in lines
    assert "--tyro-print-completion bash" in "\n".join(lines)


def test_the_version():
    assert run("--version").stdout == f"jaxviz {jaxviz.__version__}\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="it is a script for bash")
def test_the_shell_completes_verbs_and_options(tmp_path):
    (tmp_path / "complete").write_text(run("--tyro-print-completion", "bash").stdout)
    script = f"""
        source {tmp_path}/complete
        function=$(complete -p jaxviz | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        try() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); $function; echo "${{COMPREPLY[@]}}"; }}
        try jaxviz sal; try jaxviz weights f; try jaxviz fast-style apply --mi; try jaxviz saliency --tar
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["saliency", "fetch", "--mix", "--target"]
