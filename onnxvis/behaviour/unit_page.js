"use strict";
(() => {
  const controls = document.getElementById("controls");
  const find = document.getElementById("find");
  const group = document.getElementById("group");
  const size = document.getElementById("size");
  const count = document.getElementById("count");
  const nothing = document.getElementById("nothing");
  const large = document.getElementById("large");
  const units = [...document.querySelectorAll(".unit")];
  const sections = [...document.querySelectorAll(".group")];

  const wanted = (unit, words) =>
    words.every((word) => (/^\d+$/.test(word) ? unit.dataset.number === word : unit.dataset.words.includes(word)));

  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const section of sections) {
      const here = group.value === "" || section.dataset.group === group.value;
      let inside = 0;
      for (const unit of section.querySelectorAll(".unit")) {
        unit.hidden = !(here && wanted(unit, words));
        inside += unit.hidden ? 0 : 1;
      }
      section.hidden = inside === 0;
      shown += inside;
    }
    count.textContent = `${shown} of ${units.length}`;
    nothing.hidden = shown > 0 || units.length === 0;
  };

  const step = (by) => {
    const visible = units.filter((unit) => !unit.hidden);
    if (!visible.length) return;
    const at = visible.indexOf(document.activeElement.closest(".unit"));
    const next = at < 0 ? (by > 0 ? 0 : visible.length - 1) : Math.min(Math.max(at + by, 0), visible.length - 1);
    visible[next].focus();
    visible[next].scrollIntoView({ block: "start" });
  };

  const enlarge = (tile) => {
    const image = tile.querySelector("img");
    const shown = document.getElementById("large-image");
    shown.src = image.src;
    shown.alt = image.alt;
    const lines = tile.dataset.details.split("\n").filter(Boolean).map((line) => {
      const dd = document.createElement("dd");
      dd.textContent = line;
      return dd;
    });
    document.getElementById("large-details").replaceChildren(...lines);
    large.showModal();
  };

  controls.hidden = units.length === 0;
  controls.addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", filter);
  group.addEventListener("change", filter);
  size.addEventListener("input", () => document.body.style.setProperty("--tile", `${size.value}px`));
  document.getElementById("units").addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) enlarge(tile);
  });
  large.addEventListener("click", (event) => {
    if (event.target === large) large.close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || large.open) return;
    const typing = event.target.matches("input[type=search], select");
    if (event.key === "Escape" && event.target === find) {
      find.value = "";
      filter();
      find.blur();
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      find.focus();
    } else if (!typing && (event.key === "j" || event.key === "k")) {
      event.preventDefault();
      step(event.key === "j" ? 1 : -1);
    }
  });
  filter();
})();
