// Explorers of a page: those whose data stand in it, and those that load theirs from a folder.

import { mount } from "./explorer.js";
import { folderSource, inlineSource, provide } from "./source.js";
import { headOf } from "./state.js";

function partsIn(root) {
  const parts = new Map();
  for (const element of root.querySelectorAll("script[data-look]")) parts.set(element.dataset.look, () => element.textContent);
  return parts;
}

async function start(root) {
  const { folder, model, sample, heads, token, measure, address, remembers } = root.dataset;
  const options = {
    model, sample, measure,
    token: token == null ? null : Number(token),
    heads: heads?.split(" ").map(headOf).filter(Boolean),
    address: address !== "no",
    remembers: remembers != null,
  };
  const place = document.createElement("div");
  const inline = root.querySelector("script[data-index]");
  try {
    const source = inline ? inlineSource(JSON.parse(inline.textContent), partsIn(root)) : await folderSource(folder);
    root.querySelector(".vh-without")?.remove();
    root.append(place);
    root.explorer = mount(place, source, options);
    await root.explorer.ready;
    root.dataset.ready = root.explorer.broken ? "failed" : "yes";
    root.dataset.shown = Math.round(performance.now()); // milliseconds since the page was opened
  } catch (error) {
    place.className = "vh-look vh-fault";
    place.textContent = error.message;
    root.append(place);
    root.dataset.ready = "failed";
  }
}

export function startAll() {
  for (const root of document.querySelectorAll("[data-explorer]:not([data-ready])")) {
    root.dataset.ready = "no";
    start(root);
  }
}

globalThis.visualheads = { ...globalThis.visualheads, mount, provide, startAll };
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
else startAll();
