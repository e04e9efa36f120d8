"use strict";
// What the model would cost at each energy, and the point that was chosen.
const costs = document.getElementById("costs");
const lines = [
  { at: 1, name: "params", colour: "var(--asked)" },
  { at: 2, name: "MACs", colour: "var(--second)" },
];

function drawCosts(width) {
  const { curve, tau, flags, chosen } = pfa.data.costs;
  const lowest = curve[0][0];
  const marks = lines.flatMap(({ at, colour }) => [
    Plot.lineY(curve, { x: "0", y: String(at), stroke: colour, strokeWidth: 2 }),
    Plot.dot(curve, { x: "0", y: String(at), fill: colour, r: 2 }),
  ]);
  if (chosen && tau !== null) {
    marks.push(Plot.ruleX([tau], { stroke: "currentColor", strokeDasharray: "4 3" }));
    for (const { at, colour } of lines) {
      marks.push(Plot.dot([chosen], { x: tau, y: chosen[at - 1], r: 6, stroke: colour, strokeWidth: 2.5, fill: "var(--paper)" }));
    }
  } else if (chosen) {
    for (const { at, colour } of lines) {
      marks.push(Plot.ruleY([chosen[at - 1]], { stroke: colour, strokeDasharray: "6 3", strokeWidth: 1.5 }));
    }
  }
  const said = ([energy, params, macs]) =>
    `energy ${pfa.percent(energy)}\nparams ${pfa.percent(params)}\nMACs ${pfa.percent(macs)}`;
  return pfa.plot(`Parameters and multiply-accumulates over the energy that is kept; ${flags} is marked`, {
    width,
    height: Math.min(340, Math.max(240, width * 0.5)),
    marginLeft: 48,
    marginRight: 20,
    marginBottom: 40,
    x: { label: "energy kept in every layer", domain: [lowest, 1], tickFormat: "%", ticks: width < 420 ? 5 : 8 },
    y: { label: "of the original", domain: [0, 1], tickFormat: "%", ticks: 5, grid: true },
    marks: [...marks, Plot.tip(curve, Plot.pointerX({ x: "0", y: "1", title: said }))],
  });
}

if (costs) pfa.chart(costs, drawCosts);
