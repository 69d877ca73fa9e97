// The explorer: one choice (model, sample, heads, query, measure), and the views that show it.

import { answerView } from "./answers.js";
import { buttonRow, h, uniqueId } from "./dom.js";
import { galleryView } from "./gallery.js";
import { colourBar, headMap } from "./headmap.js";
import { legend } from "./legend.js";
import { lookOf } from "./look.js";
import { measureOf, measuresOf } from "./measures.js";
import { inBox, lift, meanWeights, strongest } from "./numbers.js";
import { orderView } from "./order.js";
import { pictureView } from "./picture.js";
import { dataFile, pictureFile } from "./save.js";
import { headScale, number, percent, told } from "./scale.js";
import { headName, read, remember, remembered, written } from "./state.js";
import { tokenView } from "./tokens.js";

const LISTED = 8;

/**
 * Put an explorer into an element.
 *
 * source    {index, load(model, sample)}, and `live` where a kernel answers: {modes, steerable, ask(request)}
 * options   model, sample, heads, token, measure: what is chosen first; address: whether the choice is in the page's
 *           address; remembers: whether it is kept for other pages
 */
export function mount(root, source, options = {}) {
  const explorer = new Explorer(root, source, { address: true, remembers: false, ...options });
  explorer.ready = explorer.start();
  return explorer;
}

export class Explorer {
  constructor(root, source, options) {
    this.root = root;
    this.source = source;
    this.options = options;
    this.looks = new Map();
    this.choice = {};
    this.settings = { overlay: "brightness", strength: 0.75, scale: "shared", grid: "whole", tool: "point", masked: false, asked: true };
    this.hovered = null;
    this.live = source.live ? { ...source.live, settings: { bias: 4 }, result: null, busy: false, error: "" } : null;
    this.mode = null;
    this.turn = 0;
  }

