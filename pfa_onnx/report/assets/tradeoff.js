"use strict";
// Models by what they cost and how close they are. A mark can be hovered, tapped and tabbed to: its panel says more.
const trade = pfa.data.tradeoff;
const places = Object.fromEntries(["tradeoff", "panel", "key", "cost", "closer", "before", "models"].map((id) => [id, document.getElementById(id)]));
let chosen = trade.first;
let looked = { cost: trade.costs[0][0], closer: trade.closer[0][0], before: false };

const title = (list, key) => list.find(([name]) => name === key)[1];
const fixed = (value, digits) => (value === undefined || value === null ? "-" : value.toFixed(digits));
const percent = (value) => (value === undefined || value === null ? "-" : `${(100 * value).toFixed(1)} %`);

// what no other is beaten by: costs no more, is as close, and better in one; the original is there, too
function front(points) {
  const beats = (a, b) => a.x <= b.x && a.y >= b.y && (a.x < b.x || a.y > b.y);
  return points.filter((one) => !points.some((other) => beats(other, one)));
}

function pointsNow() {
  const at = (values) => ({ x: values[looked.cost], y: values[looked.closer] });
  const there = ({ x, y }) => Number.isFinite(x) && Number.isFinite(y);
  const models = trade.models.map((model, index) => ({ index, model, ...at(model.values) })).filter(there);
  const whole = [{ index: -1, x: 1, y: trade.original[looked.closer] }].filter(there);
  const cuts = models
    .filter(({ model }) => looked.before && model.before)
    .map((one) => ({ ...one, y: one.model.before[looked.closer], to: one.y }))
    .filter(there);
  const best = front([...models, ...whole]).sort((a, b) => a.x - b.x || a.y - b.y);
  const on = new Set(best.map(({ index }) => index));
  return { models: models.map((one) => ({ ...one, on: on.has(one.index) })), whole, cuts, best };
}

function span(values, low, high) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(0.06 * (most - least), 0.004);
  return [Math.max(low, least - room), Math.min(high, most + room)];
}

function draw(width) {
  const { models, whole, cuts, best } = pointsNow();
  const all = [...models, ...whole, ...cuts];
  const colour = ({ on }) => (on ? "var(--asked)" : "var(--held-5)");
  const radius = trade.numbered ? 9 : 5.5;
  const roomy = width >= 420;
  const across = span(all.map(({ x }) => x), 0, Infinity);
  const up = span(all.map(({ y }) => y), -1, 1.02);
  const height = Math.min(440, Math.max(280, width * 0.62));
  const [left, right, top, bottom] = [52, 22, 24, 42];
  const pixels = { x: (width - left - right) / (across[1] - across[0]), y: (height - top - bottom) / (up[1] - up[0]) };
  const marks = [
    Plot.line(best, { x: "x", y: "y", curve: "step-after", stroke: "var(--asked)", strokeOpacity: 0.55, strokeWidth: 1.5 }),
    Plot.link(cuts, { x1: "x", x2: "x", y1: "y", y2: "to", stroke: "var(--asked)", strokeOpacity: 0.35, strokeDasharray: "2 3" }),
    Plot.dot(cuts, { x: "x", y: "y", r: 4, stroke: "var(--asked)", fill: "var(--paper)" }),
    Plot.dot(whole, { x: "x", y: "y", r: 6, symbol: "diamond", fill: "currentColor" }),
    Plot.dot(models, { x: "x", y: "y", r: radius, fill: colour, stroke: "var(--paper)", strokeWidth: 1.5, sort: null, ariaDescription: "models" }),
  ];
  if (trade.numbered) {
    marks.push(Plot.text(models, { x: "x", y: "y", text: (d) => d.model.label, fill: "var(--paper)", fontWeight: 650, pointerEvents: "none" }));
  } else if (roomy) {
    const above = { x: "x", y: "y", text: (d) => d.model.label, dy: -radius - 8, fill: "var(--soft)", stroke: "var(--paper)", strokeWidth: 4, pointerEvents: "none" };
    marks.push(Plot.text(apart(models, pixels), above));
  }
  const svg = pfa.plot(`${title(trade.closer, looked.closer)} over ${title(trade.costs, looked.cost)} of ${models.length} models; the table below has the numbers`, {
    width,
    height,
    marginLeft: left,
    marginRight: right,
    marginTop: top,
    marginBottom: bottom,
    x: { label: `${title(trade.costs, looked.cost)}, of the original's`, domain: across, grid: true, ticks: roomy ? 8 : 4, tickFormat: "%" },
    y: { label: title(trade.closer, looked.closer), domain: up, grid: true, ticks: 6, tickFormat: ".2~f" },
    marks,
  });
  listen(svg, models);
  return svg;
}

