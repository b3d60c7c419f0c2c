"""The map of images in a real browser: Debian's chromium, headless, driven by Playwright.

    pytest -o addopts="--import-mode=importlib --strict-markers" tests/browser

Every image is of one color, so that what the browser has drawn tells which image is where.
"""

import numpy as np
import pytest
from chromium import drawn, opened_at, settle

from jaxviz.image._files import save_image
from jaxviz.report._map import lay_out
from jaxviz.report._page import Figure, Section, write_page

SIDE = 16


def color(i):
    """Return a color that no other of some thousand images has, nor the page."""
    return [(40 + i % 16 * 12) / 255, (40 + i // 16 % 16 * 12) / 255, (40 + i // 256 * 10) / 255]


def made(folder, number):
    random = np.random.default_rng(0)
    features = random.normal(size=(number, 8))
    names = [f"photograph-{i}.jpg" for i in range(number)]
    squares = {name: np.full((SIDE, SIDE, 3), color(i), np.float32) for i, name in enumerate(names)}
    layout = lay_out(features[:, :2], features, names, squares.__getitem__, side=SIDE, near=5)
    save_image(folder / "map.png", layout.picture)
    section = Section(
        id="map", title="A map", question="Which are alike?", text="So it is.", code="", seconds=1.0, seed=0, paper="",
        settings={}, left_out="", figures=(Figure("map.png", "All images", layout.map),),
    )  # fmt: skip
    return write_page(folder, [section], title="A map of <images>", facts={}), layout


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return made(tmp_path_factory.mktemp("page"), 40)


@pytest.fixture
def opened(browser, small):
    with opened_at(browser, small[0]) as page:
        yield page


def where(pixels, i):
    """Return the middle of what can be seen of an image, in CSS pixels of the map, and how many pixels it is."""
    rows, columns = np.nonzero(np.all(abs(pixels - np.round(np.array(color(i)) * 255)) <= 2, axis=-1))
    # Not the mean: where two images touch, their colors blend to those of others.
    return np.array([np.median(columns) + 0.5, np.median(rows) + 0.5]), len(rows)


def point(page, at):
    box = page.locator(".plane canvas").bounding_box()
    page.mouse.move(box["x"] + at[0], box["y"] + at[1])
    settle(page)


def zoom(page):
    return float(page.locator(".plane canvas").get_attribute("data-zoom"))


def told(page):
    return page.locator(".told li").all_text_contents()


def test_pointing_at_an_image_shows_it_and_its_neighbors(opened, small):
    places = drawn(opened)
    for i in (3, 17, 31):
        point(opened, where(places, i)[0])
        assert told(opened) == [f"photograph-{j}.jpg" for j in (i, *small[1].map["near"][i])]
        np.testing.assert_allclose(drawn(opened, ".told canvas")[5, 5], np.array(color(i)) * 255, atol=2)


def test_images_are_where_their_points_are(opened, small):
    pixels = drawn(opened)
    places = np.array([where(pixels, i)[0] for i in range(40)])
    points = np.array(small[1].map["points"])
    scale = np.ptp(places[:, 1]) / np.ptp(points[:, 1])
    assert scale > 400
    # Some are half covered by others, and what is seen of them lies off their middle.
    away = places - points * scale
    assert np.median(abs(away - np.median(away, axis=0))) < 3


def test_dragging_moves_everything_as_far(opened):
    before = where(drawn(opened), 3)[0]
    point(opened, (30, 30))
    opened.mouse.down()
    point(opened, (70, 10))
    opened.mouse.up()
    np.testing.assert_allclose(where(drawn(opened), 3)[0] - before, [40, -20], atol=1.5)


def test_the_wheel_zooms_where_the_pointer_is_once_the_map_is_clicked(opened):
    before, size = where(drawn(opened), 3)
    point(opened, before)
    opened.mouse.wheel(0, 30)
    settle(opened)
    assert zoom(opened) == 1  # the page is scrolled
    opened.locator(".plane canvas").scroll_into_view_if_needed()
    opened.locator(".plane canvas").click(position={"x": before[0], "y": before[1]})
    opened.mouse.wheel(0, -400)
    settle(opened)
    assert zoom(opened) == pytest.approx(np.exp(0.8), rel=0.01)
    point(opened, (5, 5))
    after, larger = where(drawn(opened), 3)
    np.testing.assert_allclose(after, before, atol=2)
    assert larger > 1.5 * size


def test_keys_and_buttons(opened):
    opened.locator(".plane canvas").focus()
    opened.keyboard.press("+")
    settle(opened)
    assert zoom(opened) == 1.5
    before = where(drawn(opened), 3)[0]
    opened.keyboard.press("ArrowLeft")
    settle(opened)
    np.testing.assert_allclose(where(drawn(opened), 3)[0] - before, [40, 0], atol=1.5)
    opened.get_by_label("Zoom out").click()
    settle(opened)
    assert zoom(opened) == 1
    opened.get_by_label("Zoom in").click()
    opened.get_by_role("button", name="All").click()
    settle(opened)
    assert zoom(opened) == 1


def test_the_grid_shows_all_side_by_side(opened, small):
    opened.get_by_role("button", name="Grid").click()
    settle(opened)
    pixels, cells = drawn(opened), small[1].cells
    places, sizes = zip(*(where(pixels, i) for i in range(40)), strict=True)
    step = np.polyfit(cells[:, 1], np.array(places)[:, 0], 1)[0]
    middle = np.array(places) - np.mean(places, axis=0)
    np.testing.assert_allclose(middle, (cells - cells.mean(axis=0))[:, ::-1] * step, atol=2)
    assert min(sizes) > 0.9 * (step - 2) ** 2


def test_two_fingers_zoom(browser, small):
    with opened_at(browser, small[0], has_touch=True) as page:
        box = page.locator(".plane canvas").bounding_box()
        session = page.context.new_cdp_session(page)
        for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80), ("touchEnd", None)):
            middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            ends = [] if apart is None else [(middle[0] - apart, middle[1]), (middle[0] + apart, middle[1])]
            fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(ends)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        settle(page)
        assert zoom(page) == pytest.approx(2, rel=0.05)


