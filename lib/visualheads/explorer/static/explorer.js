// The explorer: one choice (model, sample, heads, query, measure), and the views that show it.

import { answerView } from "./answers.js";
import { h } from "./dom.js";
import { galleryView } from "./gallery.js";
import { colourBar, headMap } from "./headmap.js";
import { legend } from "./legend.js";
import { lookOf } from "./look.js";
import { measureOf, measuresOf } from "./measures.js";
import { meanWeights, sums } from "./numbers.js";
import { orderView } from "./order.js";
import { footView, headingView, listView, measureView, toolView } from "./panels.js";
import { pictureView } from "./picture.js";
import { dataFile, pictureFile } from "./save.js";
import { headScale, percent } from "./scale.js";
import { headName, read, remember, remembered, written } from "./state.js";
import { tokenView } from "./tokens.js";
import { sentenceOf } from "./words.js";

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
    this.settings = { overlay: "brightness", strength: 0.65, scale: "own", grid: "whole", tool: "point", masked: false, asked: true };
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
    this.heading = headingView({ choose: (change) => this.choose(change), copy: (status) => this.copy(status), save: (kind) => this.save(kind) }, this.source.index.models, this.options.address);
    this.tools = toolView({ set: (change) => this.set(change), strength: (value) => this.setStrength(value) }, this.picture.zoomer);
    this.measureBox = measureView({ choose: (change) => this.choose(change) });
    this.list = listView({ choose: (change) => this.choose(change) });
    this.foot = footView();
    this.tellsPatch = h("p", { class: "vh-quiet vh-patch-line" });
    this.sentence = h("p", { class: "vh-sentence", "aria-live": "polite" });
    this.fault = h("p", { class: "vh-fault", role: "alert", hidden: true });
    this.body = h("div", { class: "vh-body" },
      h("section", { class: "vh-left", "aria-label": "picture" }, this.picture.element, this.order.element, h("div", { class: "vh-under" }, this.legend.element, this.tellsPatch), this.tools.element),
      h("section", { class: "vh-right", "aria-label": "heads" }, this.measureBox.element, this.map.element, this.bar.element, this.list.element));
    this.keyHint = h("p", { class: "vh-quiet vh-key" }, "Outlined: the query, click another to look from there. Shaded: where the head looks in the text.");
    this.effectsBox = h("section", { "aria-label": "effect on the answer" }, h("h4", {}, "What the head does"), this.answers.element);
    this.lower = h("div", { class: "vh-lower" },
      h("section", { "aria-label": "prompt and answer" }, h("h4", {}, "Prompt and answer"), this.keyHint, this.tokens.element),
      this.effectsBox);
    this.root.classList.add("vh-look");
    this.root.replaceChildren(this.heading.element, this.fault, this.body, this.sentence, this.lower, this.gallery.element, this.foot.element);
    this.views = [this.map, this.bar, this.picture, this.order, this.legend, this.tokens, this.answers, this.gallery, this.heading, this.tools, this.measureBox, this.list, this.foot];
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
    if (this.options.remembers && !silent) remember(this.choice); // at once: a reader may leave before it is drawn
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

  /** Load and draw what is chosen; `settled` is done when the last choice is drawn. */
  open() {
    this.turn += 1;
    return (this.settled = this.draw(this.turn));
  }

  async draw(turn) {
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
      if (look !== this.look) this.settings.grid = this.asksTiles ?? mostlyInTiles(look, row) ? "tiles" : "whole";
      if (!look.map?.tiles[0]) this.settings.grid = "whole";
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
    // one drawing a frame, however fast the pointer moves
    this.frame ||= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  set(change) {
    if (change.grid) this.asksTiles = change.grid === "tiles";
    Object.assign(this.settings, change);
    this.open();
  }

  setStrength(strength) {
    this.settings.strength = strength;
    this.render();
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
    for (const view of this.views) view.update(context);
    this.sentence.textContent = context.sentence;
    this.effectsBox.hidden = !context.look.json.answers;
    this.keyHint.hidden = !context.row.keys;
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

/** Whether most of the attention on a picture that is there twice lies in its tiles. */
function mostlyInTiles(look, row) {
  if (!look.map?.tiles[0]) return false;
  const tiled = sums(row.weights, Array.from(look.map.tile, (tile) => tile > 0), look.heads);
  const all = row.total.reduce((sum, value) => sum + (value || 0), 0);
  return tiled.reduce((sum, value) => sum + (value || 0), 0) > all / 2;
}

export function isDark(root) {
  const said = root.closest("[data-theme]")?.dataset.theme || document.documentElement.dataset.theme;
  if (said === "dark" || said === "light") return said === "dark";
  const lab = document.body.dataset.jpThemeLight;
  if (lab) return lab === "false";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}
