// Prompt and answer as tokens: each is a query where its row is there, and is shaded by the attention it gets.

import { h } from "./dom.js";
import { percent, shade } from "./scale.js";

const BREAK = /\n/;

function visible(text) {
  const shown = text.replaceAll("\n", "⏎").trim();
  return shown || "␣";
}

/** actions: query(position), hoverText(position). */
export function tokenView(actions) {
  const element = h("div", { class: "vh-tokens" });
  let context = null;
  let built = null;
  let chips = new Map();

  element.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const buttons = [...element.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + move];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });

  function chip(position) {
    const { tokens } = context.look.json;
    const text = tokens.text[position];
    const asked = context.look.rowOf(position) >= 0;
    const made = asked || context.live
      ? h("button", { type: "button", class: asked ? "vh-token" : "vh-token vh-unasked", onclick: () => actions.query(position) }, visible(text))
      : h("span", { class: "vh-token vh-still" }, visible(text));
    chips.set(position, made);
    return BREAK.test(text) ? [made, h("br")] : [made];
  }

  function build() {
    const { json } = context.look;
    const { tokens } = json;
    chips = new Map();
    const images = new Map(tokens.image.map(([first, length]) => [first, length]));
    const prompt = [];
    for (let position = 0; position < tokens.prompt; position++) {
      const length = images.get(position);
      if (length) {
        prompt.push(h("span", { class: "vh-token vh-image-tokens" }, `${length.toLocaleString("en")} image tokens`));
        position += length - 1;
      } else prompt.push(...chip(position));
    }
    const answer = [];
    for (let position = tokens.prompt; position < tokens.text.length; position++) answer.push(...chip(position));
    const loose = json.rows.filter((row) => row.position < 0 || row.position >= tokens.text.length);
    element.replaceChildren(
      ...(tokens.text.length > context.look.nImage ? [line("Prompt", prompt)] : []),
      ...(answer.length ? [line("Answer", answer)] : []),
      ...(loose.length ? [line("Query", loose.map((row) => {
        const made = h("button", { type: "button", class: "vh-token", onclick: () => actions.query(row.position) }, row.label);
        chips.set(row.position, made);
        return made;
      }))] : []),
    );
  }

  function line(title, chipsOfLine) {
    return h("div", { class: "vh-token-line", role: "group", "aria-label": `${title} tokens` }, h("span", { class: "vh-label" }, title), h("span", { class: "vh-token-run" }, chipsOfLine));
  }

  function update(given) {
    context = given;
    const key = context.look.json;
    if (built?.key !== key || built.rows !== key.rows.length) {
      built = { key, rows: key.rows.length };
      build();
    }
    const top = Math.max(0.05, ...context.textWeights.values());
    for (const [position, made] of chips) {
      const weight = context.textWeights.get(position) || 0;
      const current = position === context.row.position;
      made.style.setProperty("--vh-share", shade(weight, top).toFixed(3));
      made.classList.toggle("vh-query", current);
      if (made.tagName === "BUTTON") made.setAttribute("aria-pressed", String(current));
      const hint = current ? "the query" : context.look.rowOf(position) >= 0 ? "click: look from here" : context.live ? "click: ask the model from here" : "its row is not in this page";
      made.title = weight ? `${percent(weight)} of attention · ${hint}` : hint;
    }
  }

  return { element, update };
}
