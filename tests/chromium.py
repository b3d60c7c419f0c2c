"""Pages in a real browser, from files, offline: Debian's chromium, driven by Playwright (tests/browser)."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image


class opened_at:
    """A page from a file, with no network; it must ask for nothing and complain of nothing."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True, **options)
        self.page, self.path, self.wrong = self.context.new_page(), path, []

    def __enter__(self):
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("request", lambda request: self.wrong.append(request.url) if foreign(request, self.path) else None)
        self.page.goto(Path(self.path).as_uri())
        self.page.wait_for_selector("canvas[data-zoom]")
        self.page.locator(".plane canvas").scroll_into_view_if_needed()
        return self.page

    def __exit__(self, *_):
        self.context.close()
        assert self.wrong == []


def foreign(request, path):
    return request.url != Path(path).as_uri() and not request.url.startswith("data:")


def drawn(page, canvas=".plane canvas"):
    """Return what is on the map, `(h, w, 3)`, in bytes."""
    settle(page)
    address = page.evaluate(f"document.querySelector('{canvas}').toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def settle(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
