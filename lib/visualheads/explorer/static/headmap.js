// The map of heads: a cell for each, coloured by a measure; mouse, touch and arrow keys choose.

import { h, s, uniqueId } from "./dom.js";
import { colourOf, number, told } from "./scale.js";
import { headName } from "./state.js";

const [LEFT, TOP, BOTTOM, TALLEST, LARGEST] = [36, 4, 30, 440, 48];
const FAR = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** actions: choose(heads), hover(head or null). */
export function headMap(actions) {
  const hatch = uniqueId("hatch");
  const help = uniqueId("help");
  const svg = s("svg", { class: "vh-headmap", tabindex: 0, role: "application", "aria-roledescription": "head map", "aria-describedby": help });
  const hint = h("p", { id: help, class: "vh-unseen" },
    "Arrow keys move to another head, Shift with arrow keys adds heads to the mean, Escape leaves one head. The chosen head is told below the picture.");
  const element = h("div", { class: "vh-headmap-box" }, svg, hint);
  let context = null;
  let width = 0;
  let cells = [];
  let shape = "";

  const headAt = (event) => {
    const box = svg.getBoundingClientRect();
    const { layers, perLayer } = context.look;
    const head = Math.floor((event.clientX - box.left - LEFT) / size().across);
    const layer = Math.floor((event.clientY - box.top - TOP) / size().down);
    return layer >= 0 && layer < layers && head >= 0 && head < perLayer ? { layer, head } : null;
  };
  const toggled = (head) => {
    const others = context.choice.heads.filter((one) => headName(one) !== headName(head));
    return others.length < context.choice.heads.length && others.length ? others : [...others, head];
  };
  svg.addEventListener("pointermove", (event) => context && event.pointerType !== "touch" && actions.hover(headAt(event)));
  svg.addEventListener("pointerleave", () => actions.hover(null));
  svg.addEventListener("click", (event) => {
    const head = context && headAt(event);
    if (head) actions.choose(event.shiftKey || event.ctrlKey || event.metaKey ? toggled(head) : [head]);
  });
  svg.addEventListener("keydown", (event) => {
    const heads = context.choice.heads;
    const last = heads[heads.length - 1];
    if (event.key === "Escape") return actions.choose([last]);
    const move = FAR[event.key];
    if (!move) return undefined;
    event.preventDefault();
    const head = { layer: last.layer + move[0], head: last.head + move[1] };
    if (head.layer < 0 || head.head < 0 || !context.look.has(head)) return undefined;
    const kept = event.shiftKey ? heads.filter((one) => headName(one) !== headName(head)) : [];
    return actions.choose([...kept, head]);
  });

  function size() {
    const { layers, perLayer } = context.look;
    const across = (width - LEFT - 2) / perLayer;
    return { across, down: Math.max(5, Math.min(across, TALLEST / layers, LARGEST)) };
  }

  function build() {
    const { layers, perLayer } = context.look;
    const { across, down } = size();
    const gap = Math.min(1, across * 0.1);
    const every = (n, step) => Array.from({ length: n }, (_, i) => i).filter((i) => i % step === 0);
    const stepOf = (cell, least) => [1, 2, 4, 5, 8, 10, 16, 20].find((step) => step * cell >= least) || 32;
    svg.setAttribute("width", width);
    svg.setAttribute("height", TOP + layers * down + BOTTOM);
    cells = Array.from({ length: layers * perLayer }, (_, i) =>
      s("rect", { x: LEFT + (i % perLayer) * across, y: TOP + Math.floor(i / perLayer) * down, width: across - gap, height: down - gap, rx: Math.min(2, down / 6) }));
    svg.replaceChildren(
      s("defs", {}, s("pattern", { id: hatch, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        s("rect", { width: 5, height: 5, class: "vh-hatch-ground" }), s("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "vh-hatch" }))),
      s("g", { class: "vh-cells" }, cells),
      s("g", { class: "vh-axis" },
        every(layers, stepOf(down, 22)).map((layer) => s("text", { x: LEFT - 6, y: TOP + (layer + 0.5) * down, dy: "0.35em", "text-anchor": "end" }, layer)),
        every(perLayer, stepOf(across, 24)).map((head) => s("text", { x: LEFT + (head + 0.5) * across, y: TOP + layers * down + 12, "text-anchor": "middle" }, head)),
        s("text", { x: LEFT + (perLayer * across) / 2, y: TOP + layers * down + 26, "text-anchor": "middle" }, "head"),
        s("text", { transform: `translate(9 ${TOP + (layers * down) / 2}) rotate(-90)`, "text-anchor": "middle" }, "layer")),
      s("g", { class: "vh-marks" }),
    );
  }

  function update(given) {
    context = given;
    const wanted = Math.floor(element.clientWidth);
    if (!wanted) return;
    const asked = `${context.look.layers}×${context.look.perLayer}@${wanted}`;
    if (asked !== shape) {
      width = wanted;
      shape = asked;
      build();
    }
    const { scale, values, measure } = context;
    cells.forEach((cell, i) => cell.setAttribute("fill", colourOf(scale, values[i]) || `url(#${hatch})`));
    const { across, down } = size();
    const mark = ({ layer, head }, name) =>
      s("rect", { class: name, x: LEFT + head * across - 0.5, y: TOP + layer * down - 0.5, width: across, height: down, rx: 2 });
    const heads = context.choice.heads;
    svg.querySelector(".vh-marks").replaceChildren(
      ...heads.flatMap((head) => [mark(head, "vh-mark-edge"), mark(head, "vh-mark")]),
      ...(context.hovered ? [mark(context.hovered, "vh-mark-hover")] : []),
    );
    const last = heads[heads.length - 1];
    svg.setAttribute("aria-label",
      `Map of ${context.look.layers} layers by ${context.look.perLayer} heads, coloured by ${measure.long_name}. ` +
      `Chosen: ${heads.map(headName).join(", ")}, ${told(values[context.look.index(last)], measure.unit)}.`);
  }

  const watch = new ResizeObserver(() => context && update(context));
  watch.observe(element);
  return { element, svg, update, stop: () => watch.disconnect() };
}

/** The bar of colours under the map. */
export function colourBar() {
  const fill = uniqueId("bar");
  const element = h("div", { class: "vh-bar" });
  function update({ scale, measure }) {
    const ticks = scale.ticks.map((value) => (measure.unit === "number" ? number(value) : told(value, measure.unit)));
    element.replaceChildren(
      s("svg", { class: "vh-bar-colours", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
        s("defs", {}, s("linearGradient", { id: fill }, scale.colours.map((colour, i) => s("stop", { offset: i / (scale.colours.length - 1), "stop-color": colour })))),
        s("rect", { width: 100, height: 8, fill: `url(#${fill})` })),
      h("div", { class: "vh-bar-ticks" }, ticks.map((text) => h("span", {}, text))),
    );
  }
  return { element, update };
}
