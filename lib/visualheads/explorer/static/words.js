// What is seen, in a sentence: for those who look, and for screen readers.

import { inBox, lift } from "./numbers.js";
import { number, percent, told } from "./scale.js";
import { headName } from "./state.js";

const WORTH_TELLING = 0.01;

/** Where the shown heads look from the chosen query. indices: the heads among those of all layers. */
export function sentenceOf({ look, row, shown, weights, choice, measure, values, textWeights }, indices) {
  const name = nameOf(shown);
  if (!weights) return `${name}: its map is not in these data.`;
  const mean = (array) => indices.reduce((sum, index) => sum + array[index], 0) / indices.length;
  const parts = [`${name} from ${row.label}: ${percent(mean(row.measures.image_weight || row.total))} of attention on the picture`];
  const { map } = look;
  const tiled = map?.tiles[0] ? weights.reduce((sum, weight, token) => sum + (map.tile[token] > 0 ? weight : 0), 0) : 0;
  if (tiled) parts[0] += ` (${percent(tiled)} in its tiles)`;
  const region = choice.box || look.json.sample.box;
  if (region && map) {
    const inside = inBox(map, region);
    const own = (head) => row.weights.subarray(head * look.nImage, (head + 1) * look.nImage);
    const value = indices.reduce((sum, head) => sum + lift(own(head), map, inside, 1)[0], 0) / indices.length;
    if (Number.isFinite(value)) parts.push(`${number(value)} times an even look in the ${choice.box ? "drawn box" : "asked region"}`);
  }
  if (choice.patch != null) parts.push(`${percent(weights[choice.patch])} on the chosen patch`);
  if (!["image_weight", "lift", "patch"].includes(choice.measure)) parts.push(`${measure.long_name} ${told(mean(values), measure.unit)}`);
  const words = [...textWeights].sort((a, b) => b[1] - a[1]).slice(0, 2).filter(([, weight]) => weight >= WORTH_TELLING);
  const text = look.json.tokens.text;
  const quoted = words.map(([position, weight]) => `“${text[position].replaceAll("\n", "⏎").trim() || "␣"}” (${percent(weight)})`);
  if (quoted.length) parts.push(`in the prompt most on ${quoted.join(" and ")}`);
  return `${parts.join("; ")}.`;
}

function nameOf(heads) {
  if (heads.length > 3) return `Mean of ${heads.length} heads`;
  return heads.length > 1 ? `Mean of ${heads.map(headName).join(", ")}` : headName(heads[0]);
}
