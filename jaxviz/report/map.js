// Makes a map of a picture whose squares are images: at the places that similarity gives them, to move about in. The
// picture itself, all squares in a grid, is what the page shows without scripts; here it is the sheet that squares are
// cut from. Beside it lies what is known of them, as JSON: see jaxviz/report/_map.py.
"use strict";
for (const figure of document.querySelectorAll("figure.map")) {
  const sheet = figure.querySelector("img");
  sheet.decode().then(() => makeMap(figure, sheet, JSON.parse(figure.querySelector("script").textContent)));
}

function makeMap(figure, sheet, { side, points, cells, near, names }) {
  const frame = document.createElement("div");
  frame.className = "frame";
  frame.innerHTML = `<div class="tools">
    <button type="button" data-do="in" aria-label="Zoom in">+</button>
    <button type="button" data-do="out" aria-label="Zoom out">−</button>
    <button type="button" data-do="all">All</button>
    <button type="button" data-do="grid" aria-pressed="false">Grid</button>
    <span>Drag to move, click and scroll to zoom. Point at an image to see it, and those most like it.</span></div>
    <div class="plane"><canvas tabindex="0" role="application"
    aria-label="Map of images: drag to move, scroll to zoom, arrows and + - 0"></canvas></div>
    <div class="told"><canvas></canvas><ol></ol></div>`;
  sheet.closest("button").replaceWith(frame);
  const [canvas, large] = frame.querySelectorAll("canvas"), list = frame.querySelector("ol");
  const draw2d = canvas.getContext("2d"), levels = halves(sheet, side), count = points.length;
  const columns = 1 + Math.max(...cells.map((cell) => cell[1])), rows = 1 + Math.max(...cells.map((cell) => cell[0]));
  const spread = Math.max(columns, rows);
  const gridded = cells.map(([row, column]) => [(column + 0.5) / spread, (row + 0.5) / spread]);
  let places = points, width = 0, height = 0, view = null, base = 1, hovered = -1, waiting = false, last = null;
  const pointers = new Map();

  // A place is in the unit square; on the screen it is at view.x + place * view.zoom, in CSS pixels.
  const fit = () => {
    const zoom = Math.min(width, height) - base;
    return { zoom, x: (width - zoom) / 2, y: (height - zoom) / 2, home: zoom };
  };
  // Images grow half as fast as the ways between them, so that zooming in takes them apart; in the grid they touch.
  const size = () => places === gridded ? view.zoom / spread : base * Math.sqrt(view.zoom / view.home);
  const at = (i) => [view.x + places[i][0] * view.zoom, view.y + places[i][1] * view.zoom];

  function resize() {
    const scale = window.devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    base = Math.min(side, Math.max(8, 0.8 * Math.min(width, height) / Math.sqrt(count)));
    view = fit();
    redraw();
  }

  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  function draw() {
    const start = performance.now(), scale = canvas.width / width, s = size(), level = levelFor(s * scale);
    draw2d.setTransform(scale, 0, 0, scale, 0, 0);
    draw2d.clearRect(0, 0, width, height);
    for (let i = 0; i < count; i++) square(i, s, level);
    if (hovered >= 0) {
      const [x, y] = at(hovered);
      draw2d.strokeStyle = draw2d.fillStyle = getComputedStyle(canvas).color;
      for (const other of near[hovered]) {
        const [u, v] = at(other);
        draw2d.lineWidth = 1.5;
        draw2d.beginPath();
        draw2d.moveTo(x, y);
        draw2d.lineTo(u, v);
        draw2d.stroke();
      }
      for (const other of [...near[hovered], hovered]) {
        const [u, v] = at(other), edge = other === hovered ? 4 : 2;
        draw2d.fillRect(u - s / 2 - edge, v - s / 2 - edge, s + 2 * edge, s + 2 * edge);
        square(other, s, level);
      }
    }
    canvas.dataset.milliseconds = (performance.now() - start).toFixed(2);
    canvas.dataset.zoom = (view.zoom / view.home).toFixed(3);
  }

  function square(i, s, level) {
    const x = view.x + places[i][0] * view.zoom - s / 2, y = view.y + places[i][1] * view.zoom - s / 2;
    if (x > width || y > height || x + s < 0 || y + s < 0) return;
    const cut = level.side, [row, column] = cells[i];
    draw2d.drawImage(level.image, column * cut, row * cut, cut, cut, x, y, s, s);
  }

  function levelFor(pixels) {  // the smallest that is not drawn larger than it is
    return levels.find((each) => each.side >= pixels) || levels[levels.length - 1];
  }

  function zoom(times, x, y) {
    const wanted = Math.min(64, Math.max(0.5, view.zoom / view.home * times)) * view.home;
    times = wanted / view.zoom;
    view = { ...view, zoom: wanted, x: x + (view.x - x) * times, y: y + (view.y - y) * times };
    redraw();
  }

  function move(x, y) {
    view = { ...view, x: view.x + x, y: view.y + y };
    redraw();
  }

  function under(x, y) {  // the last one drawn lies on top
    const half = size() / 2;
    for (let i = count - 1; i >= 0; i--) {
      const [u, v] = at(i);
      if (Math.abs(u - x) <= half && Math.abs(v - y) <= half) return i;
    }
    return -1;
  }

  function tell(i) {
    if (i === hovered) return;
    hovered = i;
    redraw();
    if (i < 0) return;  // what was told last stays
    const shown = [i, ...near[i]], scale = window.devicePixelRatio || 1, across = large.clientWidth, gap = 4;
    const small = Math.min(side, (across + gap) / 4 - gap), big = Math.min(across, 2 * side);
    const lines = Math.ceil(near[i].length / 4);
    large.style.height = `${big + lines * (small + gap)}px`;
    large.width = Math.round(across * scale);
    large.height = Math.round((big + lines * (small + gap)) * scale);
    const context = large.getContext("2d");
    context.scale(scale, scale);
    shown.forEach((other, n) => {
      const [row, column] = cells[other], s = n ? small : big;
      const x = n ? ((n - 1) % 4) * (small + gap) : 0, y = n ? big + gap + Math.floor((n - 1) / 4) * (small + gap) : 0;
      context.drawImage(sheet, column * side, row * side, side, side, x, y, s, s);
    });
    list.replaceChildren(...shown.map((other) => {
      const line = document.createElement("li");
      line.textContent = names[other];
      return line;
    }));
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const middle = () => {
    const all = [...pointers.values()], mean = (k) => all.reduce((sum, each) => sum + each[k], 0) / all.length;
    return { x: mean(0), y: mean(1), apart: all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 0 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    last = middle();
    tell(under(...place(event)));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) {
      tell(under(...place(event)));
      return;
    }
    pointers.set(event.pointerId, place(event));
    const now = middle();
    move(now.x - last.x, now.y - last.y);
    if (now.apart && last.apart) zoom(now.apart / last.apart, now.x, now.y);
    last = now;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size) last = middle();
    });
  }
  canvas.addEventListener("pointerleave", () => tell(-1));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;  // the page is being scrolled past it
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002) * (event.ctrlKey ? 4 : 1)), ...place(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...place(event)));
  const actions = {
    in: () => zoom(1.5, width / 2, height / 2),
    out: () => zoom(1 / 1.5, width / 2, height / 2),
    all: () => { view = fit(); redraw(); },
    grid: (button) => {
      places = places === points ? gridded : points;
      button.setAttribute("aria-pressed", places === gridded);
      view = fit();
      redraw();
    },
  };
  for (const button of frame.querySelectorAll("button")) {
    button.addEventListener("click", () => actions[button.dataset.do](button));
  }
  const keys = {
    "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.all,
    ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0), ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  new ResizeObserver(resize).observe(canvas);
}

function halves(sheet, side) {  // the sheet at half its size, and so on: a browser's shrinking leaves pixels out
  const levels = [{ image: sheet, side }];
  while (levels[0].side % 2 === 0 && levels[0].side > 8) {
    const half = document.createElement("canvas");
    half.width = levels[0].image.width / 2;
    half.height = levels[0].image.height / 2;
    half.getContext("2d").drawImage(levels[0].image, 0, 0, half.width, half.height);
    levels.unshift({ image: half, side: levels[0].side / 2 });
  }
  return levels;
}
