"use strict";
// A click on a layer draws its cumulative energy: how much of the response the best k directions carry.
const curves = JSON.parse(document.getElementById("curves").textContent);
const [W, H, LEFT, RIGHT, TOP, BOTTOM] = [480, 220, 44, 12, 12, 32];

function shape(kind, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function draw({ points, channels, keep, asked }) {
  const x = (k) => LEFT + ((W - LEFT - RIGHT) * k) / channels;
  const y = (share) => TOP + (H - TOP - BOTTOM) * (1 - share);
  const label = `Cumulative energy over ${channels} channels; ${keep} stay, ${asked} asked for`;
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
  svg.append(shape("path", { class: "axis", d: `M${x(0)} ${y(1)}V${y(0)}H${x(channels)}` }));
  for (const share of [0, 0.5, 1]) {
    svg.append(shape("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${share * 100} %`));
  }
  svg.append(shape("text", { x: x(channels), y: H - 6, "text-anchor": "end" }, `${channels} channels`));
  svg.append(shape("line", { class: "cut", x1: x(keep), x2: x(keep), y1: y(1), y2: y(0) }));
  svg.append(shape("text", { x: Math.min(x(keep), W - 130), y: y(0) + 14 }, `${keep} stay`));
  const path = [[0, 0], ...points].map(([k, share]) => `${x(k).toFixed(1)} ${y(share).toFixed(1)}`);
  svg.append(shape("path", { class: "curve", d: `M${path.join("L")}` }));
  return svg;
}

for (const button of document.querySelectorAll("button.layer")) {
  button.addEventListener("click", () => {
    const panel = document.getElementById(button.getAttribute("aria-controls"));
    const curve = curves[button.dataset.layer];
    if (!panel.querySelector("svg") && curve.points.length) panel.append(draw(curve));
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
  });
}
