"""The tour's page: sections survive a restart only when nothing about them changed, and the page needs nothing else."""

import base64
import html.parser
import json
import os
import re

import numpy as np
import pytest

from jaxviz.image._files import save_image
from jaxviz.report._page import Figure, Section, load_section, save_section, write_page

VOID = {"meta", "link", "img", "br"}  # elements that HTML never closes


def section(id="saliency", **changes):
    fields = {
        "id": id,
        "title": id.capitalize(),
        "question": "Which pixels matter?",
        "text": "The pixels whose change moves the score most. They lie on the head.",
        "code": "score = jaxviz.logit(net)\njaxviz.saliency(score, params, images)",
        "figures": (Figure(f"{id}.png", "The cat and its map"),),
        "seconds": 12.34,
        "seed": 0,
        "paper": "Simonyan et al. 2013",
        "settings": {"jax": "0.10.2"},
        "left_out": "",
    }
    return Section(**{**fields, **changes})


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index, name in enumerate(("filters", "saliency", "dream")):
        save_image(tmp_path / f"{name}.png", rng.random((8 + index, 20, 3)))
    return tmp_path


def page(folder, sections, **options):
    return write_page(folder, sections, **{"title": "A tour", "facts": {}, **options}).read_text("utf-8")


class Outline(html.parser.HTMLParser):
    """Checks that tags nest, and collects every attribute, the text, and the text of code."""

    def __init__(self, source):
        super().__init__()
        self.open, self.attributes, self.text, self.code = [], [], "", ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data + " "
        if "code" in self.open:
            self.code += data

    def values(self, tag, name):
        return [value for each, key, value in self.attributes if (each, key) == (tag, name)]


# Sections as files


def test_a_section_comes_back_as_it_was(folder):
    before = section(figures=(Figure("saliency.png", "é < ü"), Figure("dream.png", "")), seed=None)
    save_section(folder, before, "abc")
    assert load_section(folder, "saliency", "abc") == before


def test_a_section_of_another_call_is_made_again(folder):
    save_section(folder, section(), "abc")
    assert load_section(folder, "saliency", "abd") is None
    assert load_section(folder, "dream", "abc") is None


def test_a_changed_or_missing_picture_makes_the_section_anew(folder):
    save_section(folder, section(), "abc")
    picture = (folder / "saliency.png").read_bytes()
    (folder / "saliency.png").write_bytes(picture[:-1])
    assert load_section(folder, "saliency", "abc") is None
    (folder / "saliency.png").write_bytes(picture)
    assert load_section(folder, "saliency", "abc") == section()
    (folder / "saliency.png").unlink()
    assert load_section(folder, "saliency", "abc") is None


def test_damaged_records_are_not_read(folder):
    save_section(folder, section(), "abc")
    path = folder / "saliency.json"
    whole = path.read_bytes()
    record = json.loads(whole)
    damaged = [whole[:end] for end in range(0, len(whole), 7)]
    damaged += [b"\xff\xfe", b"null", b"[]", b"7", b'{"section": []}']
    for key in record:
        damaged.append(json.dumps({name: value for name, value in record.items() if name != key}).encode())
    for key in record["section"]:  # a field that an older or newer version does not have
        fields = {name: value for name, value in record["section"].items() if name != key}
        damaged.append(json.dumps({**record, "section": fields}).encode())
        damaged.append(json.dumps({**record, "section": {**record["section"], "new": 1}}).encode())
    for data in damaged:
        path.write_bytes(data)
        assert load_section(folder, "saliency", "abc") is None
    path.write_bytes(whole)
    assert load_section(folder, "saliency", "abc") == section()


def test_a_section_without_its_picture_is_not_saved(folder):
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        save_section(folder, section(figures=(Figure("absent.png", ""),)), "abc")
    assert not (folder / "saliency.json").exists()


def test_files_are_written_whole(folder, monkeypatch):
    save_section(folder, section(), "abc")
    first = page(folder, [section()])
    files = sorted(folder.iterdir())
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    for write in (lambda: save_section(folder, section(seconds=1.0), "abc"), lambda: page(folder, [])):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert sorted(folder.iterdir()) == files  # no temporary file is left either
    assert load_section(folder, "saliency", "abc") == section()
    assert (folder / "index.html").read_text("utf-8") == first


# The page


def test_the_page_is_balanced_and_shows_everything(folder):
    sections = [
        section("filters", question="What do the units respond to?", seed=None, seconds=0.21),
        section("saliency"),
        section("dream", question="Which image would the network like best?", seconds=187.0),
    ]
    outline = Outline(page(folder, sections, title="What it sees", facts={"Device": "cpu"}))
    for each in sections:
        assert f"#{each.id}" in outline.values("a", "href")
        assert each.id in outline.values("section", "id")
        for text in (each.question, each.title, each.text, each.paper, each.figures[0].caption):
            assert text in outline.text
        assert each.code in outline.code
    text = " ".join(outline.text.split())
    assert "took 0.2 s jax 0.10.2 Simonyan" in text  # no seed, none shown
    assert "took 12.3 s seed 0 jax 0.10.2 Simonyan" in text
    assert "took 3 min 7 s seed 0" in text
    assert "Device cpu" in text
    assert "Together 3 min 20 s" in text
    assert "not complete" not in text


