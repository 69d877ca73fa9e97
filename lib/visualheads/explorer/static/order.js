// Image tokens one after the other, for models whose layout of them is not known.

import { s } from "./dom.js";
import { percent, shade } from "./scale.js";

const COLUMNS = 32;

export function orderView() {
  const element = s("svg", { class: "vh-order", role: "img" });
  let cells = [];

  function update({ look, weights, top }) {
    element.style.display = look.map ? "none" : "";
    if (look.map) return;
    if (cells.length !== look.nImage) {
      const columns = Math.min(COLUMNS, look.nImage);
      cells = Array.from({ length: look.nImage }, (_, i) => s("rect", { x: i % columns, y: Math.floor(i / columns), width: 0.92, height: 0.92 }, s("title")));
      element.setAttribute("viewBox", `0 0 ${columns} ${Math.ceil(look.nImage / columns)}`);
      element.replaceChildren(...cells);
    }
    element.setAttribute("aria-label", `${look.nImage} image tokens in their order; where they lie in the picture is not known.`);
    cells.forEach((cell, i) => {
      cell.setAttribute("fill-opacity", weights ? (0.06 + 0.94 * shade(weights[i], top)).toFixed(3) : 0);
      cell.firstChild.textContent = `image token ${i + 1}: ${percent(weights?.[i])}`;
    });
  }

  return { element, update };
}
