"use strict";
// The cumulative energy of a layer: which share of the response its best k directions carry, and where it is cut.
pfa.cuts = ({ keep, kl, tau, reached }) => {
  const cuts = [{ k: keep, label: `${keep.toLocaleString("en")} stay`, colour: "currentColor", dash: null }];
  if (kl) cuts.push({ k: kl, label: `KL asks for ${kl.toLocaleString("en")}`, colour: "var(--second)", dash: "6 3" });
  if (reached) {
    const label = `${pfa.percent(tau)} of the energy in ${reached.toLocaleString("en")}`;
    cuts.push({ k: reached, label, colour: "var(--asked)", dash: "2 3" });
  }
  return cuts;
};

pfa.spectrum = (layer, width) => {
  const points = [[0, 0], ...layer.points];
  const cuts = pfa.cuts(layer);
  const rowHeight = 15;
  const marginLeft = 44;
  const marginTop = 10 + rowHeight * cuts.length;
  const above = (row) => rowHeight * (cuts.length - row);
  const rules = cuts.map(({ k, colour, dash }, row) =>
    Plot.ruleX([k], { y1: 1, y2: 0, insetTop: 2 - above(row), stroke: colour, strokeDasharray: dash, strokeWidth: 1.5 }),
  );
  const labels = cuts.map(({ k, label, colour }, row) => {
    const room = width - marginLeft - 20;
    const left = (1 - k / layer.channels) * room < 6.5 * label.length && k / layer.channels > 0.3;
    const place = { x: k, y: 1, dx: left ? -5 : 5, dy: 7 - above(row), textAnchor: left ? "end" : "start" };
    return Plot.text([label], { ...place, text: String, fill: colour, stroke: "var(--card)", strokeWidth: 5 });
  });
  return pfa.plot(`Cumulative energy over ${layer.channels} channels; ${cuts.map((cut) => cut.label).join(", ")}`, {
    width,
    height: Math.min(320, Math.max(220, width * 0.55)) + marginTop,
    marginTop,
    marginLeft,
    marginBottom: 38,
    x: { label: "channels", domain: [0, layer.channels], ticks: Math.min(8, layer.channels), tickFormat: "d" },
    y: { label: null, domain: [0, 1], tickFormat: "%", ticks: 5, grid: true },
    marks: [
      Plot.areaY(points, { x: "0", y: "1", fill: "var(--asked)", fillOpacity: 0.12 }),
      Plot.lineY(points, { x: "0", y: "1", stroke: "var(--asked)", strokeWidth: 2 }),
      Plot.ruleY(layer.reached ? [layer.tau] : [], { x1: 0, x2: layer.reached, stroke: "var(--asked)", strokeDasharray: "2 3" }),
      ...rules,
      ...labels,
      Plot.tip(layer.points, Plot.pointerX({ x: "0", y: "1", title: ([k, share]) => `${pfa.percent(share)} in ${k}` })),
    ],
  });
};