// of labels that would lie over each other, only the first is written; all are in the panel and in the table
function apart(models, pixels) {
  const taken = [];
  const wanted = ({ index, on }) => 2 * (index === trade.first) + on;
  return [...models].sort((a, b) => wanted(b) - wanted(a)).filter(({ x, y, model }) => {
    const half = 3.5 * model.label.length + 3;
    const free = taken.every((one) => Math.abs(one.x - x) * pixels.x > half + one.half || Math.abs(one.y - y) * pixels.y > 14);
    if (free) taken.push({ x, y, half });
    return free;
  });
}

function listen(svg, models) {
  const group = svg.querySelector('g[aria-description="models"]');
  [...(group?.children ?? [])].forEach((node, k) => {
    const { index, model, x, y } = models[k];
    node.classList.add("mark");
    node.dataset.index = index;
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", `${model.name}: ${title(trade.costs, looked.cost)} ${percent(x)}, ${title(trade.closer, looked.closer)} ${fixed(y, 4)}`);
    for (const kind of ["mouseenter", "focus", "click"]) node.addEventListener(kind, () => choose(index));
  });
  mark(svg);
}

function choose(index) {
  chosen = index;
  tell();
  mark(document);
}

function mark(root) {
  for (const node of root.querySelectorAll(".mark")) node.classList.toggle("on", Number(node.dataset.index) === chosen);
  [...places.models.querySelectorAll("tbody tr")].forEach((row, k) => row.classList.toggle("on", k - 1 === chosen));
}

function tell() {
  const model = trade.models[chosen];
  if (!model) {
    places.panel.replaceChildren("Hover, tap or tab to a mark.");
    return;
  }
  const heading = Object.assign(document.createElement("h3"), { textContent: model.name });
  const list = document.createElement("dl");
  const cost = (key) => (model.costs[key] ? `${percent(model.values[key])}   (${model.costs[key]})` : percent(model.values[key]));
  const rows = trade.costs.map(([key, name]) => [name, cost(key)]);
  for (const [key, name] of trade.closer) {
    const before = model.before?.[key];
    rows.push([name, (before === undefined ? "" : `${fixed(before, 4)} → `) + fixed(model.values[key], 4)]);
  }
  for (const [name, value] of [...rows, ...model.facts]) {
    list.append(Object.assign(document.createElement("dt"), { textContent: name }));
    list.append(Object.assign(document.createElement("dd"), { textContent: value }));
  }
  places.panel.replaceChildren(heading, list);
}

function choices(place, list, which) {
  place.replaceChildren(...list.map(([key, name]) => Object.assign(document.createElement("option"), { value: key, textContent: name })));
  place.addEventListener("change", () => {
    looked = { ...looked, [which]: place.value };
    redraw();
  });
}

function legend() {
  const kinds = [["", "on the Pareto front"], ["beaten", "another is as good for less"], ["whole", "the original"]];
  if (looked.before) kinds.push(["cut", "before repair"]);
  const item = ([kind, name]) => {
    const entry = document.createElement("li");
    entry.append(Object.assign(document.createElement("i"), { className: `dot ${kind}` }), name);
    return entry;
  };
  places.key.replaceChildren(...kinds.map(item));
}

const redraw = () => places.tradeoff.replaceChildren(draw(Math.floor(places.tradeoff.clientWidth)));

choices(places.cost, trade.costs, "cost");
choices(places.closer, trade.closer, "closer");
legend();
tell();
pfa.chart(places.tradeoff, draw);
places.before.hidden = !trade.repaired;
places.before.addEventListener("change", ({ target }) => {
  looked = { ...looked, before: target.checked };
  legend();
  redraw();
});
[...places.models.querySelectorAll("tbody tr")].forEach((row, k) => {
  if (k) row.addEventListener("mouseenter", () => choose(k - 1));
});