def test_pictures_are_inside_the_page_byte_for_byte(folder):
    outline = Outline(page(folder, [section("filters"), section("dream")]))
    sources = [source for source in outline.values("img", "src") if source]
    embedded = [base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) for source in sources]
    assert embedded == [(folder / "filters.png").read_bytes(), (folder / "dream.png").read_bytes()]
    assert outline.values("img", "width") == ["20", "20"]
    assert outline.values("img", "height") == ["8", "10"]


MAP = {
    "side": 4,
    "points": [[0, 0], [1, 1]],
    "cells": [[0, 0], [0, 1]],
    "near": [[1], [0]],
    "names": ["</script>", "b"],
}


def test_a_map_is_a_picture_with_its_data_and_a_script(folder):
    figures = (Figure("saliency.png", "All images", MAP),)
    save_section(folder, section(figures=figures), "abc")
    assert load_section(folder, "saliency", "abc") == section(figures=figures)
    source = page(folder, [section(figures=figures)])
    assert Outline(source).values("img", "alt")[0] == "All images"
    told = re.search(r'<script type="application/json">(.*?)</script>', source)
    assert json.loads(told[1]) == MAP
    assert "function makeMap(" in source
    assert "function makeMap(" not in page(folder, [section()])


def test_the_page_loads_nothing(folder):
    sections = [section("filters"), section("dream", figures=(Figure("dream.png", "All", MAP),))]
    source = page(folder, sections, facts={"Device": "cpu"}, pending=["Style"])
    outline = Outline(source)
    references = [value for _, name, value in outline.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert references
    assert all(value.startswith(("#", "data:")) for value in references)
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|import\(", re.sub(r"base64,[^\"]*", "", source))


@pytest.mark.parametrize("file", ["../secret.png", "/etc/secret.png", "sub/../../secret.png"])
def test_a_record_names_no_files_from_elsewhere(folder, file):
    before = section()
    save_section(folder, before, "abc")
    (folder.parent / "secret.png").write_bytes((folder / "saliency.png").read_bytes())
    record = json.loads((folder / "saliency.json").read_text())
    record["section"]["figures"][0][0] = file
    record["pictures"] = {file: record["pictures"]["saliency.png"]}
    (folder / "saliency.json").write_text(json.dumps(record))
    assert load_section(folder, "saliency", "abc") is None


def test_names_that_are_not_in_utf_8(folder):
    source = page(folder, [section(title="caf\udce9", text="caf\udce9")], title="caf\udce9")
    assert source.count("caf\\udce9") == source.count("caf") >= 3


def test_text_is_escaped(folder):
    nasty = "<script>alert('&amp;')</script>\"><img src=x onerror=1>"
    everywhere = section(
        title=nasty, question=nasty, text=nasty, code=nasty, paper=nasty, settings={nasty: nasty},
        figures=(Figure("saliency.png", nasty),),
    )  # fmt: skip
    source = page(folder, [everywhere], title=nasty, facts={nasty: nasty}, pending=[nasty])
    assert source.count("<script>") == 1  # the page's own
    outline = Outline(source)
    assert outline.code == nasty
    assert outline.values("img", "alt")[0] == nasty
    assert outline.values("img", "onerror") == []


def test_sections_are_grouped_in_order(folder):
    sections = [section("filters", question="One?"), section("dream", question="One?"), section(question="Two?")]
    source = page(folder, sections)
    assert re.findall(r"<h2>(.*?)</h2>", source) == ["One?", "Two?", "Where the time went"]
    assert re.findall(r'<section id="(.*?)">', source) == ["filters", "dream", "saliency"]


def test_a_partial_page_says_what_is_missing(folder):
    text = " ".join(Outline(page(folder, [section()], pending=["DeepDream", "Style transfer"])).text.split())
    assert "This page is not complete. Not done yet: DeepDream, Style transfer." in text
    empty = Outline(page(folder, [], pending=["DeepDream"])).text
    assert "Not done yet: DeepDream" in empty
    assert "Where the time went" not in empty


def test_instant_sections_and_none_at_all_are_valid(folder):
    assert "0.0 s" in Outline(page(folder, [section(seconds=0.0, figures=(), paper="", settings={})])).text
    Outline(page(folder, []))


def test_what_is_no_png_is_refused(folder):
    (folder / "saliency.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"saliency\.png: expected a PNG file, got 6 bytes that begin with b'GIF89a'"):
        page(folder, [section()])
    assert not (folder / "index.html").exists()


def test_the_same_sections_give_the_same_page(folder):
    assert page(folder, [section()]) == page(folder, [section()])
