// The parts around picture and map: heading with switches, tools, measure, list of heads, foot. Each is drawn anew only
// when what it shows has changed, so that what has the keyboard's focus stays.

import { buttonRow, h, uniqueId } from "./dom.js";
import { measuresOf } from "./measures.js";
import { strongest } from "./numbers.js";
import { told } from "./scale.js";
import { headName } from "./state.js";

const LISTED = 8;
const SAVED = [["picture.svg", "Picture, SVG"], ["picture.png", "Picture, PNG"], ["heads.svg", "Heads, SVG"], ["heads.png", "Heads, PNG"], ["nc", "Data, NetCDF"]];

function select(label, options, value, onchange, help) {
  const made = h("select", { "aria-describedby": help, onchange: (event) => onchange(event.target.value) },
    options.map(([name, text]) => h("option", { value: name, selected: name === value }, text)));
  return h("label", { class: "vh-select" }, h("span", {}, label), made);
}

/** Draws only when the key has changed. */
function panel(element, keyOf, draw) {
  let shown = null;
  return {
    element,
    update(context) {
      const key = keyOf(context);
      if (key === shown) return;
      shown = key;
      element.replaceChildren(...draw(context).filter(Boolean));
    },
  };
}

/** Switches of model and picture, link, files, and the question. actions: choose, copy(status), save(kind); linked. */
export function headingView(actions, models, linked) {
  return panel(h("header", { class: "vh-heading" }), ({ choice }) => `${choice.model}/${choice.sample}`, ({ look, choice, model }) => {
    const [question, ...instructions] = look.json.sample.question.split("\n");
    const status = h("span", { class: "vh-copied", role: "status" });
    const files = SAVED.map(([kind, text]) => h("button", { type: "button", "data-kind": kind, onclick: () => { save.open = false; actions.save(kind); } }, text));
    const save = h("details", { class: "vh-save" }, h("summary", {}, "Save"), h("div", {}, files));
    save.addEventListener("keydown", (event) => event.key === "Escape" && (save.open = false));
    return [
      h("div", { class: "vh-switches" },
        models.length > 1
          ? select("Model", models.map((one) => [one.name, one.title || one.name]), choice.model, (name) => actions.choose({ model: name }))
          : h("span", { class: "vh-model" }, model.title || model.name),
        model.samples.length > 1 && select("Picture", model.samples.map((one, i) => [one.id, `${i + 1} · ${one.question.split("\n")[0]}`]), choice.sample, (id) => actions.choose({ sample: id })),
        h("span", { class: "vh-spring" }), status,
        linked && h("button", { type: "button", class: "vh-copy", onclick: () => actions.copy(status) }, "Copy link"), save),
      h("h3", {}, question),
      instructions.length && h("p", { class: "vh-quiet" }, instructions.join(" ")),
    ];
  });
}

/** How the picture is shown. actions: set(change), strength(value). */
export function toolView(actions, zoomer) {
  const element = h("div", { class: "vh-tools" });
  const view = panel(element, ({ settings, choice }) => JSON.stringify([{ ...settings, strength: 0 }, choice.model, choice.sample]), ({ look, settings }) => {
    if (!look.map) return [];
    const row = (label, options, name) => buttonRow(label, options, settings[name], (value) => actions.set({ [name]: value }));
    const check = (text, name) => h("label", { class: "vh-check" },
      h("input", { type: "checkbox", checked: settings[name], onchange: (event) => actions.set({ [name]: event.target.checked }) }), text);
    return [
      row("overlay", [["brightness", "Brightness"], ["outline", "Outline"], ["off", "Off"]], "overlay"),
      h("label", { class: "vh-slider" }, "strength ",
        h("input", { type: "range", min: 0.2, max: 1, step: 0.05, value: settings.strength, oninput: (event) => actions.strength(Number(event.target.value)) })),
      row("scale", [["own", "Scale per head"], ["shared", "Same scale"]], "scale"),
      row("tool", [["point", "Point"], ["box", "Draw box"]], "tool"),
      zoomer,
      look.map.tiles[0] > 0 && row("grid", [["whole", "Whole picture"], ["tiles", "Tiles"]], "grid"),
      look.sinkMarks && check("hide sinks", "masked"),
      look.json.sample.box && check("asked region", "asked"),
    ];
  });
  const focusable = () => [...element.querySelectorAll("button, input")];
  return {
    element,
    update(context) {
      const focused = focusable().indexOf(document.activeElement);
      view.update(context);
      if (focused >= 0) focusable()[focused]?.focus();
    },
  };
}

/** What the map is coloured by. actions: choose. */
export function measureView(actions) {
  const help = uniqueId("measure");
  const keyOf = ({ look, choice }) => JSON.stringify([measuresOf(look, choice).map(([name, one]) => [name, one.long_name]), choice.measure, choice.model]);
  return panel(h("div", { class: "vh-measure" }), keyOf, ({ look, choice, measure }) => [
    select("Heads by", measuresOf(look, choice).map(([name, one]) => [name, one.long_name]), choice.measure, (name) => actions.choose({ measure: name }), help),
    h("p", { class: "vh-quiet", id: help }, measure.description),
  ]);
}

/** The heads with the largest values. actions: choose. */
export function listView(actions) {
  const keyOf = ({ look, values, measure, choice }) => JSON.stringify([best(values, measure), choice.heads, look.json.sample.id, choice.measure, choice.token]);
  return panel(h("div", { class: "vh-list" }), keyOf, ({ look, values, measure, choice }) => [
    h("span", { class: "vh-label" }, measure.kind === "diverging" ? "Strongest" : "Highest"),
    ...best(values, measure).map((index) => {
      const head = look.at(index);
      const pressed = choice.heads.some((one) => headName(one) === headName(head));
      return h("button", { type: "button", "aria-pressed": String(pressed), onclick: () => actions.choose({ heads: [head] }) },
        headName(head), h("span", { class: "vh-quiet" }, ` ${told(values[index], measure.unit)}`));
    }),
  ]);
}

function best(values, measure) {
  return strongest(values, LISTED, measure.kind === "diverging");
}

/** What the data say of themselves. */
export function footView() {
  return panel(h("footer", { class: "vh-foot" }), ({ look }) => `${look.json.model.name}/${look.json.sample.id}`, ({ look }) => {
    const { model, provenance, note } = look.json;
    const parts = [`${model.name}: ${model.layers} layers × ${model.heads} heads`, ...Object.entries(provenance || {}).map(([name, value]) => `${name} ${value}`)];
    return [note && h("p", { class: "vh-note" }, note), h("p", {}, parts.join(" · "))];
  });
}
