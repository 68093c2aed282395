"use strict";
(() => {
  const controls = document.getElementById("controls");
  const opacity = document.getElementById("opacity");
  const shown = document.getElementById("opacity-value");
  const layers = document.querySelectorAll(".heat");

  const update = () => {
    const view = controls.elements.namedItem("view").value;
    document.body.dataset.view = view;
    opacity.disabled = view === "picture";
    shown.textContent = `${opacity.value} %`;
    for (const layer of layers) layer.style.opacity = String(opacity.value / 100);
  };

  controls.hidden = layers.length === 0;
  controls.addEventListener("input", update);
  controls.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