  async start() {
    this.build();
    const first = this.options.address ? read(location.hash) : null;
    this.choice = { ...this.defaults(), ...(this.options.remembers ? remembered() : null), ...first };
    this.onhash = () => {
      const asked = read(location.hash);
      if (asked) this.choose(asked, { silent: true });
    };
    if (this.options.address) window.addEventListener("hashchange", this.onhash);
    this.onscheme = () => this.render();
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.onscheme);
    this.watch = new MutationObserver(this.onscheme);
    for (const place of [document.documentElement, document.body]) {
      this.watch.observe(place, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] });
    }
    await this.open();
  }

  stop() {
    window.removeEventListener("hashchange", this.onhash);
    this.scheme?.removeEventListener("change", this.onscheme);
    this.watch?.disconnect();
    this.map.stop();
    this.root.replaceChildren();
  }

  defaults() {
    const { model, sample, heads, token, measure } = this.options;
    const given = { model, sample, heads, token, measure };
    return Object.fromEntries(Object.entries(given).filter(([, value]) => value != null));
  }

  build() {
    const act = {
      hover: (head) => this.hover(head),
      choose: (heads) => this.choose({ heads }),
    };
    this.map = headMap(act);
    this.bar = colourBar();
    this.picture = pictureView({
      patch: (patch) => this.choose({ patch, ...(patch == null ? this.measureBack() : { measure: "patch" }) }),
      box: (box) => this.choose({ box, ...(box == null ? {} : { measure: "lift" }) }),
      hoverPatch: (token) => this.tellPatch(token),
    });
    this.order = orderView();
    this.legend = legend();
    this.tokens = tokenView({ query: (token) => this.query(token) });
    this.answers = answerView({ mode: (mode) => this.setMode(mode), ask: (key) => this.ask(key), bias: (bias) => this.setBias(bias) });
    this.gallery = galleryView({ sample: (sample) => this.choose({ sample }) });
    this.heading = h("header", { class: "vh-heading" });
    this.tools = h("div", { class: "vh-tools" });
    this.tellsPatch = h("p", { class: "vh-quiet vh-patch-line" });
    this.measureBox = h("div", { class: "vh-measure" });
    this.list = h("div", { class: "vh-list" });
    this.sentence = h("p", { class: "vh-sentence", "aria-live": "polite" });
    this.fault = h("p", { class: "vh-fault", role: "alert", hidden: true });
    this.foot = h("footer", { class: "vh-foot" });
    this.body = h("div", { class: "vh-body" },
      h("section", { class: "vh-left", "aria-label": "picture" }, this.picture.element, this.order.element, h("div", { class: "vh-under" }, this.legend.element, this.tellsPatch), this.tools),
      h("section", { class: "vh-right", "aria-label": "heads" }, this.measureBox, this.map.element, this.bar.element, this.list));
    this.keyHint = h("p", { class: "vh-quiet vh-key" }, "Outlined: the query, click another to look from there. Shaded: where the head looks in the text.");
    this.effectsBox = h("section", { "aria-label": "effect on the answer" }, h("h4", {}, "What the head does"), this.answers.element);
    this.lower = h("div", { class: "vh-lower" },
      h("section", { "aria-label": "prompt and answer" }, h("h4", {}, "Prompt and answer"), this.keyHint, this.tokens.element),
      this.effectsBox);
    this.root.classList.add("vh-look");
    this.root.replaceChildren(this.heading, this.fault, this.body, this.sentence, this.lower, this.gallery.element, this.foot);
  }

  // --- the choice ---------------------------------------------------------------------------------------------------

  async choose(change, { silent = false } = {}) {
    const before = this.choice;
    this.choice = { ...before, ...change };
    if (change.model && change.model !== before.model && !change.sample) {
      const samples = this.model().samples;
      if (!samples.some((sample) => sample.id === this.choice.sample)) this.choice.sample = samples[0].id;
    }
    const moved = this.choice.sample !== before.sample || this.choice.model !== before.model;
    if (moved) this.choice = { ...this.choice, box: change.box ?? null, patch: change.patch ?? null, token: change.token ?? this.sameToken(before) };
    if (moved || change.heads) this.hovered = null;
    if (this.live && (change.heads || moved)) this.live.error = "";
    await this.open();
    if (!silent) this.tell();
  }

  /** The query of another sample that stands at the same place: the last prompt token, or the same generated one. */
  sameToken(before) {
    const tokens = this.look?.json.tokens;
    return tokens && before.token >= tokens.prompt - 1 ? { after: before.token - tokens.prompt } : null;
  }

  tell() {
    if (this.options.remembers) remember(this.choice);
    if (this.options.address) history.replaceState(history.state, "", `#${written(this.choice)}`);
    this.root.dispatchEvent(new CustomEvent("vh-choice", { bubbles: true, detail: { ...this.choice } }));
  }

  model() {
    const { models } = this.source.index;
    return models.find((model) => model.name === this.choice.model) || models[0];
  }

  load(model, sample) {
    const key = `${model}/${sample}`;
    if (!this.looks.has(key)) this.looks.set(key, Promise.resolve(this.source.load(model, sample)).then(lookOf));
    return this.looks.get(key);
  }

  async open() {
    const turn = ++this.turn;
    const model = this.model();
    const sample = model.samples.find((one) => one.id === this.choice.sample) || model.samples[0];
    try {
      const look = await this.load(model.name, sample.id);
      const choice = this.completed(look, model, sample);
      const row = await look.row(Math.max(0, look.rowOf(choice.token)));
      const mode = this.modeFor(look);
      const effects = mode && look.json.effects?.[mode] ? await look.effects(mode) : null;
      const values = await measureOf(choice.measure, { look, row, choice, settings: this.settings });
      if (turn !== this.turn) return; // something else was chosen meanwhile
      Object.assign(this, { look, choice, row, mode, effects, values });
      this.fault.hidden = true;
      this.render();
    } catch (error) {
      if (turn !== this.turn) return;
      this.fault.textContent = error.message;
      this.fault.hidden = false;
      this.broken = error;
    }
  }

  /** The choice with what is missing or impossible in this look replaced by what it starts with. */
  completed(look, model, sample) {
    const { json } = look;
    const choice = { ...this.choice, model: model.name, sample: sample.id };
    if (choice.token?.after != null) choice.token = json.tokens.prompt + choice.token.after;
    if (look.rowOf(choice.token) < 0) choice.token = json.rows[0].position;
    choice.heads = choice.heads?.filter((head) => look.has(head));
    if (!choice.heads?.length) choice.heads = [look.at(json.first_head || 0)];
    if (choice.patch != null && !look.map?.isPatch[choice.patch]) choice.patch = null;
    const measures = measuresOf(look, choice);
    if (!measures.some(([name]) => name === choice.measure)) choice.measure = measures[0][0];
    return choice;
  }

  measureBack() {
    return this.choice.measure === "patch" ? { measure: this.choice.box ? "lift" : undefined } : {};
  }

  hover(head) {
    if (headName(head || { layer: -1, head: -1 }) === headName(this.hovered || { layer: -1, head: -1 })) return;
    this.hovered = head;
    if (this.look) this.render();
  }

  set(change) {
    Object.assign(this.settings, change);
    this.open();
  }

  async query(token) {
    if (this.look.rowOf(token) < 0) {
      try {
        this.look.json.rows.push(await this.source.live.row({ model: this.choice.model, sample: this.choice.sample, position: token }));
      } catch (error) {
        this.fault.textContent = error.message;
        this.fault.hidden = false;
        return;
      }
    }
    this.choose({ token });
  }

  // --- what heads do -------------------------------------------------------------------------------------------------

  modeFor(look) {
    const known = this.live ? this.live.modes.map(([name]) => name) : Object.keys(look.json.effects || {});
    return known.includes(this.mode) ? this.mode : known[0] || null;
  }

  setMode(mode) {
    this.mode = mode;
    const measured = this.choice.measure?.startsWith("effect:") && this.look.json.effects?.[mode];
    this.choose(measured ? { measure: `effect:${mode}` } : {});
  }

  setBias(bias) {
    this.live.settings = { ...this.live.settings, bias };
    this.render();
  }

  async ask(key) {
    const { model, sample, heads, box } = this.choice;
    Object.assign(this.live, { busy: true, error: "" });
    this.render();
    try {
      const told = await this.live.ask({ model, sample, heads: heads.map(({ layer, head }) => [layer, head]), mode: this.mode, bias: this.live.settings.bias, box: box || null });
      this.live.result = { ...told, key };
    } catch (error) {
      this.live.error = error.message;
    }
    this.live.busy = false;
    this.render();
  }

  // --- showing -------------------------------------------------------------------------------------------------------

  context() {
    const { look, choice, row, settings, values } = this;
    const shown = this.hovered ? [this.hovered] : choice.heads;
    const indices = shown.map((head) => look.index(head));
    const weights = meanWeights(row.weights, indices, look.nImage);
    const sinkTokens = look.sinksOf(shown);
    const hidden = settings.masked ? sinkTokens : null;
    const peaks = Float32Array.from(row.peak).filter(Number.isFinite).sort();
    const own = weights ? weights.reduce((most, value, i) => (hidden?.[i] ? most : Math.max(most, value)), 0) : 0;
    const top = settings.scale === "shared" ? peaks[Math.floor(0.98 * (peaks.length - 1))] || own : own;
    const measure = measuresOf(look, choice).find(([name]) => name === choice.measure)[1];
    const context = { look, choice, row, settings, values, shown, weights, hidden, sinkTokens, top, measure, hovered: this.hovered };
    context.scale = headScale(values, measure.kind, isDark(this.root));
    context.textWeights = look.textWeights(row, indices);
    context.model = this.model();
    Object.assign(context, { effects: this.effects, mode: this.mode, live: this.live });
    context.load = (sample) => this.load(choice.model, sample);
    context.sentence = sentenceOf(context, indices);
    return context;
  }

  render() {
    if (!this.look) return;
    const context = this.context();
    this.root.classList.toggle("vh-dark", isDark(this.root));
    for (const view of [this.map, this.bar, this.picture, this.order, this.legend, this.tokens, this.answers, this.gallery]) view.update(context);
    this.sentence.textContent = context.sentence;
    this.effectsBox.hidden = !context.look.json.answers;
    this.keyHint.hidden = !context.row.keys;
    this.drawHeading(context);
    this.drawTools(context);
    this.drawMeasure(context);
    this.drawList(context);
    this.drawFoot(context);
  }

  drawHeading({ look, choice, model }) {
    const key = `${choice.model}/${choice.sample}`;
    if (this.headed === key) return;
    this.headed = key;
    const { models } = this.source.index;
    const select = (label, options, value, onchange) =>
      h("label", { class: "vh-select" }, h("span", {}, label),
        h("select", { onchange: (event) => onchange(event.target.value) }, options.map(([name, text]) => h("option", { value: name, selected: name === value }, text))));
    const [firstLine, ...instructions] = look.json.sample.question.split("\n");
    const status = h("span", { class: "vh-copied", role: "status" });
    const save = h("details", { class: "vh-save" }, h("summary", {}, "Save"),
      h("div", {}, [["picture.svg", "Picture, SVG"], ["picture.png", "Picture, PNG"], ["heads.svg", "Heads, SVG"], ["heads.png", "Heads, PNG"], ["nc", "Data, NetCDF"]]
        .map(([kind, text]) => h("button", { type: "button", "data-kind": kind, onclick: () => { save.open = false; this.save(kind); } }, text))));
    save.addEventListener("keydown", (event) => event.key === "Escape" && (save.open = false));
    this.heading.replaceChildren(
      h("div", { class: "vh-switches" },
        models.length > 1 ? select("Model", models.map((one) => [one.name, one.title || one.name]), choice.model, (name) => this.choose({ model: name })) : h("span", { class: "vh-model" }, model.title || model.name),
        model.samples.length > 1 ? select("Picture", model.samples.map((one, i) => [one.id, `${i + 1} · ${one.question}`]), choice.sample, (id) => this.choose({ sample: id })) : "",
        h("span", { class: "vh-spring" }), status,
        this.options.address ? h("button", { type: "button", class: "vh-copy", onclick: () => this.copy(status) }, "Copy link") : "", save),
      h("h3", {}, firstLine),
      instructions.length ? h("p", { class: "vh-quiet" }, instructions.join(" ")) : "");
  }

  drawTools({ look, settings }) {
    const key = JSON.stringify([settings, this.choice.model, this.choice.sample]);
    if (this.tooled === key) return;
    this.tooled = key;
    const tool = (label, options, name) => buttonRow(label, options, settings[name], (value) => this.set({ [name]: value }));
    const check = (text, name) => h("label", { class: "vh-check" }, h("input", { type: "checkbox", checked: settings[name], onchange: (event) => this.set({ [name]: event.target.checked }) }), text);
    const focused = document.activeElement?.closest?.(".vh-tools") === this.tools ? [...this.tools.querySelectorAll("button, input")].indexOf(document.activeElement) : -1;
    this.tools.replaceChildren(...(look.map ? [
      tool("overlay", [["brightness", "Brightness"], ["outline", "Outline"], ["off", "Off"]], "overlay"),
      h("label", { class: "vh-slider" }, "strength ", h("input", { type: "range", min: 0.2, max: 1, step: 0.05, value: settings.strength, oninput: (event) => { settings.strength = Number(event.target.value); this.render(); } })),
      tool("scale", [["shared", "Same scale"], ["own", "Scale per head"]], "scale"),
      tool("tool", [["point", "Point"], ["box", "Draw box"]], "tool"),
      this.picture.zoomer,
      look.map.tiles[0] ? tool("grid", [["whole", "Whole picture"], ["tiles", "Tiles"]], "grid") : "",
      look.sinkMarks ? check("hide sinks", "masked") : "",
      look.json.sample.box ? check("asked region", "asked") : "",
    ] : []));
    if (focused >= 0) this.tools.querySelectorAll("button, input")[focused]?.focus();
  }

  drawMeasure({ look, choice, measure }) {
    const options = measuresOf(look, choice);
    const key = JSON.stringify([options.map(([name]) => name), choice.measure, choice.model]);
    if (this.measured === key) return;
    this.measured = key;
    const help = uniqueId("measure");
    this.measureBox.replaceChildren(
      h("label", { class: "vh-select" }, h("span", {}, "Heads by"),
        h("select", { "aria-describedby": help, onchange: (event) => this.choose({ measure: event.target.value }) },
          options.map(([name, one]) => h("option", { value: name, selected: name === choice.measure }, one.long_name)))),
      h("p", { class: "vh-quiet", id: help }, measure.description));
  }

  drawList({ look, values, measure, choice }) {
    const best = strongest(values, LISTED, measure.kind === "diverging");
    this.list.replaceChildren(
      h("span", { class: "vh-label" }, measure.kind === "diverging" ? "Strongest" : "Highest"),
      ...best.map((index) => {
        const head = look.at(index);
        return h("button", { type: "button", "aria-pressed": String(choice.heads.some((one) => headName(one) === headName(head))), onclick: () => this.choose({ heads: [head] }) },
          headName(head), h("span", { class: "vh-quiet" }, ` ${told(values[index], measure.unit)}`));
      }));
  }

  drawFoot({ look }) {
    if (this.footed === look) return;
    this.footed = look;
    const { model, provenance, note } = look.json;
    const parts = [`${model.name}: ${model.layers} layers × ${model.heads} heads`, ...Object.entries(provenance || {}).map(([name, value]) => `${name} ${value}`)];
    this.foot.replaceChildren(note ? h("p", { class: "vh-note" }, note) : "", h("p", {}, parts.join(" · ")));
  }

  tellPatch(token) {
    const weight = this.look && token >= 0 ? this.contextWeights()?.[token] : NaN;
    this.tellsPatch.textContent = Number.isFinite(weight) ? `this patch: ${percent(weight)} of ${this.choice.heads.map(headName).join(", ")}'s attention` : "";
  }

  contextWeights() {
    return meanWeights(this.row.weights, this.choice.heads.map((head) => this.look.index(head)), this.look.nImage);
  }

  async copy(status) {
    this.tell();
    try {
      await navigator.clipboard.writeText(location.href);
      status.textContent = "copied";
    } catch {
      status.textContent = "the link is in the address bar";
    }
    setTimeout(() => (status.textContent = ""), 4000);
  }

  save(kind) {
    const name = [this.choice.model, ...this.choice.heads.map(headName)].join("_");
    if (kind === "nc") return dataFile(name, this.context());
    const [view, format] = kind.split(".");
    return pictureFile(`${name}_${view}`, view === "picture" ? this.picture.svg : this.map.svg, format);
  }
}

