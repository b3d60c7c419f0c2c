"""What tests of the verbs that make images share."""

import contextlib

import pytest

from jaxviz.cli import _maximize, _runs, _train_style


@pytest.fixture
def stop_at(monkeypatch):
    """Let Ctrl-C be pressed before a certain look at the run."""

    def at(look):
        looks = []

        @contextlib.contextmanager
        def interrupts():
            yield lambda: looks.append(1) or len(looks) == look

        for module in (_maximize, _train_style, _runs):
            monkeypatch.setattr(module, "interrupts", interrupts)

    return at
