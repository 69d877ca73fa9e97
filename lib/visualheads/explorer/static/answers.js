// What a head does to the answer: probabilities of the likeliest first tokens, before and after.

import { buttonRow, h } from "./dom.js";
import { percent } from "./scale.js";
import { headName } from "./state.js";

/** actions: mode(name), ask(request) – only where a kernel is there. */
export function answerView(actions) {
  const element = h("div", { class: "vh-answers" });

  function bars(before, after) {
    const most = Math.max(...before.map((row) => row.probability), ...(after || []).map((row) => row.probability), 1e-9);
    const rows = new Map(before.map((row) => [row.id, { ...row, before: row.probability }]));
    for (const row of after || []) rows.set(row.id, { before: NaN, ...rows.get(row.id), ...row, after: row.probability });
    return h("table", { class: "vh-bars" },
      h("caption", { class: "vh-unseen" }, "Probability of the answer's first token"),
      h("thead", { class: "vh-unseen" }, h("tr", {}, ["answer begins with", "probabilities", "before", "after"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, [...rows.values()].map((row) =>
        h("tr", {},
          h("th", { scope: "row" }, row.text.trim() || "␣"),
          h("td", { class: "vh-bar-cell" },
            h("span", { class: "vh-before", style: `width:${(100 * (row.before || 0)) / most}%` }),
            after && h("span", { class: "vh-after", style: `width:${(100 * (row.after || 0)) / most}%` })),
          h("td", {}, percent(row.before)),
          h("td", { class: "vh-now" }, after ? percent(row.after) : "")))));
  }

  /** The rows after a change of one head, from what stands in the data; null where it was not computed. */
  function stored(effects, top, head) {
    if (!effects) return null;
    const probability = effects.probability.subarray(head * top.length, (head + 1) * top.length);
    if (Number.isNaN(probability[0])) return null;
    const rows = top.map((row, i) => ({ ...row, probability: probability[i] }));
    const first = effects.first[head];
    if (!rows.some((row) => row.id === first)) rows.push({ id: first, text: effects.texts[first], probability: effects.firstProbability[head] });
    return rows;
  }

  function update(context) {
    const { look, choice: chosen, effects, mode, live } = context;
    const { answers, sample } = look.json;
    if (!answers) return; // the explorer hides what has nothing to show
    const modes = Object.entries(look.json.effects || {});
    const heads = chosen.heads.map(headName);
    const key = JSON.stringify([mode, heads, live?.settings]);
    const single = chosen.heads.length === 1 ? stored(effects, answers.top, look.index(chosen.heads[0])) : null;
    const asked = live?.result?.key === key ? live.result : null;
    const after = asked ? asked.top : single;
    const names = live ? live.modes : modes.map(([name, told]) => [name, told.label]);
    const changed = after && after.reduce((best, row) => (row.probability > best.probability ? row : best));
    element.replaceChildren(
      h("p", { class: "vh-says" }, "Answer ", h("strong", {}, answers.text || "(nothing)"),
        after && h("span", {}, " → ", h("strong", { class: "vh-now" }, asked?.text || changed.text.trim())),
        sample.answer && h("span", { class: "vh-quiet" }, ` · expected ${sample.answer}`)),
      names.length ? buttonRow("what is done to the head", names, mode, actions.mode) : "",
      live && live.steerable.includes(mode) ? slider(live, actions) : "",
      bars(answers.top, after),
      h("p", { class: "vh-quiet" }, note(context, modes, after, asked, single)),
      live && !asked && !live.busy ? h("button", { type: "button", class: "vh-ask", onclick: () => actions.ask(key) }, `Answer with ${heads.length > 3 ? `${heads.length} heads` : heads.join(", ")} changed`) : "",
      live?.busy ? h("p", { class: "vh-quiet", role: "status" }, "The model is answering …") : "",
      live?.error ? h("p", { class: "vh-fault", role: "alert" }, live.error) : "",
    );
  }

  return { element, update };
}

function slider(live, actions) {
  return h("label", { class: "vh-slider" }, "bias ",
    h("input", { type: "range", min: -8, max: 8, step: 0.5, value: live.settings.bias, onchange: (event) => actions.bias(Number(event.target.value)) }),
    h("output", {}, ` ${live.settings.bias}`));
}

function note(context, modes, after, asked, single) {
  const { look, mode, choice: chosen, live } = context;
  const told = look.json.effects?.[mode];
  if (asked) return asked.note;
  if (after) return `${told.description}`;
  if (live) return "";
  if (!modes.length) return "No effects are in this page; write it with --effects top or all.";
  if (chosen.heads.length > 1) return "Effects are those of single heads; choose one head.";
  return single ? "" : "Not computed for this head; write the page with --effects all.";
}
