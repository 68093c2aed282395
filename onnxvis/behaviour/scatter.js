"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const canvas = by("canvas"), plot = by("plot"), card = by("card"), sprites = by("sprites");
  const pen = canvas.getContext("2d");
  const count = data.x.length;
  const X = Float32Array.from(data.x), Y = Float32Array.from(data.y);
  const extent = Math.max(1, ...[X, Y].map((axis) => axis.reduce((most, v) => Math.max(most, Math.abs(v)), 0)));
  const PALETTE = [
    "#3b7dd8", "#e0662f", "#2f9e54", "#c23b4a", "#8a5cc9", "#8c6239", "#d65fa8", "#27a6b5", "#a9a52b", "#6f7680",
    "#1f4e96", "#f0a04b", "#7cc47a", "#f08a8a", "#b9a1e6", "#c9a27c", "#f2b3d6", "#8fd3dc", "#d8d36b", "#aeb6bf",
  ];
  const MOST_CLASSES = 60;
  const REST = "#9aa0a8";
  const MANY = 3000;

  // --- classes and colors ------------------------------------------------------------------------
  const coded = (codes, names) => {
    const shown = names.slice(0, MOST_CLASSES);
    const classes = shown.map((name, k) => ({ name, color: PALETTE[k] ?? `hsl(${(k * 137.5) % 360} 55% 52%)` }));
    const rest = names.length > shown.length ? classes.push({ name: `${names.length - shown.length} other classes`, color: REST }) - 1 : -1;
    const missing = codes.some((c) => c < 0) ? classes.push({ name: "not stated", color: REST }) - 1 : -1;
    return { classes, of: Int16Array.from(codes, (c) => (c < 0 ? missing : c < shown.length ? c : rest)) };
  };
  const modes = [];
  if (data.labels.length) modes.push({ title: "Class", ...coded(data.label, data.labels) });
  if (data.classes.length) modes.push({ title: "Predicted class", ...coded(data.predicted, data.classes) });
  if (data.verdict.some((v) => v > 0)) {
    const classes = [{ name: "not comparable", color: REST }, { name: "right", color: "#2f7fd0" }, { name: "wrong", color: "#d8352c" }];
    modes.push({ title: "Right or wrong", classes, of: Int16Array.from(data.verdict) });
  }
  if (!modes.length) modes.push({ title: "One color", classes: [{ name: "pictures", color: PALETTE[0] }], of: new Int16Array(count) });

  const view = { scale: 1, x: 0, y: 0 };
  let mode = modes[0], order = [], off = new Set(), matches = null, hover = -1, pinned = -1, placed = [], waiting = false;
  let width = 1, height = 1, ratio = 1;

  const visible = (i) => !off.has(mode.of[i]);
  const lit = (i) => visible(i) && (matches === null || matches[i] === 1);
  const sx = (i) => width / 2 + (X[i] - view.x) * view.scale;
  const sy = (i) => height / 2 + (Y[i] - view.y) * view.scale;
  const whole = () => (0.93 * Math.min(width, height)) / (2 * extent);

  // --- drawing -----------------------------------------------------------------------------------
  const dots = new Map();
  const dot = (color, radius) => {
    const key = `${color} ${radius} ${ratio}`;
    if (!dots.has(key)) {
      const side = Math.ceil((2 * radius + 2) * ratio);
      const image = document.createElement("canvas");
      image.width = image.height = side;
      const brush = image.getContext("2d");
      brush.fillStyle = color;
      brush.beginPath();
      brush.arc(side / 2, side / 2, radius * ratio, 0, 2 * Math.PI);
      brush.fill();
      dots.set(key, image);
    }
    return dots.get(key);
  };
  const stamp = (image, x, y) => pen.drawImage(image, Math.round(x * ratio - image.width / 2), Math.round(y * ratio - image.height / 2));

  const softDots = (radius) => {
    for (const i of order) {
      if (!visible(i)) continue;
      const x = sx(i), y = sy(i);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      pen.globalAlpha = lit(i) ? 0.9 : 0.12;
      stamp(dot(mode.classes[mode.of[i]].color, radius), x, y);
    }
    pen.globalAlpha = 1;
  };

  // Many dots: written into the pixels themselves, ten times as fast without a GPU.
  let pixels = null;
  const inks = new Map();
  const ink = (color, alpha) => {
    const key = `${color} ${alpha}`;
    if (!inks.has(key)) {
      const brush = document.createElement("canvas").getContext("2d");
      brush.fillStyle = color;
      brush.fillRect(0, 0, 1, 1);
      const rgba = brush.getImageData(0, 0, 1, 1).data;
      rgba[3] = alpha;
      inks.set(key, new Uint32Array(rgba.buffer)[0]);
    }
    return inks.get(key);
  };
  const hardDots = (radius) => {
    const w = canvas.width, h = canvas.height, r = Math.max(1, radius * ratio), reach = Math.ceil(r);
    if (pixels === null || pixels.width !== w || pixels.height !== h) pixels = pen.createImageData(w, h);
    const out = new Uint32Array(pixels.data.buffer).fill(0);
    const spans = [];
    for (let dy = -reach; dy <= reach; dy++) {
      if (dy * dy <= r * r) spans.push([dy, Math.floor(Math.sqrt(r * r - dy * dy))]);
    }
    for (const bright of [false, true]) {
      if (!bright && matches === null) continue;
      const colors = mode.classes.map((one) => ink(one.color, bright ? 255 : 34));
      for (const i of order) {
        if (!visible(i) || lit(i) !== bright) continue;
        const x = Math.round(sx(i) * ratio), y = Math.round(sy(i) * ratio);
        if (x < -reach || y < -reach || x >= w + reach || y >= h + reach) continue;
        const color = colors[mode.of[i]];
        for (const [dy, half] of spans) {
          const row = y + dy;
          if (row >= 0 && row < h) out.fill(color, row * w + Math.max(0, x - half), row * w + Math.min(w, x + half + 1));
        }
      }
    }
    pen.putImageData(pixels, 0, 0);
  };

  const sprite = (brush, i, x, y, w, h) => {
    const s = data.side;
    brush.drawImage(sprites, (i % data.columns) * s, Math.floor(i / data.columns) * s, s, s, x, y, w, h);
  };

  const place = (tile) => {
    // One picture for each cell of a grid that is fixed to the data, so that none flickers while the view moves.
    const taken = new Set(), found = [], step = tile * 0.9;
    for (const first of [true, false]) {
      if (!first && matches === null) break;
      for (const i of order) {
        if (!visible(i) || lit(i) !== first) continue;
        const x = sx(i), y = sy(i);
        if (x < -tile || y < -tile || x > width + tile || y > height + tile) continue;
        const cell = Math.floor((X[i] * view.scale) / step) * 100003 + Math.floor((Y[i] * view.scale) / step);
        if (taken.has(cell)) continue;
        taken.add(cell);
        found.push(i);
      }
    }
    return found.reverse();
  };

  const draw = () => {
    waiting = false;
    const start = performance.now();
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const size = Number(by("size").value);
    const radius = by("pictures").checked ? Math.max(1.5, size / 2) : size;
    if (count > MANY) hardDots(radius);
    else softDots(radius);
    placed = [];
    if (by("pictures").checked) {
      const tile = 10 + 6 * size;
      placed = place(tile);
      const half = (tile * ratio) / 2, edge = Math.max(1.5, tile / 18) * ratio;
      for (const i of placed) {
        const x = sx(i) * ratio, y = sy(i) * ratio;
        pen.globalAlpha = lit(i) ? 1 : 0.15;
        pen.fillStyle = mode.classes[mode.of[i]].color;
        pen.fillRect(x - half - edge, y - half - edge, 2 * (half + edge), 2 * (half + edge));
        sprite(pen, i, x - half, y - half, 2 * half, 2 * half);
      }
    }
    pen.globalAlpha = 1;
    for (const i of new Set([hover, pinned])) {
      if (i < 0 || !visible(i)) continue;
      pen.strokeStyle = getComputedStyle(document.body).color;
      pen.lineWidth = 2.5 * ratio;
      pen.beginPath();
      pen.arc(sx(i) * ratio, sy(i) * ratio, (by("pictures").checked ? 10 + 3 * size : radius + 4) * ratio, 0, 2 * Math.PI);
      pen.stroke();
    }
    showCard();
    canvas.dataset.ms = (performance.now() - start).toFixed(1);
    canvas.dataset.zoom = (view.scale / whole()).toFixed(3);
  };
  const later = () => {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(draw);
    }
  };

  // --- the card ----------------------------------------------------------------------------------
  let shownCard = -2;
  const showCard = () => {
    const i = pinned >= 0 ? pinned : hover;
    card.hidden = i < 0 || !visible(i);
    card.classList.toggle("pinned", pinned >= 0);
    if (card.hidden) {
      shownCard = -2;
      return;
    }
    if (i !== shownCard) {
      shownCard = i;
      const brush = by("card-image").getContext("2d");
      brush.imageSmoothingEnabled = data.side > 40;
      sprite(brush, i, 0, 0, 96, 96);
      const lines = [["Picture", `${data.name[i]} (${data.id[i]})`]];
      if (data.label[i] >= 0) lines.push(["Class", data.labels[data.label[i]]]);
      if (data.predicted[i] >= 0) lines.push(["Predicted", `${data.classes[data.predicted[i]]}${data.score[i] === null ? "" : ` ${data.score[i].toPrecision(3)}`}`]);
      if (data.verdict[i] > 0) lines.push(["", data.verdict[i] === 1 ? "right" : "wrong"]);
      by("card-lines").replaceChildren(...lines.flatMap(([name, value]) => {
        const dt = document.createElement("dt"), dd = document.createElement("dd");
        dt.textContent = name;
        dd.textContent = value;
        return name ? [dt, dd] : [dd];
      }));
    }
    const x = sx(i), y = sy(i), w = card.offsetWidth, h = card.offsetHeight, away = 22;
    card.style.left = `${Math.max(4, Math.min(width - w - 4, x + away + w < width ? x + away : x - away - w))}px`;
    card.style.top = `${Math.max(4, Math.min(height - h - 4, y - h / 2))}px`;
  };

  // --- finding what is under the pointer -----------------------------------------------------------
  const SIDE = 160, buckets = Array.from({ length: SIDE * SIDE }, () => []);
  const bucket = (v) => Math.min(SIDE - 1, Math.max(0, Math.floor(((v + extent) / (2 * extent)) * SIDE)));
  for (let i = 0; i < count; i++) buckets[bucket(Y[i]) * SIDE + bucket(X[i])].push(i);

  const under = (px, py, reach = 9) => {
    const half = (10 + 6 * Number(by("size").value)) / 2;
    for (let k = placed.length - 1; k >= 0; k--) {
      const i = placed[k];
      if (Math.abs(sx(i) - px) <= half && Math.abs(sy(i) - py) <= half) return i;
    }
    const cx = view.x + (px - width / 2) / view.scale, cy = view.y + (py - height / 2) / view.scale;
    const r = reach / view.scale;
    let best = -1, least = r * r;
    for (let row = bucket(cy - r); row <= bucket(cy + r); row++) {
      for (let col = bucket(cx - r); col <= bucket(cx + r); col++) {
        for (const i of buckets[row * SIDE + col]) {
          const d = (X[i] - cx) ** 2 + (Y[i] - cy) ** 2;
          if (d <= least && lit(i)) [best, least] = [i, d];
        }
      }
    }
    return best;
  };

  // --- moving --------------------------------------------------------------------------------------
  const zoom = (factor, px = width / 2, py = height / 2) => {
    const scale = Math.min(Math.max(view.scale * factor, whole() / 2), whole() * 4000);
    view.x += (px - width / 2) * (1 / view.scale - 1 / scale);
    view.y += (py - height / 2) * (1 / view.scale - 1 / scale);
    view.scale = scale;
    later();
  };
  const reset = () => {
    Object.assign(view, { scale: whole(), x: 0, y: 0 });
    later();
  };
  const pointers = new Map();
  let dragged = 0, spread = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.isTrusted) canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 1) dragged = 0;
    spread = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event), before = pointers.get(event.pointerId);
    if (!before) {
      const found = under(now.x, now.y);
      canvas.classList.toggle("over", found >= 0);
      if (found !== hover) {
        hover = found;
        later();
      }
      return;
    }
    pointers.set(event.pointerId, now);
    if (pointers.size === 1) {
      dragged += Math.hypot(now.x - before.x, now.y - before.y);
      view.x -= (now.x - before.x) / view.scale;
      view.y -= (now.y - before.y) / view.scale;
      canvas.classList.add("moving");
      later();
    } else {
      const [a, b] = [...pointers.values()];
      const distance = Math.hypot(a.x - b.x, a.y - b.y);
      dragged = 99;
      if (spread > 0 && distance > 0) zoom(distance / spread, (a.x + b.x) / 2, (a.y + b.y) / 2);
      spread = distance;
    }
  });
  const release = (event) => {
    const known = pointers.delete(event.pointerId);
    spread = 0;
    canvas.classList.remove("moving");
    if (known && event.type === "pointerup" && dragged < 5) {
      const { x, y } = at(event);
      const found = under(x, y, event.pointerType === "touch" ? 18 : 9);
      pinned = found === pinned ? -1 : found;
      hover = found;
      later();
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => {
    if (pointers.size === 0 && hover >= 0) {
      hover = -1;
      later();
    }
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = at(event);
    zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY * (event.deltaMode === 1 ? 16 : 1))) / 320), x, y);
  }, { passive: false });

  const center = (i) => {
    const x = sx(i), y = sy(i);
    if (x < 30 || y < 30 || x > width - 30 || y > height - 30) [view.x, view.y] = [X[i], Y[i]];
  };
  const step = (direction) => {
    let i = hover < 0 ? (direction > 0 ? -1 : count) : hover;
    do i += direction; while (i >= 0 && i < count && !lit(i));
    if (i < 0 || i >= count) return;
    hover = i;
    if (pinned >= 0) pinned = i;
    center(i);
    later();
  };
  const keys = {
    ArrowLeft: () => (view.x -= (width * 0.1) / view.scale),
    ArrowRight: () => (view.x += (width * 0.1) / view.scale),
    ArrowUp: () => (view.y -= (height * 0.1) / view.scale),
    ArrowDown: () => (view.y += (height * 0.1) / view.scale),
    "+": () => zoom(1.3),
    "=": () => zoom(1.3),
    "-": () => zoom(1 / 1.3),
    0: reset,
    n: () => step(1),
    p: () => step(-1),
    Enter: () => (pinned = pinned === hover ? -1 : hover),
    Escape: () => (pinned = hover = -1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
    later();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input, select")) {
      event.preventDefault();
      by("find").focus();
    }
  });

  // --- controls ------------------------------------------------------------------------------------
  const search = () => {
    const words = by("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) {
      matches = null;
      by("found").textContent = `${count.toLocaleString("en")} pictures`;
    } else {
      matches = new Uint8Array(count);
      const lower = (names) => names.map((name) => name.toLowerCase());
      const labels = lower(data.labels), classes = lower(data.classes);
      let found = 0;
      for (let i = 0; i < count; i++) {
        const text = `${data.name[i].toLowerCase()} ${labels[data.label[i]] ?? ""} ${classes[data.predicted[i]] ?? ""} `;
        matches[i] = words.every((word) => text.includes(word) || word === String(data.id[i])) ? 1 : 0;
        found += matches[i];
      }
      by("found").textContent = `${found.toLocaleString("en")} of ${count.toLocaleString("en")} found`;
    }
    later();
  };
  const toMatches = () => {
    const found = [...X.keys()].filter(lit);
    if (matches === null || !found.length) return;
    const [xs, ys] = [found.map((i) => X[i]), found.map((i) => Y[i])];
    const edges = [xs, ys].map((v) => [v.reduce((a, b) => Math.min(a, b)), v.reduce((a, b) => Math.max(a, b))]);
    [view.x, view.y] = edges.map(([a, b]) => (a + b) / 2);
    const wide = Math.max((edges[0][1] - edges[0][0]) / width, (edges[1][1] - edges[1][0]) / height);
    view.scale = wide > 0 ? Math.min(0.8 / wide, whole() * 60) : whole() * 12;
    hover = found[0];
    later();
  };
  const legend = () => {
    const numbers = new Array(mode.classes.length).fill(0);
    for (const k of mode.of) numbers[k] += 1;
    by("legend-title").textContent = mode.title;
    by("legend").replaceChildren(...mode.classes.flatMap((one, k) => {
      if (!numbers[k]) return [];
      const item = document.createElement("li"), label = document.createElement("label");
      const box = document.createElement("input"), swatch = document.createElement("span");
      const name = document.createElement("bdi"), number = document.createElement("span");
      box.type = "checkbox";
      box.checked = !off.has(k);
      box.addEventListener("change", () => {
        if (box.checked) off.delete(k);
        else off.add(k);
        later();
      });
      swatch.className = "swatch";
      swatch.style.background = one.color;
      name.className = "name";
      name.textContent = name.title = one.name;
      number.className = "number";
      number.textContent = numbers[k].toLocaleString("en");
      label.append(box, swatch, name, number);
      item.append(label);
      return [item];
    }));
  };
  const choose = () => {
    mode = modes[Number(by("color").value)];
    off = new Set();
    // By class, so that a class is drawn in one go; within it in a fixed mixture, so that no class hides another.
    order = [...X.keys()].sort((a, b) => ((a * 7919) % 104729) - ((b * 7919) % 104729));
    legend();
    later();
  };
  by("color").replaceChildren(...modes.map((one, k) => new Option(one.title, String(k))));
  by("color").addEventListener("change", choose);
  by("find").addEventListener("input", search);
  by("find").addEventListener("keydown", (event) => {
    if (event.key === "Enter") toMatches();
    if (event.key === "Escape") {
      by("find").value = "";
      search();
      canvas.focus();
    }
  });
  by("pictures").addEventListener("change", later);
  by("size").addEventListener("input", later);
  by("reset").addEventListener("click", reset);
  by("all").addEventListener("click", () => { off = new Set(); legend(); later(); });
  by("none").addEventListener("click", () => { off = new Set(mode.classes.keys()); legend(); later(); });
  by("tools").addEventListener("submit", (event) => event.preventDefault());

  const resize = () => {
    const box = plot.getBoundingClientRect();
    const before = whole();
    [width, height, ratio] = [Math.max(1, box.width), Math.max(1, box.height), window.devicePixelRatio || 1];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    view.scale *= whole() / before;
    later();
  };
  by("size").value = count > 6000 ? "2" : count > 1500 ? "3" : "4";
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  new ResizeObserver(resize).observe(plot);
  resize();
  reset();
  search();
  choose();
  const ready = () => {
    draw();
    canvas.dataset.ready = "1";
  };
  if (sprites.complete) ready();
  else sprites.addEventListener("load", ready);
})();
