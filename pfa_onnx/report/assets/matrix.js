"use strict";
// The |correlation| of a layer's channels, in the order in which they go: what went is above and left of the lines.
pfa.unpack = ({ side, cells }) => {
  const triangle = Uint8Array.from(atob(cells), (char) => char.charCodeAt(0));
  const whole = new Uint8Array(side * side);
  for (let row = 0, next = 0; row < side; row += 1) {
    for (let column = row; column < side; column += 1, next += 1) {
      whole[row * side + column] = whole[column * side + row] = triangle[next];
    }
  }
  return whole;
};

// the colour of the page, the stronger the more opaque: it fits on light and on dark
pfa.painted = (cells, side) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  const colour = pfa.colour("--matrix").split(/\s+/).map(Number);
  cells.forEach((cell, index) => image.data.set([...colour, cell], 4 * index));
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
};

pfa.matrix = (layer, width) => {
  const { channels, keep, order, matrix: { side } } = layer;
  const cells = pfa.unpack(layer.matrix);
  const gone = channels - keep;
  const size = Math.min(width, 420);
  const [left, top, rest] = [36, 20, 6];
  const extent = size - left - rest;
  const ticks = { domain: [0, channels], ticks: 4, tickFormat: "d", label: null };
  const plot = pfa.plot(`Absolute correlation of ${channels} channels in their order of removal; ${gone} of them removed`, {
    width: size, height: extent + top + rest, marginLeft: left, marginTop: top, marginRight: rest, marginBottom: rest,
    x: { ...ticks, axis: "top" },
    y: { ...ticks, reverse: true },
    marks: [
      Plot.image([0], {
        frameAnchor: "middle", width: extent, height: extent, preserveAspectRatio: "none", imageRendering: "pixelated",
        src: () => pfa.painted(cells, side),
      }),
      Plot.frame({ stroke: "currentColor", strokeOpacity: 0.4 }),
      Plot.ruleX(gone ? [gone] : [], { stroke: "var(--second)", strokeWidth: 1.5 }),
      Plot.ruleY(gone ? [gone] : [], { stroke: "var(--second)", strokeWidth: 1.5 }),
    ],
  });

  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const per = channels / side;
  const first = gone === 1 ? "the first one goes" : `the first ${gone.toLocaleString("en")} go, up to the lines`;
  const said = gone ? first : "none of them goes";
  const about = `|correlation| of channels in the order in which they go; ${said}`;
  const scale = document.createElement("span");
  scale.className = "scale";
  const legend = ["0 ", scale, ` 1 ${about}${per > 1 ? `; a cell is the mean of ${per.toFixed(1)} × ${per.toFixed(1)}` : ""}`];
  caption.append(...legend);

  const named = (cell) => {
    const [first, end] = [Math.floor((cell * channels) / side), Math.floor(((cell + 1) * channels) / side)];
    return end - first > 1 ? `${order[first]}, … ${order[end - 1]}` : String(order[first]);
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const shrunk = box.width / size; // the page may show it smaller than it was drawn
    const cell = (from, start, margin) => Math.floor((((from - start) / shrunk - margin) / extent) * side);
    const [column, row] = [cell(event.clientX, box.left, left), cell(event.clientY, box.top, top)];
    if (Math.min(row, column) < 0 || Math.max(row, column) >= side) return;
    const value = (cells[row * side + column] / 255).toFixed(2);
    caption.replaceChildren(`channels ${named(row)} and ${named(column)}: ${value}`);
  });
  plot.addEventListener("pointerleave", () => caption.replaceChildren(...legend));
  figure.append(plot, caption);
  return figure;
};
