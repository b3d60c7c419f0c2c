"""The page of images laid out by similarity, with 5,000 of them, in Debian's chromium: see test_map.py."""

import statistics

import jax
import numpy as np
import pytest
from chromium import drawn, opened_at, settle

import jaxviz

COUNT, SIDE = 5000, 16
NAMES = ["sea lion", "crane", "</script><b>fig</b>"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    random = np.random.default_rng(0)
    groups = np.arange(COUNT) % 3
    rows = (random.normal(size=(COUNT, 6)) + 6 * np.eye(6)[groups]).astype(np.float32)
    images = np.broadcast_to(np.eye(3, dtype=np.float32)[groups][:, None, None], (COUNT, SIDE, SIDE, 3))
    source = list(zip([*images], [NAMES[group] for group in groups], strict=True))
    layouts = {"Plane": rows[:, :2], "Solid": rows[:, :3]}
    path = tmp_path_factory.mktemp("page") / "map.html"
    labels = [NAMES[group] for group in groups]
    return jaxviz.embedding_page(rows, source, path, points=layouts, labels=labels, thumbnail=SIDE)


@pytest.fixture
def page(browser, made):
    with opened_at(browser, made) as page:
        page.locator(".tools").scroll_into_view_if_needed()
        settle(page)
        yield page


def lit(page):
    settle(page)
    return int(page.locator(".plane canvas").get_attribute("data-lit"))


def picked(page):
    settle(page)
    return int(page.locator(".plane canvas").get_attribute("data-picked"))


def test_labels_are_colors_and_can_be_hidden(page):
    legend = page.locator(".legend button")
    assert legend.all_text_contents() == [f"{NAMES[2]} 1666", f"{NAMES[1]} 1667", f"{NAMES[0]} 1667"]
    assert lit(page) == COUNT
    legend.nth(0).click()
    assert lit(page) == COUNT - 1666
    legend.nth(0).click()
    assert lit(page) == COUNT


def test_search_finds_names_and_labels(page):
    find = page.get_by_label("Find by name")
    find.fill("4999")
    assert lit(page) == 1
    find.fill("CRANE")
    assert lit(page) == 1667
    assert page.locator("output").text_content() == "1667 of 5000"
    page.keyboard.press("Enter")
    assert picked(page) == 1667
    assert page.locator(".chosen strong").text_content() == "1667 selected: 1667 crane"
    assert page.locator(".chosen li").first.text_content() == "1"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save names").click()
    names = download.value.path().read_text().split()
    assert names == [str(i) for i in range(1, COUNT, 3)]
    page.get_by_role("button", name="Clear").click()
    assert picked(page) == 0
    assert page.locator(".chosen").is_hidden()


def test_a_group_is_drawn_around(page):
    box = page.locator(".plane canvas").bounding_box()
    page.get_by_role("button", name="Select").click()
    corners = [(5, 5), (box["width"] / 2, 5), (box["width"] / 2, box["height"] - 5), (5, box["height"] - 5)]
    page.mouse.move(box["x"] + corners[0][0], box["y"] + corners[0][1])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    assert 500 < picked(page) < COUNT - 500
    page.keyboard.press("Escape")  # nothing has the focus but the canvas
    page.locator(".plane canvas").focus()
    page.keyboard.press("Escape")
    assert picked(page) == 0


def test_layouts_are_switched_and_what_is_solid_turns(page):
    plane = drawn(page)
    page.get_by_role("button", name="Solid").click()
    before = drawn(page)
    assert np.mean(plane != before) > 0.02
    box = page.locator(".plane canvas").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 60, steps=2)
    page.mouse.up()
    page.mouse.move(box["x"] - 20, box["y"] + 20)
    after = drawn(page)
    assert np.mean(before != after) > 0.02
    moved = [np.argwhere(np.ptp(pixels, axis=-1) > 60).mean(0) for pixels in (before, after)]
    assert np.linalg.norm(moved[0] - moved[1]) < 60  # turned about its middle, not moved by 200 pixels
    page.get_by_role("button", name="Plane").click()
    np.testing.assert_array_equal(drawn(page), plane)


def test_dots_and_grid(page):
    page.get_by_role("button", name="Dots").click()
    page.get_by_role("button", name="Grid").click()
    settle(page)
    page.get_by_role("button", name="Grid").click()
    page.get_by_role("button", name="Dots").click()
    settle(page)
    assert page.get_by_role("button", name="Plane").get_attribute("aria-pressed") == "true"


def test_five_thousand_stay_smooth(page):
    """Measured: the time between frames while it turns."""
    page.get_by_role("button", name="Solid").click()
    frames = page.evaluate(
        """async () => {
            const canvas = document.querySelector(".plane canvas"), times = [];
            for (let i = 0; i < 30; i++) {
                canvas.dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "ArrowUp" : "ArrowLeft" }));
                const start = performance.now();
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                times.push((performance.now() - start) / 2);
            }
            return times;
        }"""
    )
    print(f"5,000 images in three dimensions: {statistics.median(frames):.1f} ms a frame, at most {max(frames):.1f}")
    assert len(frames) == 30  # no bound: how fast depends on the machine


def test_the_default_layouts(browser, tmp_path):
    rows = jax.random.normal(jax.random.key(0), (30, 8))
    images = jax.random.uniform(jax.random.key(1), (30, 8, 8, 3))
    path = jaxviz.embedding_page(rows, images, tmp_path / "map.html", key=jax.random.key(2), thumbnail=8)
    with opened_at(browser, path) as page:
        names = page.locator(".layouts button").all_text_contents()
        assert [name for name in names if name != "UMAP"] == ["t-SNE", "PCA", "PCA 3-D"]
        assert page.locator(".legend").is_hidden()
