// The pictures at which a head looks most, among those of the page.

import { unpack } from "./decode.js";
import { h, s } from "./dom.js";
import { LEVELS, LEVEL_COLOURS, percent, shade } from "./scale.js";
import { loops, pathOf } from "./outline.js";
import { headName } from "./state.js";

const SHOWN = 6;

/** actions: sample(id); load(sample) gives the look of a sample of the present model. */
export function galleryView(actions) {
  const element = h("div", { class: "vh-gallery" });
  let shown = "";

  async function update({ model, choice, look, load }) {
    if (!model.gallery || model.samples.length < 2) {
      element.hidden = true;
      return;
    }
    const [first] = choice.heads;
    const key = `${model.name}/${headName(first)}/${choice.sample}`;
    if (key === shown) return;
    shown = key;
    element.hidden = false;
    model.gallery.ready ||= unpack(model.gallery.values);
    const values = await model.gallery.ready;
    const order = model.samples
      .map((sample, i) => ({ sample, value: values[i * look.heads + look.index(first)] }))
      .filter(({ value }) => Number.isFinite(value))
      .sort((a, b) => b.value - a.value)
      .slice(0, SHOWN);
    if (key !== shown) return;
    element.replaceChildren(
      h("h4", {}, `Where ${headName(first)} looks most`),
      h("p", { class: "vh-quiet" }, model.gallery.label),
      h("ol", {}, order.map(({ sample, value }) => {
        const frame = h("span", { class: "vh-thumb" }, sample.thumbnail ? h("img", { src: sample.thumbnail, alt: `Picture of ${sample.id}`, loading: "lazy" }) : "");
        drawn(frame, load(sample.id), first, () => key === shown);
        return h("li", {}, h("button", { type: "button", "aria-current": String(sample.id === choice.sample), onclick: () => actions.sample(sample.id) },
          frame, h("span", { class: "vh-thumb-question" }, sample.question.split("\n")[0]), h("span", { class: "vh-thumb-value" }, percent(value))));
      })),
    );
  }

  return { element, update };
}

async function drawn(frame, loading, head, current) {
  const look = await loading;
  if (!look.map || !look.has(head) || !current()) return;
  const row = await look.row(0);
  const own = row.weights.subarray(look.index(head) * look.nImage, (look.index(head) + 1) * look.nImage);
  const held = (tiled) => own.reduce((sum, weight, token) => sum + (look.map.isPatch[token] && look.map.tile[token] > 0 === tiled ? weight : 0), 0);
  const tiled = held(true) > held(false); // pictures in tiles are there twice: the half with more attention is drawn
  const shown = look.map.isPatch.map((patch, token) => patch && look.map.tile[token] > 0 === tiled);
  const top = own.reduce((most, weight, token) => (shown[token] ? Math.max(most, weight) : most), 0);
  const { width, height } = look.json.picture;
  const lines = LEVELS.slice(1).flatMap((level, i) => {
    const above = shown.map((there, token) => there && shade(own[token], top) >= level);
    const d = pathOf(loops(above, look.map.box));
    return d ? [s("path", { class: "vh-outline-edge", d }), s("path", { class: "vh-outline", d, stroke: LEVEL_COLOURS[i + 1] })] : [];
  });
  frame.append(s("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, lines));
}
