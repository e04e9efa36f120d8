"use strict";
// What each model gains or loses, class by class: those that change most, for the models that are chosen.
const { rows, names, most } = pfa.data.classes;
const palette = ["--asked", "--second", "--held-2", "--held-1", "--held-3", "--held-0", "--held-4", "--held-5"];
const tint = (k) => `var(${palette[k % palette.length]})`;
const shown = new Set(names.keys());
const chartOf = document.getElementById("classes");

function listed() {
  const size = ({ change }) => Math.max(0, ...change.filter((value, k) => shown.has(k) && value !== null).map(Math.abs));
  const largest = new Set([...rows].sort((a, b) => size(b) - size(a)).slice(0, most));
  return rows.filter((row) => largest.has(row));
}

function drawClasses(width) {
  const classes = listed();
  const marks = classes.flatMap(({ name, samples, original, change }) =>
    change
      .map((value, k) => ({ name, samples, original, value, k }))
      .filter(({ value, k }) => value !== null && shown.has(k)),
  );
  const models = [...shown].sort((a, b) => a - b);
  const step = Math.min(9, 36 / Math.max(1, models.length - 1)); // below each other, so that none hides another
  const longest = Math.max(...classes.map(({ name }) => name.length), 4);
  const left = Math.min(7 * longest + 12, width * 0.36);
  const room = Math.floor(left / 7);
  const widest = Math.max(0.02, ...marks.map(({ value }) => Math.abs(value)));
  const least = Math.min(0, ...marks.map(({ value }) => value));
  const best = Math.max(0, ...marks.map(({ value }) => value));
  const said = ({ name, samples, original, value, k }) =>
    `${name}\n${k + 1} · ${names[k]}\n${pfa.percent(original)} → ${pfa.percent(original + value)} of ${samples}`;
  return pfa.plot("Change of the share of right answers, by class and model; the table below has the numbers", {
    width,
    height: (26 + step * (models.length - 1)) * classes.length + 64,
    marginLeft: left,
    marginRight: 20,
    marginTop: 8,
    marginBottom: 44,
    x: { label: "change, in percentage points", grid: true, ticks: width < 480 ? 4 : 8, tickFormat: (value) => `${value > 0 ? "+" : ""}${+(100 * value).toFixed(1)}`, domain: [least - 0.08 * widest, best + 0.08 * widest] },
    y: { label: null, domain: classes.map(({ name }) => name), tickSize: 0, tickFormat: (name) => (name.length > room ? `${name.slice(0, room - 1)}…` : name) },
    marks: [
      Plot.ruleY(classes, { y: "name", stroke: "var(--line)" }),
      Plot.ruleX([0], { stroke: "currentColor" }),
      ...models.flatMap((k, row) => {
        const own = marks.filter((one) => one.k === k);
        const at = { x: "value", y: "name", dy: step * (row - (models.length - 1) / 2) };
        const label = { ...at, text: () => String(k + 1), fill: "var(--paper)", fontSize: 10, fontWeight: 650, pointerEvents: "none" };
        return [Plot.dot(own, { ...at, r: 7, fill: tint(k), stroke: "var(--paper)" }), Plot.text(own, label)];
      }),
      Plot.tip(marks, Plot.pointer({ x: "value", y: "name", title: said })),
    ],
  });
}

function choice(name, k) {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  const swatch = document.createElement("i");
  swatch.style.background = tint(k);
  label.append(box, swatch, `${k + 1} · ${name}`);
  box.addEventListener("change", () => {
    if (box.checked) shown.add(k);
    else shown.delete(k);
    chartOf.replaceChildren(drawClasses(Math.floor(chartOf.clientWidth)));
  });
  return label;
}

const legendOf = Object.assign(document.createElement("legend"), { textContent: "models" });
document.getElementById("choices").replaceChildren(legendOf, ...names.map(choice));
pfa.chart(chartOf, drawClasses);