def test_without_scripts_there_is_the_picture(browser, small):
    with browser.new_context(java_script_enabled=False, offline=True) as context:
        page = context.new_page()
        page.goto(small[0].as_uri())
        picture = page.locator("figure.map img")
        assert picture.is_visible()
        assert picture.bounding_box()["width"] == 7 * SIDE
        assert "All images" in page.inner_text("figcaption")
        assert page.locator("canvas").count() == 0


def test_a_narrow_screen_has_room_for_both(browser, small):
    with opened_at(browser, small[0], is_mobile=True, has_touch=True) as page:
        page.set_viewport_size({"width": 390, "height": 800})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        plane, aside = (page.locator(name).bounding_box() for name in (".plane", ".told"))
        assert aside["y"] >= plane["y"] + plane["height"]


def test_thousands_stay_smooth(browser, tmp_path):
    """A frame draws each image at most once, however many events it answers, and none that is out of sight."""
    path, _ = made(tmp_path, 4000)
    with opened_at(browser, path) as page:
        drawings = lambda keys: page.evaluate(
            """async (keys) => {
                const canvas = document.querySelector(".plane canvas"), draws = CanvasRenderingContext2D.prototype;
                const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                const original = draws.drawImage;
                let count = 0;
                draws.drawImage = function (...given) { count += this.canvas === canvas; original.apply(this, given); };
                canvas.focus();
                for (const key of keys) canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
                await frame();
                draws.drawImage = original;
                return count;
            }""",
            keys,
        )
        assert drawings([]) == 0  # nothing moves
        assert drawings(["ArrowLeft", "ArrowRight"] * 15) == 4000
        assert 0 < drawings(["+"] * 7) < 1000  # 17 times as large