export function isDark(root) {
  const said = root.closest("[data-theme]")?.dataset.theme || document.documentElement.dataset.theme;
  if (said === "dark" || said === "light") return said === "dark";
  const lab = document.body.dataset.jpThemeLight;
  if (lab) return lab === "false";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function sentenceOf({ look, row, shown, weights, choice, measure, values }, indices) {
  const name = shown.length > 3 ? `Mean of ${shown.length} heads` : shown.length > 1 ? `Mean of ${shown.map(headName).join(", ")}` : headName(shown[0]);
  if (!weights) return `${name}: its map is not in these data.`;
  const mean = (array) => indices.reduce((sum, index) => sum + array[index], 0) / indices.length;
  const parts = [`${name} from ${row.label}: ${percent(mean(row.measures.image_weight || row.total))} of attention on the picture`];
  const tiled = look.map?.tiles[0] ? weights.reduce((sum, weight, token) => sum + (look.map.tile[token] > 0 ? weight : 0), 0) : 0;
  if (tiled) parts[0] += ` (${percent(tiled)} in its tiles)`;
  const region = choice.box || look.json.sample.box;
  if (region && look.map) {
    const value = mean(lift(row.weights, look.map, inBox(look.map, region), look.heads));
    if (Number.isFinite(value)) parts.push(`${number(value)} times an even look in the ${choice.box ? "drawn box" : "asked region"}`);
  }
  if (choice.patch != null) parts.push(`${percent(weights[choice.patch])} on the chosen patch`);
  if (!["image_weight", "lift", "patch"].includes(choice.measure)) parts.push(`${measure.long_name} ${told(mean(values), measure.unit)}`);
  const words = [...look.textWeights(row, indices)].sort((a, b) => b[1] - a[1]).slice(0, 2).filter(([, weight]) => weight >= 0.01);
  const text = look.json.tokens.text;
  if (words.length) parts.push(`in the prompt most on ${words.map(([position, weight]) => `“${text[position].trim() || "␣"}” (${percent(weight)})`).join(" and ")}`);
  return `${parts.join("; ")}.`;
}
