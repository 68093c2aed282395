"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const page = JSON.parse($("page-data").textContent);
  const cards = [...document.querySelectorAll(".card")];
  const controls = $("controls");
  const SVG = "http://www.w3.org/2000/svg";

  // --- numbers and colors -----------------------------------------------------------------------

  const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const tables = Object.fromEntries(Object.entries(page.colors).map(([kind, text]) => [kind, fromBase64(text)]));
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  const format = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 1e-3 || size >= 1e5 ? size.toExponential(1).replace("e+", "e") : String(Number(size.toPrecision(3)));
    return (value < 0 ? "\u2212" : "") + text.replace("e-", "e\u2212");
  };

  // A color (red, green, blue, opacity) for a value, as a part of the scale: -1 to 1, or 0 to 1.
  const color = (part, signed, gray) => {
    if (gray) {
      const white = part > 0 ? 255 : 0;
      return [white, white, white, Math.round(235 * Math.pow(Math.abs(part), 0.7))];
    }
    const at = 4 * Math.round(signed ? (clamp(part, -1, 1) + 1) * 127.5 : 255 * clamp(part, 0, 1));
    return tables[signed ? "diverging" : "sequential"].subarray(at, at + 4);
  };

  const levelColors = (map, limit, gray) => {
    const colors = new Uint32Array(256);
    const bytes = new Uint8ClampedArray(colors.buffer);
    for (let q = 1; q < 256; q++) {
      const s = map.signed ? (q - 128) / 127 : (q - 1) / 254;
      bytes.set(color(clamp((Math.sign(s) * s * s * map.most) / limit, -1, 1), map.signed, gray), 4 * q);
    }
    return colors;
  };

  const inflate = async (map) => {
    const stream = new Blob([fromBase64(map.data)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const levels = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let row = 0; row < map.h; row++) {
      for (let k = row * map.w + 1; k < (row + 1) * map.w; k++) levels[k] = (levels[k] + levels[k - 1]) & 255;
    }
    map.levels = levels;
    map.data = null;
  };

  const strip = (canvas, signed, gray) => {
    const context = canvas.getContext("2d");
    const image = context.createImageData(256, 1);
    const ground = gray ? [128, 128, 128] : [243, 242, 239];
    for (let k = 0; k < 256; k++) {
      const [r, g, b, a] = color(signed ? k / 127.5 - 1 : k / 255, signed, gray);
      [r, g, b].forEach((v, i) => { image.data[4 * k + i] = (v * a + ground[i] * (255 - a)) / 255; });
      image.data[4 * k + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };

  // --- what is chosen ---------------------------------------------------------------------------

  const state = { methods: new Set(page.methods.keys()), target: 0, view: "overlay", opacity: 1, scale: "own", gray: false };
  const limitOf = (map) => (state.scale === "shared" && page.shared[map.m].limit) || map.limit;

  // --- pictures ---------------------------------------------------------------------------------

  const stored = new WeakMap();
  const prepared = (card) => {
    if (!stored.has(card)) {
      const data = JSON.parse(card.querySelector("script.data").textContent);
      data.ready = Promise.all(data.maps.map(inflate)).then(() => { data.done = true; });
      stored.set(card, data);
    }
    return stored.get(card);
  };

  // Picture, map and hatching of one frame; they are made once and painted as often as something changes.
  const furnish = (frame, card, data) => {
    const original = card.querySelector(".original .photo");
    const photo = document.createElement("img");
    photo.className = "photo";
    photo.alt = "";
    photo.decoding = "async";
    photo.src = original.src;
    const heat = document.createElement("canvas");
    heat.className = "heat";
    const [x0, y0, x1, y1] = data.box;
    Object.assign(heat.style, {
      left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%`,
    });
    frame.append(photo, heat);
    if (x0 > 0.001 || y0 > 0.001 || x1 < 0.999 || y1 < 0.999) frame.append(hatching(data.box, original));
    const object = card.querySelector(".original .object");
    if (object) frame.append(object.cloneNode(true));
    return frame;
  };

  const hatching = ([x0, y0, x1, y1], original) => {
    const w = 300, h = (300 * original.getAttribute("height")) / original.getAttribute("width");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "unseen");
    svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("fill-rule", "evenodd");
    path.setAttribute("fill", "url(#hatch)");
    path.setAttribute("d", `M0 0H${w}V${h}H0ZM${x0 * w} ${y0 * h}V${y1 * h}H${x1 * w}V${y0 * h}Z`);
    svg.append(path);
    return svg;
  };

  const paint = (frame, map) => {
    const heat = frame.querySelector(".heat");
    frame.classList.toggle("empty", !map);
    if (!map) return;
    heat.width = map.w;
    heat.height = map.h;
    const image = new ImageData(map.w, map.h);
    const pixels = new Uint32Array(image.data.buffer);
    const colors = levelColors(map, limitOf(map), state.gray);
    for (let k = 0; k < pixels.length; k++) pixels[k] = colors[map.levels[k]];
    heat.getContext("2d").putImageData(image, 0, 0);
  };

  const caption = (figure, map) => {
    const bar = figure.querySelector(".bar");
    bar.hidden = !map;
    figure.querySelector(".units").textContent = map ? map.units : "";
    figure.querySelector(".target").textContent = map ? `of ${map.name}, score ${map.score}` : "no map of this class here";
    if (!map) return;
    const limit = limitOf(map);
    figure.querySelector(".lo").textContent = map.signed ? format(-limit) : "0";
    figure.querySelector(".hi").textContent = format(limit);
    strip(bar.querySelector("canvas"), map.signed, state.gray);
  };

  const mapOf = (data, method) => data.maps.find((map) => map.m === method && map.t === state.target);

  const draw = (card) => {
    const data = prepared(card);
    if (!data.done) {
      data.ready.then(() => { if (card.dataset.near || card.dataset.print) draw(card); });
      return;
    }
    const name = card.querySelector("h3 bdi").textContent;
    for (const figure of card.querySelectorAll("figure.map")) {
      const method = Number(figure.dataset.method);
      if (!state.methods.has(method)) continue;
      const frame = figure.querySelector(".frame");
      const map = mapOf(data, method);
      if (!frame.firstChild) furnish(frame, card, data);
      paint(frame, map);
      caption(figure, map);
      const what = map ? `${page.methods[method].title} of ${map.name}: ${map.about}` : `${page.methods[method].title}: no map`;
      frame.setAttribute("aria-label", `${what}. Enlarge ${name}`);
    }
    card.dataset.drawn = "1";
  };

  const redraw = () => {
    for (const card of cards) {
      delete card.dataset.drawn;
      if (card.dataset.near && !card.hidden) draw(card);
    }
    if ($("zoom").open) zoom.paint();
  };

  const watcher = new IntersectionObserver((seen) => {
    for (const { target: card, isIntersecting } of seen) {
      if (isIntersecting) {
        card.dataset.near = "1";
        if (!card.dataset.drawn) draw(card);
      } else if (card.dataset.near) {
        delete card.dataset.near;
        delete card.dataset.drawn;
        for (const canvas of card.querySelectorAll(".heat")) canvas.width = canvas.height = 0;
      }
    }
  }, { rootMargin: "900px 0px" });

  // --- search, filter, order --------------------------------------------------------------------

  const value = (entry, key) => (key.startsWith("metrics.") ? entry.metrics[key.slice(8)] : entry[key]) ?? null;

  const matches = {
    "": () => true,
    wrong: (entry) => entry.right === false,
    right: (entry) => entry.right === true,
    unsure: (entry) => entry.confidence < 0.5,
    problems: (entry) => entry.problems > 0,
  };

  const choose = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = matches[$("filter").value];
    const bound = $("bound").value.trim() === "" ? null : Number($("bound").value);
    const sign = $("relation").value === "most" ? -1 : 1;
    const reaches = (entry) => {
      if (bound === null) return true;
      const found = value(entry, $("measure").value);
      return found !== null && sign * found >= sign * bound;
    };
    let shown = 0;
    for (const card of cards) {
      const entry = page.entries[card.dataset.number];
      card.hidden = !fits(entry) || !reaches(entry) || !words.every((word) => entry.words.includes(word));
      shown += !card.hidden;
    }
    $("count").textContent = `${shown} of ${cards.length}`;
    $("none").hidden = shown > 0;
  };

  const order = () => {
    const key = $("sort").value.replace(/^-/, "");
    const sign = $("sort").value.startsWith("-") ? -1 : 1;
    const rank = (card) => (key ? value(page.entries[card.dataset.number], key) : Number(card.dataset.number));
    const sorted = [...cards].sort((a, b) => {
      const [x, y] = [rank(a), rank(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.dataset.number - b.dataset.number;
      return sign * (x - y) || a.dataset.number - b.dataset.number;
    });
    $("cards").append(...sorted);
  };

  const showAll = () => {
    $("search").value = $("filter").value = $("bound").value = "";
    choose();
  };

  const follow = () => {
    const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!card || !card.classList.contains("card")) return;
    if (card.hidden) showAll();
    card.scrollIntoView({ block: "start" });
  };

  // --- settings ---------------------------------------------------------------------------------

  const settle = () => {
    const boxes = [...document.querySelectorAll("#methods input")];
    state.methods = new Set(boxes.filter((box) => box.checked).map((box) => Number(box.value)));
    state.target = Number($("target").value || 0);
    state.view = controls.elements.namedItem("view").value;
    state.opacity = Number($("opacity").value) / 100;
    state.scale = $("scale").value;
    state.gray = $("colors").value === "gray";
    document.body.dataset.objects = $("objects")?.checked === false ? "hidden" : "shown";
    Object.assign(document.body.dataset, { view: state.view, colors: $("colors").value, size: $("size").value });
    $("opacity").disabled = state.view === "picture";
    for (const figure of document.querySelectorAll(".card figure.map")) {
      figure.hidden = !state.methods.has(Number(figure.dataset.method));
    }
    document.body.style.setProperty("--opacity", String(state.opacity));
    for (const canvas of document.querySelectorAll(".strip")) strip(canvas, canvas.dataset.kind === "diverging", state.gray);
  };

  const changed = (event) => {
    const id = event.target.id;
    if (["search", "filter", "measure", "relation", "bound"].includes(id)) choose();
    else if (id === "sort") order();
    else settle();
    if (!["search", "filter", "measure", "relation", "bound", "sort", "opacity", "size", "objects"].includes(id) && event.target.name !== "view") redraw();
  };

  // --- enlarged ---------------------------------------------------------------------------------

  const zoom = {
    card: null, methods: new Set(), factor: 1, x: 0, y: 0,

    show(card, methods) {
      zoom.card = card;
      zoom.methods = methods;
      if (!$("zoom").open) $("zoom").showModal();
      zoom.fill();
    },

    fill() {
      const card = zoom.card;
      const data = prepared(card);
      const answer = card.querySelector(".answer").textContent.replace(/\s+/g, " ").trim();
      $("zoom-title").textContent = `${card.querySelector("h3 bdi").textContent}: ${answer}`;
      const chosen = [null, ...page.methods.keys()].filter((m) => m === null || zoom.methods.has(m));
      $("zoom-frames").replaceChildren(...chosen.map((method) => zoom.figure(card, data, method)));
      for (const box of $("zoom-methods").querySelectorAll("input")) box.checked = zoom.methods.has(Number(box.value));
      zoom.place(1, 0, 0);
      data.ready.then(() => { if (zoom.card === card) zoom.paint(); });
    },

    figure(card, data, method) {
      const figure = document.createElement("figure");
      const frame = document.createElement("div");
      const layer = document.createElement("div");
      frame.className = "frame zoomed";
      layer.className = "layer";
      const original = card.querySelector(".original .photo");
      figure.style.setProperty("--ratio", String(original.getAttribute("width") / original.getAttribute("height")));
      furnish(layer, card, data);
      if (method === null) {
        layer.querySelectorAll(".heat, .unseen").forEach((element) => element.remove());
        layer.firstChild.alt = card.querySelector("h3 bdi").textContent;
        layer.classList.add("plain");
      }
      frame.append(layer);
      const text = document.createElement("figcaption");
      text.textContent = method === null ? "as given" : page.methods[method].title;
      if (method !== null) figure.dataset.method = method;
      figure.append(frame, text);
      return figure;
    },

    paint() {
      const data = prepared(zoom.card);
      for (const figure of $("zoom-frames").querySelectorAll("[data-method]")) {
        const map = mapOf(data, Number(figure.dataset.method));
        paint(figure.querySelector(".layer"), map);
        const about = map ? `of ${map.name}, score ${map.score}; ${map.about}` : "no map of this class here";
        figure.querySelector("figcaption").textContent = `${page.methods[figure.dataset.method].title} ${about}`;
      }
    },

    place(factor, x, y) {
      zoom.factor = clamp(factor, 1, 12);
      const most = (zoom.factor - 1) / 2;
      zoom.x = clamp(x, -most, most);
      zoom.y = clamp(y, -most, most);
      for (const layer of $("zoom-frames").querySelectorAll(".layer")) {
        layer.style.transform = `translate(${100 * zoom.x}%, ${100 * zoom.y}%) scale(${zoom.factor})`;
      }
      $("zoom-factor").textContent = `${Number(zoom.factor.toFixed(1))}x`;
    },

    step(by) {
      const shown = [...document.querySelectorAll(".card:not([hidden])")];
      const next = shown[shown.indexOf(zoom.card) + by];
      if (next) zoom.show(next, zoom.methods);
    },

    toggle(method) {
      if (method >= page.methods.length) return;
      const { factor, x, y } = zoom;
      if (!zoom.methods.delete(method)) zoom.methods.add(method);
      zoom.fill();
      zoom.place(factor, x, y);
    },

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const { key } = event;
      if (event.shiftKey && moves[key]) zoom.place(zoom.factor, zoom.x + 0.15 * moves[key][0], zoom.y + 0.15 * moves[key][1]);
      else if (key === "ArrowLeft") zoom.step(-1);
      else if (key === "ArrowRight") zoom.step(1);
      else if (key === "+" || key === "=") zoom.place(zoom.factor * 1.5, zoom.x * 1.5, zoom.y * 1.5);
      else if (key === "-") zoom.place(zoom.factor / 1.5, zoom.x / 1.5, zoom.y / 1.5);
      else if (key === "0") zoom.place(1, 0, 0);
      else if (key >= "1" && key <= "9") zoom.toggle(Number(key) - 1);
      else if (key.toLowerCase() === "o") $("zoom").classList.toggle("bare");
      else return;
      event.preventDefault();
    },

    drag(event) {
      const box = event.target.closest(".frame")?.getBoundingClientRect();
      if (!box || zoom.factor === 1) return;
      const from = { x: zoom.x, y: zoom.y };
      const move = (e) => zoom.place(zoom.factor, from.x + (e.clientX - event.clientX) / box.width, from.y + (e.clientY - event.clientY) / box.height);
      const end = () => { removeEventListener("pointermove", move); removeEventListener("pointerup", end); };
      addEventListener("pointermove", move);
      addEventListener("pointerup", end);
      event.preventDefault();
    },

    wheel(event) {
      if (!event.target.closest(".frame")) return;
      event.preventDefault();
      const by = event.deltaY < 0 ? 1.25 : 0.8;
      zoom.place(zoom.factor * by, zoom.x * by, zoom.y * by);
    },
  };

  const wireZoom = () => {
    const dialog = $("zoom");
    dialog.addEventListener("keydown", zoom.key);
    dialog.addEventListener("pointerdown", zoom.drag);
    dialog.addEventListener("wheel", zoom.wheel, { passive: false });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      const button = zoom.card?.querySelector("figure.map:not([hidden]) .frame");
      button?.focus();
      zoom.card = null;
      $("zoom-frames").replaceChildren();
    });
    $("zoom-before").addEventListener("click", () => zoom.step(-1));
    $("zoom-after").addEventListener("click", () => zoom.step(1));
    $("zoom-in").addEventListener("click", () => zoom.place(zoom.factor * 1.5, zoom.x * 1.5, zoom.y * 1.5));
    $("zoom-out").addEventListener("click", () => zoom.place(zoom.factor / 1.5, zoom.x / 1.5, zoom.y / 1.5));
    $("zoom-close").addEventListener("click", () => dialog.close());
    $("zoom-methods").addEventListener("input", (event) => zoom.toggle(Number(event.target.value)));
    $("cards").addEventListener("click", (event) => {
      const frame = event.target.closest("button.frame");
      if (frame) zoom.show(frame.closest(".card"), new Set([Number(frame.dataset.open)]));
    });
  };

  // --- begin ------------------------------------------------------------------------------------

  const offerTargets = () => {
    if (page.targets.length < 2) return;
    $("target").append(...page.targets.map((words, k) => new Option(words, String(k))));
    $("target-field").hidden = false;
  };

  // Everything is unpacked while nothing else is to be done, so that printing finds it ready.
  const unpackSlowly = (number) => {
    if (number >= cards.length) return;
    const later = window.requestIdleCallback || ((then) => setTimeout(then, 50));
    later(() => prepared(cards[number]).ready.then(() => unpackSlowly(number + 1)));
  };

  for (const card of cards) {
    const photo = card.querySelector(".original .photo");
    card.style.setProperty("--ratio", String(photo.getAttribute("width") / photo.getAttribute("height")));
    if ("DecompressionStream" in window) watcher.observe(card);
  }
  for (const canvas of document.querySelectorAll(".strip")) strip(canvas, canvas.dataset.kind === "diverging", false);
  if (!controls) return;
  if (!("DecompressionStream" in window)) {
    $("old").hidden = false;
    return;
  }
  offerTargets();
  controls.hidden = false;
  controls.addEventListener("input", changed);
  controls.addEventListener("submit", (event) => event.preventDefault());
  $("reset").addEventListener("click", showAll);
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => {
    for (const card of cards) {
      card.dataset.print = "1";
      if (prepared(card).done && !card.dataset.drawn) draw(card);
    }
  });
  // Cards that are linked to, or reached by the keyboard, come to lie below the switches that stay on top.
  new ResizeObserver(() => document.body.style.setProperty("--bar", `${controls.offsetHeight}px`)).observe(controls);
  wireZoom();
  settle();
  choose();
  order();
  follow();
  unpackSlowly(0);
})();
