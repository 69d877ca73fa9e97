// The overlay's scale, in shares of attention.

import { h } from "./dom.js";
import { LEVELS, LEVEL_COLOURS, VIRIDIS, percent } from "./scale.js";

export function legend() {
  const element = h("div", { class: "vh-legend" });
  let shown = "";

  function update({ settings, top, weights, look }) {
    const key = [look.json.picture.source == null, settings.overlay, top, settings.strength, settings.scale, Boolean(weights), Boolean(look.map)].join("/");
    if (key === shown) return;
    shown = key;
    element.replaceChildren(...(weights && look.map && settings.overlay !== "off" ? content(settings, top, !look.json.picture.source) : []));
  }

  return { element, update };
}

function content(settings, top, bare) {
  const scale = settings.scale === "shared" ? "attention per patch, all heads alike" : "attention per patch, this head's scale";
  if (settings.overlay === "outline") {
    return [
      h("span", { class: "vh-quiet" }, scale),
      ...LEVELS.map((level, i) => h("span", { class: "vh-level" }, h("i", { style: `background:${LEVEL_COLOURS[i]}` }), `≥ ${percent(top * level ** 2)}`)),
    ];
  }
  const ticks = [0, 0.5, 1];
  return [
    h("span", { class: "vh-quiet" }, scale),
    h("span", { class: "vh-ramp" },
      h("i", { style: bare ? `background:linear-gradient(90deg, ${VIRIDIS.join(", ")})` : `--vh-strength:${settings.strength}` }),
      h("span", { class: "vh-bar-ticks" }, ticks.map((tick) => h("span", {}, `${tick === 1 ? "≥ " : ""}${percent(top * tick ** 2)}`)))),
  ];
}
