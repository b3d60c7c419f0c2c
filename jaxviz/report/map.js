// Makes a map of a picture whose squares are images: at the places that a layout gives them, to move about in. The
// picture itself, all squares in a grid, is what the page shows without scripts; here it is the sheet that squares are
// cut from. Beside it lies what is known of them, as JSON: see jaxviz/report/_map.py.
"use strict";
for (const figure of document.querySelectorAll("figure.map")) {
  const sheet = figure.querySelector("img");
  sheet.decode().then(() => makeMap(figure, sheet, JSON.parse(figure.querySelector("script").textContent)));
}

function makeMap(figure, sheet, { side, points, cells, near, names, layouts, labels, classes }) {
  layouts = layouts || [{ name: "Map", points }];
  const frame = document.createElement("div");
  frame.className = "frame";
  frame.innerHTML = `<div class="tools">
    <button type="button" data-do="in" aria-label="Zoom in">+</button>
    <button type="button" data-do="out" aria-label="Zoom out">−</button>
    <button type="button" data-do="all">All</button>
    <b class="layouts" role="group" aria-label="Layout"></b>
    <button type="button" data-do="grid" aria-pressed="false">Grid</button>
    <button type="button" data-do="dots" aria-pressed="false">Dots</button>
    <button type="button" data-do="pick" aria-pressed="false">Select</button>
    <input type="search" aria-label="Find by name" placeholder="Find by name">
    <output></output>
    <span>Drag to move, click and scroll to zoom. Point at an image to see it, and those most like it. Select, or hold
    Shift, and draw around a group.</span></div>
    <div class="legend" role="group" aria-label="Labels" hidden></div>
    <div class="plane"><canvas tabindex="0" role="application"
    aria-label="Map of images: drag to move, scroll to zoom, arrows and + - 0"></canvas></div>
    <div class="side"><div class="chosen" hidden><p><strong></strong>
    <button type="button" data-do="save">Save names</button>
    <button type="button" data-do="clear">Clear</button></p><canvas></canvas><ol></ol></div>
    <div class="told"><canvas></canvas><ol></ol></div></div>`;
  sheet.closest("button").replaceWith(frame);
  const find = (what) => frame.querySelector(what);
  const canvas = find(".plane canvas"), large = find(".told canvas"), list = find(".told ol"), search = find("input");
  const draw2d = canvas.getContext("2d"), levels = halves(sheet, side), count = cells.length;
  const columns = 1 + Math.max(...cells.map((cell) => cell[1])), rows = 1 + Math.max(...cells.map((cell) => cell[0]));
  const spread = Math.max(columns, rows);
  const gridded = cells.map(([row, column]) => [(column + 0.5) / spread, (row + 0.5) / spread]);
  const colors = (classes || []).map((_, k) => colorOf(k, classes.length)), off = new Set();
  let layout = layouts[0].points, places = layout, depths = null, turn = [0.5, -0.3], dots = false, picking = false;
  let order = names.map((_, i) => i), lit = null, picked = new Set(), lasso = null;
  let width = 0, height = 0, view = null, base = 1, hovered = -1, waiting = false, last = null, ink = "";
  const pointers = new Map();

  // A place is in the unit square; on the screen it is at view.x + place * view.zoom, in CSS pixels.
  const fit = () => {
    const zoom = Math.min(width, height) - base;
    return { zoom, x: (width - zoom) / 2, y: (height - zoom) / 2, home: zoom };
  };
  // Images grow half as fast as the ways between them, so that zooming in takes them apart; in the grid they touch.
  const size = () => places === gridded ? view.zoom / spread : base * Math.sqrt(view.zoom / view.home);
  const radius = () => 0.5 * Math.min(size(), Math.max(5, 0.35 * size()));
  const half = () => dots ? radius() : size() / 2;
  const at = (i) => [view.x + places[i][0] * view.zoom, view.y + places[i][1] * view.zoom];
  const isLit = (i) => !lit || lit[i];
  const solid = () => layout.length > 0 && layout[0].length === 3 && places !== gridded;

  function show(points) {
    layout = points;
    if (points !== gridded && points.length && points[0].length === 3) {
      project();
    } else {
      [places, depths, order] = [points, null, names.map((_, i) => i)];
    }
  }

  function project() {  // what is in three dimensions, seen from far away; what is behind is drawn first
    const [[a, b], [c, d]] = turn.map((angle) => [Math.cos(angle), Math.sin(angle)]);
    places = new Array(count);
    depths = new Float32Array(count);
    layout.forEach(([x, y, z], i) => {
      const across = a * x + b * z, far = a * z - b * x;
      places[i] = [0.5 + across, 0.5 + c * y - d * far];
      depths[i] = c * far + d * y;
    });
    order.sort((i, j) => depths[i] - depths[j]);
  }

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
    if (waiting || !view) return;  // there is no room yet
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
    ink = getComputedStyle(canvas).color;
    if (lit) {
      draw2d.globalAlpha = 0.12;
      for (const i of order) if (!lit[i]) square(i, s, level);
    }
    for (const i of order) {
      if (!isLit(i)) continue;
      draw2d.globalAlpha = depths ? 0.55 + 0.45 * Math.min(1, Math.max(0, depths[i] + 0.5)) : 1;
      square(i, s, level);
    }
    draw2d.globalAlpha = 1;
    draw2d.strokeStyle = draw2d.fillStyle = ink;
    if (hovered >= 0) {
      const [x, y] = at(hovered);
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
        image(other, s, level);
      }
    }
    if (lasso && lasso.length > 1) {
      draw2d.lineWidth = 2;
      draw2d.beginPath();
      lasso.forEach(([x, y], k) => k ? draw2d.lineTo(x, y) : draw2d.moveTo(x, y));
      draw2d.closePath();
      draw2d.stroke();
    }
    canvas.dataset.milliseconds = (performance.now() - start).toFixed(2);
    canvas.dataset.zoom = (view.zoom / view.home).toFixed(3);
    canvas.dataset.lit = lit ? lit.reduce((sum, each) => sum + each, 0) : count;
    canvas.dataset.picked = picked.size;
  }

  const outside = (x, y, s) => x - s > width || y - s > height || x + s < 0 || y + s < 0;

  function square(i, s, level) {
    const [x, y] = at(i);
    if (outside(x, y, s)) return;
    if (picked.has(i)) {  // beneath it, so that a crowd does not hide in frames
      const reach = half() + (dots ? 1.5 : 2.5);
      draw2d.fillStyle = ink;
      draw2d.beginPath();
      dots ? draw2d.arc(x, y, reach, 0, 7) : draw2d.rect(x - reach, y - reach, 2 * reach, 2 * reach);
      draw2d.fill();
    }
    if (!dots) {
      image(i, s, level);
      return;
    }
    draw2d.fillStyle = labels ? colors[labels[i]] || "#888" : ink;
    draw2d.beginPath();
    draw2d.arc(x, y, radius(), 0, 7);
    draw2d.fill();
  }

  function image(i, s, level) {
    const [u, v] = at(i), cut = level.side, [row, column] = cells[i];
    draw2d.drawImage(level.image, column * cut, row * cut, cut, cut, u - s / 2, v - s / 2, s, s);
    if (!labels || labels[i] < 0) return;
    const edge = Math.max(1, 0.08 * s);
    draw2d.strokeStyle = colors[labels[i]];
    draw2d.lineWidth = edge;
    draw2d.strokeRect(u - s / 2 + edge / 2, v - s / 2 + edge / 2, s - edge, s - edge);
    draw2d.strokeStyle = ink;
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

  function drag(x, y) {  // what is solid is turned
    if (!solid()) {
      move(x, y);
      return;
    }
    turn = [turn[0] + 3 * x / view.home, Math.min(1.5, Math.max(-1.5, turn[1] - 3 * y / view.home))];
    project();
    redraw();
  }

  function under(x, y) {  // the last one drawn lies on top
    const reach = Math.max(half(), 3);
    for (let k = count - 1; k >= 0; k--) {
      const i = order[k], [u, v] = at(i);
      if (isLit(i) && Math.abs(u - x) <= reach && Math.abs(v - y) <= reach) return i;
    }
    return -1;
  }

  function filter() {  // by name or label, and by the labels that are switched off
    const wanted = search.value.trim().toLowerCase();
    const says = (i) => names[i].toLowerCase().includes(wanted) || titleOf(i).toLowerCase().includes(wanted);
    lit = wanted || off.size
      ? names.map((_, i) => Number(!(labels && off.has(labels[i])) && (!wanted || says(i)))) : null;
    find("output").textContent = lit ? `${lit.reduce((sum, each) => sum + each, 0)} of ${count}` : "";
    redraw();
  }

  const titleOf = (i) => labels && labels[i] >= 0 ? classes[labels[i]] : "";

  function pick(chosen) {
    picked = new Set(chosen);
    find(".chosen").hidden = !picked.size;
    const shown = [...picked].slice(0, 24), counts = new Map();
    for (const i of picked) if (titleOf(i)) counts.set(titleOf(i), 1 + (counts.get(titleOf(i)) || 0));
    const told = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5).map(([name, n]) => `${n} ${name}`);
    find(".chosen strong").textContent = `${picked.size} selected${told.length ? `: ${told.join(", ")}` : ""}`;
    tiles(find(".chosen canvas"), shown, 0);
    fill(find(".chosen ol"), [...picked].slice(0, 200).map((i) => names[i]));
    redraw();
  }

  function fill(list, lines) {
    list.replaceChildren(...lines.map((text) => {
      const line = document.createElement("li");
      line.textContent = text;
      return line;
    }));
  }

  function tiles(board, shown, first) {  // squares, four in a row; the first ones large
    const scale = window.devicePixelRatio || 1, across = board.clientWidth, gap = 4;
    const small = Math.min(side, (across + gap) / 4 - gap), big = first ? Math.min(across, 2 * side) + gap : 0;
    const high = big + Math.ceil((shown.length - first) / 4) * (small + gap);
    board.style.height = `${high}px`;
    board.width = Math.round(across * scale);
    board.height = Math.round(high * scale);
    const context = board.getContext("2d");
    context.scale(scale, scale);
    shown.forEach((other, n) => {
      const [row, column] = cells[other], k = n - first, s = n < first ? big - gap : small;
      const x = k < 0 ? 0 : (k % 4) * (small + gap), y = k < 0 ? 0 : big + Math.floor(k / 4) * (small + gap);
      context.drawImage(sheet, column * side, row * side, side, side, x, y, s, s);
    });
  }

  function tell(i) {
    if (i === hovered) return;
    hovered = i;
    redraw();
    if (i < 0) return;  // what was told last stays
    tiles(large, [i, ...near[i]], 1);
    fill(list, [i, ...near[i]].map((other) => titleOf(other) ? `${names[other]} (${titleOf(other)})` : names[other]));
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
    lasso = (picking || event.shiftKey) && pointers.size === 1 ? [place(event)] : null;
    if (!lasso) tell(under(...place(event)));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) {
      tell(under(...place(event)));
      return;
    }
    pointers.set(event.pointerId, place(event));
    const now = middle();
    if (lasso) {
      lasso.push(place(event));
      redraw();
    } else if (now.apart && last.apart) {
      move(now.x - last.x, now.y - last.y);
      zoom(now.apart / last.apart, now.x, now.y);
    } else {
      drag(now.x - last.x, now.y - last.y);
    }
    last = now;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size) last = middle();
      if (lasso && name === "pointerup") {
        const around = lasso;
        lasso = null;
        pick(order.filter((i) => isLit(i) && inside(at(i), around)).sort((i, j) => i - j));
      }
      lasso = null;
    });
  }
  canvas.addEventListener("pointerleave", () => tell(-1));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;  // the page is being scrolled past it
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002) * (event.ctrlKey ? 4 : 1)), ...place(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...place(event)));

  const press = (name, pressed) => find(`[data-do=${name}]`).setAttribute("aria-pressed", pressed);
  let chosen = 0;
  function choose(k) {
    chosen = k;
    show(layouts[k].points);
    press("grid", false);
    frame.querySelectorAll(".layouts button").forEach((each, j) => each.setAttribute("aria-pressed", j === k));
    canvas.dataset.layout = layouts[k].name;
    if (view) view = fit();
    redraw();
  }
  const actions = {
    in: () => zoom(1.5, width / 2, height / 2),
    out: () => zoom(1 / 1.5, width / 2, height / 2),
    all: () => { view = fit(); redraw(); },
    grid: () => {
      if (places === gridded) {
        choose(chosen);
        return;
      }
      show(gridded);
      press("grid", true);
      view = fit();
      redraw();
    },
    dots: () => { dots = !dots; press("dots", dots); redraw(); },
    pick: () => { picking = !picking; press("pick", picking); },
    clear: () => pick([]),
    save: () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([[...picked].map((i) => names[i] + "\n").join("")], { type: "text/plain" }));
      link.download = "names.txt";
      link.click();
      URL.revokeObjectURL(link.href);
    },
  };
  for (const button of frame.querySelectorAll("button[data-do]")) {
    button.addEventListener("click", () => actions[button.dataset.do](button));
  }
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && lit) pick(names.map((_, i) => i).filter(isLit));
  });
  if (layouts.length > 1) {
    find(".layouts").append(...layouts.map((each, k) => button(each.name, () => choose(k))));
  }
  if (labels) {
    find(".legend").hidden = false;
    find(".legend").append(...classes.map((name, k) => {
      const made = button(`${name} ${labels.reduce((sum, each) => sum + (each === k), 0)}`, () => {
        off.has(k) ? off.delete(k) : off.add(k);
        made.setAttribute("aria-pressed", !off.has(k));
        filter();
      });
      made.setAttribute("aria-pressed", true);
      made.style.setProperty("--color", colors[k]);
      return made;
    }));
  }
  const keys = {
    "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.all, Escape: actions.clear,
    ArrowLeft: () => drag(40, 0), ArrowRight: () => drag(-40, 0), ArrowUp: () => drag(0, 40), ArrowDown: () => drag(0, -40),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  choose(0);
  new ResizeObserver(resize).observe(canvas);
}

function button(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

function inside([x, y], around) {  // by how often a line from there crosses the outline
  let within = false;
  around.forEach(([a, b], k) => {
    const [c, d] = around[(k + 1) % around.length];
    if ((b > y) !== (d > y) && x < (c - a) * (y - b) / (d - b) + a) within = !within;
  });
  return within;
}

function colorOf(k, count) {  // Okabe and Ito's, which most people tell apart; more of them around the circle of hues
  const few = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a500", "#7f3c8d"];
  return count <= few.length ? few[k] : `hsl(${(k * 137.5) % 360} ${k % 2 ? 60 : 85}% ${[45, 60, 35][k % 3]}%)`;
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
