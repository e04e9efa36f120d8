"use strict";
// A layer that is opened for the first time draws its figures.
for (const panel of document.querySelectorAll("details.layer")) {
  const layer = pfa.data.layers[panel.dataset.layer];
  panel.addEventListener(
    "toggle",
    () => {
      const place = panel.querySelector(".figures");
      if (place.childElementCount) return;
      const draws = [];
      if (layer.points.length) draws.push(["spectrum", pfa.spectrum]);
      if (layer.matrix) draws.push(["matrix", pfa.matrix]);
      for (const [kind, draw] of draws) {
        const figure = document.createElement("div");
        figure.className = kind;
        place.append(figure);
        pfa.chart(figure, (width) => draw(layer, width));
      }
    },
  );
}

const all = document.getElementById("all");
all?.addEventListener("click", () => {
  const panels = [...document.querySelectorAll("details.layer")];
  const open = panels.some((panel) => !panel.open);
  for (const panel of panels) panel.open = open;
  all.textContent = open ? "Close all" : "Open all";
});
