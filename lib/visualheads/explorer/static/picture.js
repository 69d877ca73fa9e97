// The picture with where the chosen heads look: zoom, patches and boxes by mouse, touch or keys.

import { h, s } from "./dom.js";
import { loops, pathOf } from "./outline.js";
import { LEVELS, LEVEL_COLOURS, VIRIDIS, mix, shade } from "./scale.js";
import { tokenAt } from "./numbers.js";

const CLOSEST = 12;
const STEP = 1.6;
const CLICK = 4;
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** actions: patch(token or null), box(edges or null), hoverPatch(token). */
export function pictureView(actions) {
  const image = s("image", { x: 0, y: 0 });
  const ground = s("rect", { class: "vh-ground", x: 0, y: 0 });
  const [veil, outlines, tiles, sinks, marks] = ["veil", "outlines", "tiles", "sinks", "picture-marks"].map((name) => s("g", { class: `vh-${name}` }));
  const svg = s("svg", { class: "vh-picture", tabindex: 0, role: "application", "aria-roledescription": "picture" }, ground, image, veil, tiles, outlines, sinks, marks);
  const element = h("div", { class: "vh-picture-box" }, svg);
  const zoomer = h("div", { class: "vh-choice vh-zoom", role: "group", "aria-label": "zoom" },
    h("button", { type: "button", "aria-label": "zoom in", title: "zoom in", onclick: () => zoom(1 / STEP) }, "+"),
    h("button", { type: "button", "aria-label": "zoom out", title: "zoom out", onclick: () => zoom(STEP) }, "−"),
    h("button", { type: "button", "aria-label": "whole picture", title: "whole picture", onclick: () => whole() }, "1:1"));
  let context = null;
  let view = null;
  let drawn = "";
  let rects = [];
  let drag = null;
  let anchor = null;

  const sizeOf = () => context.look.json.picture;
  function show() {
    svg.setAttribute("viewBox", view.join(" "));
  }
  function whole() {
    const { width, height } = sizeOf();
    view = [0, 0, width, height];
    show();
  }
  function zoom(factor, x = view[0] + view[2] / 2, y = view[1] + view[3] / 2) {
    const { width, height } = sizeOf();
    const wide = Math.min(width, Math.max(width / CLOSEST, view[2] * factor));
    const share = wide / view[2];
    view = [x - (x - view[0]) * share, y - (y - view[1]) * share, wide, (wide * height) / width];
    held();
  }
  function held() {
    const { width, height } = sizeOf();
    view[0] = Math.min(Math.max(0, view[0]), width - view[2]);
    view[1] = Math.min(Math.max(0, view[1]), height - view[3]);
    show();
  }
  function pointOf(event) {
    const inverse = svg.getScreenCTM().inverse();
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(inverse);
    return [point.x, point.y];
  }
  const tokenOf = ([x, y]) => (context.look.map ? tokenAt(context.look.map, x, y, context.settings.grid === "tiles") : -1);
  const inside = (from, to) => {
    const { width, height } = sizeOf();
    const edges = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    return [Math.max(0, edges[0]), Math.max(0, edges[1]), Math.min(width, edges[2]), Math.min(height, edges[3])];
  };

  svg.addEventListener("pointerdown", (event) => {
    if (!context?.look.map || event.button) return;
    drag = { x: event.clientX, y: event.clientY, from: pointOf(event), view: [...view], moved: false };
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!context?.look.map) return;
    const at = pointOf(event);
    if (!drag) {
      actions.hoverPatch(tokenOf(at));
      return;
    }
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > CLICK;
    if (!drag.moved) return;
    if (context.settings.tool === "box") {
      drag.box = inside(drag.from, at);
      marked(drag.box);
    } else {
      const scale = view[2] / svg.getBoundingClientRect().width;
      view[0] = drag.view[0] - (event.clientX - drag.x) * scale;
      view[1] = drag.view[1] - (event.clientY - drag.y) * scale;
      held();
    }
  });
  svg.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const done = drag;
    drag = null;
    if (done.box && done.box[2] - done.box[0] > 1 && done.box[3] - done.box[1] > 1) actions.box(done.box);
    else if (!done.moved) {
      const token = tokenOf(pointOf(event));
      actions.patch(token < 0 || token === context.choice.patch ? null : token);
    }
  });
  svg.addEventListener("pointercancel", () => (drag = null));
  svg.addEventListener("pointerleave", () => !drag && actions.hoverPatch(-1));
  svg.addEventListener("dblclick", (event) => zoom(1 / STEP, ...pointOf(event)));
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // plain scrolling stays the page's
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1 / 1.2 : 1.2, ...pointOf(event));
  }, { passive: false });
  svg.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "=") return zoom(1 / STEP);
    if (event.key === "-") return zoom(STEP);
    if (event.key === "0") return whole();
    if (event.key === "Escape") {
      anchor = null;
      actions.box(null);
      return actions.patch(null);
    }
    if (!ARROWS[event.key] || !context.look.map) return undefined;
    event.preventDefault();
    return step(ARROWS[event.key], event.shiftKey);
  });

  function step([dx, dy], extend) {
    const { map } = context.look;
    const tiled = context.settings.grid === "tiles";
    const [rows, columns] = tiled ? map.tiles : map.grid;
    const now = context.choice.patch;
    const [row, column] = now == null ? [Math.floor(rows / 2) - dy, Math.floor(columns / 2) - dx] : [map.row[now], map.column[now]];
    const next = map.isPatch.findIndex((patch, i) => patch && map.tile[i] > 0 === tiled && map.row[i] === row + dy && map.column[i] === column + dx);
    if (next < 0 || Number.isNaN(map.box[4 * next])) return;
    if (!extend) anchor = null;
    else anchor ??= now ?? next;
    actions.patch(next);
    if (extend) {
      const [a, b] = [anchor, next].map((token) => map.box.subarray(4 * token, 4 * token + 4));
      actions.box([Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
    }
  }

  function build() {
    const { picture } = context.look.json;
    for (const part of [image, ground]) {
      part.setAttribute("width", picture.width);
      part.setAttribute("height", picture.height);
    }
    if (picture.source) image.setAttribute("href", picture.source);
    else image.removeAttribute("href");
    image.setAttribute("class", picture.width < 160 ? "vh-small" : "");
    svg.style.aspectRatio = `${picture.width} / ${picture.height}`;
    svg.style.setProperty("--vh-aspect", picture.width / picture.height);
    whole();
    const { map } = context.look;
    const tiled = context.settings.grid === "tiles";
    rects = [];
    map?.isPatch.forEach((patch, i) => {
      if (!patch || map.tile[i] > 0 !== tiled || Number.isNaN(map.box[4 * i])) return;
      const [left, top, right, bottom] = map.box.subarray(4 * i, 4 * i + 4);
      rects.push([i, s("rect", { x: left, y: top, width: right - left, height: bottom - top })]);
    });
    veil.replaceChildren(...rects.map(([, rect]) => rect));
    tiles.replaceChildren(...(tiled ? tileEdges(map) : []));
  }

  function marked(box = context.choice.box) {
    const { sample } = context.look.json;
    const { map } = context.look;
    const frame = ([left, top, right, bottom], name) => ["edge", "line"].map((part) =>
      s("rect", { class: `${name} vh-${part}`, x: left, y: top, width: right - left, height: bottom - top }));
    const patch = context.choice.patch;
    marks.replaceChildren(
      ...(sample.box && context.settings.asked ? frame(sample.box, "vh-asked") : []),
      ...(box ? frame(box, "vh-drawn") : []),
      ...(patch != null && map && !Number.isNaN(map.box[4 * patch]) ? frame(map.box.subarray(4 * patch, 4 * patch + 4), "vh-patch") : []),
    );
  }

  function update(given) {
    context = given;
    const { look, settings, weights, top, hidden, sinkTokens } = context;
    const asked = `${look.json.model.name}/${look.json.sample.id}/${settings.grid}`;
    if (asked !== drawn) {
      drawn = asked;
      build();
    }
    svg.dataset.tool = settings.tool;
    const { map } = look;
    const value = (token) => (weights && !hidden?.[token] ? shade(weights[token], top) : 0);
    const veiled = settings.overlay === "brightness" && weights;
    veil.style.display = veiled ? "" : "none";
    const bare = !look.json.picture.source; // no picture to darken: the map itself is coloured
    veil.classList.toggle("vh-bare", bare);
    if (veiled) {
      for (const [token, rect] of rects) {
        rect.setAttribute("fill-opacity", bare ? 1 : (settings.strength * (1 - value(token))).toFixed(3));
        if (bare) rect.setAttribute("fill", mix(VIRIDIS, value(token)));
        else rect.removeAttribute("fill");
      }
    }
    const lined = settings.overlay === "outline" && weights && map;
    outlines.replaceChildren(...(lined ? LEVELS.flatMap((level, i) => lineOf(map, rects, value, level, LEVEL_COLOURS[i])) : []));
    outlines.style.setProperty("--vh-strength", 0.5 + 3 * settings.strength);
    sinks.replaceChildren(...(sinkTokens && map ? rects.filter(([token]) => sinkTokens[token]).map(([token]) => cross(map.box.subarray(4 * token, 4 * token + 4))) : []));
    marked();
    svg.setAttribute("aria-label", `${look.json.sample.question}. ${context.sentence} Arrow keys choose a patch, Shift with arrow keys draws a box, plus and minus zoom.`);
  }

  return { element, svg, zoomer, update };
}

function lineOf(map, rects, value, level, colour) {
  const above = new Array(map.isPatch.length).fill(false);
  for (const [token] of rects) above[token] = value(token) >= level;
  const first = rects[0]?.[0];
  const radius = first == null ? 0 : 0.22 * Math.min(map.box[4 * first + 2] - map.box[4 * first], map.box[4 * first + 3] - map.box[4 * first + 1]);
  const d = pathOf(loops(above, map.box), radius);
  return d ? [s("path", { class: "vh-outline-edge", d }), s("path", { class: "vh-outline", d, stroke: colour })] : [];
}

function tileEdges(map) {
  const found = new Map();
  map.isPatch.forEach((patch, i) => {
    const tile = map.tile[i];
    if (!patch || !tile || Number.isNaN(map.box[4 * i])) return;
    const [left, top, right, bottom] = map.box.subarray(4 * i, 4 * i + 4);
    const edges = found.get(tile) || [Infinity, Infinity, -Infinity, -Infinity];
    found.set(tile, [Math.min(edges[0], left), Math.min(edges[1], top), Math.max(edges[2], right), Math.max(edges[3], bottom)]);
  });
  return [...found.values()].map(([left, top, right, bottom]) => s("rect", { x: left, y: top, width: right - left, height: bottom - top }));
}

function cross([left, top, right, bottom]) {
  const [x, y, far] = [(left + right) / 2, (top + bottom) / 2, Math.min(right - left, bottom - top) * 0.28];
  return s("path", { d: `M${x - far} ${y - far}L${x + far} ${y + far}M${x - far} ${y + far}L${x + far} ${y - far}` });
}
