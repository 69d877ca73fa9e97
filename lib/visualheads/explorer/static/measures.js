// What the map of heads can be coloured by: measures in the data, and those that depend on what is chosen in the picture.

import { inBox, lift, onToken } from "./numbers.js";

/** [name, {long_name, unit, kind, description}] of the measures that a choice allows, in the order of the menu. */
export function measuresOf(look, choice) {
  const { json } = look;
  const listed = Object.entries(json.measures);
  const region = choice.box || json.sample.box;
  if (region && look.map) {
    listed.push(["lift", {
      long_name: choice.box ? "lift on the drawn box" : "lift on the asked region", unit: "ratio", kind: "ratio",
      description: "Share of the weight on patches that falls into the box, over the box's share of the patches; 1 is an even look.",
    }]);
  }
  if (choice.patch != null && look.map) {
    listed.push(["patch", { long_name: "attention on the chosen patch", unit: "share", kind: "sequential", description: "Which heads look at the patch chosen in the picture." }]);
  }
  for (const [mode, told] of Object.entries(json.effects || {})) {
    listed.push([`effect:${mode}`, { long_name: `effect: ${told.label.toLowerCase()}`, unit: "change", kind: "diverging", description: `Change in the probability of the answer's first token. ${told.description}` }]);
  }
  return listed;
}

/** The values of a measure, one for each head of all layers. */
export async function measureOf(name, { look, row, choice, settings }) {
  if (name in row.measures) return row.measures[name];
  if (name === "patch") return onToken(row.weights, choice.patch, look.heads, look.nImage);
  if (name === "lift") {
    const hidden = settings.masked && look.sinkMarks ? look.sinksOf(choice.heads) : null;
    return lift(row.weights, look.map, inBox(look.map, choice.box || look.json.sample.box), look.heads, hidden);
  }
  if (name.startsWith("effect:")) {
    const { probability } = await look.effects(name.slice("effect:".length));
    const { top } = look.json.answers;
    return Float32Array.from({ length: look.heads }, (_, head) => probability[head * top.length] - top[0].probability);
  }
  return new Float32Array(look.heads).fill(NaN);
}
