"use strict";
// What all scripts share: the page's data, charts that follow the width of their place and the colours of the page.
const pfa = {
  data: JSON.parse(document.getElementById("data").textContent),

  percent: (share) => `${+(100 * share).toPrecision(4)} %`,

  colour: (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim(),

  // draw(width) makes the chart; it is made anew when the width changes, or light and dark
  chart(place, draw) {
    let drawn = 0;
    const redraw = () => {
      const width = Math.floor(place.clientWidth);
      if (width < 40) return;
      drawn = width;
      place.replaceChildren(draw(width));
    };
    new ResizeObserver(() => Math.floor(place.clientWidth) !== drawn && redraw()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    redraw();
  },

  // a plot that inherits the page's colours; label: for those who do not see it
  plot: (label, options) =>
    Plot.plot({ ariaLabel: label, style: { fontSize: "12px", background: "none", overflow: "visible" }, ...options }),
};

// what makes no sense without a script is hidden until there is one
for (const node of document.querySelectorAll("[data-script]")) node.hidden = false;
