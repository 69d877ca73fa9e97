/* Charts are drawn when they come near the window, the others when the page has nothing else to do: their specifications
   and Vega itself are scripts beside this one, since a page that is opened from a folder may load scripts but no files.
   Redraws them when the page turns dark, light, narrow or wide. */
(() => {
  const NARROW = 560; // px of text column below which charts that stand side by side are stacked
  const NEAR = "800px 0px"; // how far outside the window a chart is drawn
  const PALE = { color: "#ced6dd" }; // on dark pages, for marks that Vega-Lite draws in black where none is given
  const root = document.documentElement;
  const folder = new URL(".", document.currentScript.src || location.href); // a page in one file has all in it
  const isDark = () => root.dataset.theme === "dark";
  const isNarrow = (box) => box.clientWidth > 0 && box.clientWidth < NARROW;
  const views = (window.bookViews = []);
  const given = new Map(); // name of a chart → its packed specification
  const scripts = new Map(); // address → promise of its script

  function script(name) {
    if (!scripts.has(name)) {
      scripts.set(name, new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.onload = resolve;
        element.onerror = () => reject(new Error(`${name} cannot be loaded`));
        element.src = new URL(name, folder);
        document.head.append(element);
      }));
    }
    return scripts.get(name);
  }

  const embedder = async () => {
    if (!window.vegaEmbed) await script("vega-bundle.js"); // pages in one file bring it
    return window.vegaEmbed;
  };

  async function specification(name) {
    if (!given.has(name)) await script(`charts/${name}.js`);
    const bytes = Uint8Array.from(atob(given.get(name)), (letter) => letter.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(plain).text());
  }

  // side by side, panels share the labels of the first one's rows
  const labelled = (panel) => JSON.parse(JSON.stringify(panel), (key, value) =>
    key === "y" && value?.axis?.labels === false ? { ...value, axis: { ...value.axis, labels: true, ticks: true } } : value,
  );

  function stacked(spec, room) {
    const out = { ...spec };
    if (out.hconcat) {
      out.vconcat = out.hconcat.map(labelled);
      delete out.hconcat;
    }
    for (const key of ["vconcat", "layer", "concat"]) {
      if (Array.isArray(out[key])) out[key] = out[key].map((part) => stacked(part, room));
    }
    if (out.concat) out.columns = 1;
    if (out.spec) out.spec = stacked(out.spec, room);
    if (typeof out.width === "number") out.width = Math.min(out.width, room);
    return out;
  }

  function drawable(box, spec) {
    const margin = (spec.usermeta && spec.usermeta.margin) || 90; // px for axis labels
    return isNarrow(box) ? stacked(spec, box.clientWidth - margin) : spec;
  }

  async function draw(box) {
    const turn = (box.turn = (box.turn || 0) + 1);
    const live = box.querySelector(".vega-live");
    const stage = document.createElement("div");
    try {
      const [embed, spec] = await Promise.all([embedder(), specification(box.dataset.chart)]);
      const out = await embed(stage, drawable(box, spec), {
        mode: "vega-lite",
        renderer: "svg",
        theme: isDark() ? "dark" : undefined,
        config: { background: "transparent", ...(isDark() ? { rule: PALE, text: PALE } : {}) },
        actions: { export: true, source: true, compiled: false, editor: false },
        downloadFileName: box.closest("figure")?.id || "chart",
      });
      if (turn === box.turn) await linkHead(box, out.view, spec);
      if (turn !== box.turn) return out.finalize();
      if (box.drawn) {
        views.splice(views.indexOf(box.drawn.view), 1);
        box.drawn.finalize();
      }
      box.drawn = out;
      views.push(out.view);
      live.replaceChildren(stage);
      box.dataset.drawn = `${isDark() ? "dark" : "light"} ${isNarrow(box) ? "narrow" : "wide"}`;
    } catch (error) {
      console.error("a chart is told in words:", error);
      live.textContent = live.getAttribute("aria-label");
    }
  }

  // A head that is clicked in one chart is chosen in all that have it, and kept for other pages, as by the explorer.
  const STORED = "visualheads.look";
  const linked = new Map(); // place of a chart → how a head is chosen in it

  function keptHead() {
    try {
      const found = /[:&]heads=L(\d+)H(\d+)/.exec(localStorage.getItem(STORED) || "");
      return found && { layer: Number(found[1]), head: Number(found[2]) };
    } catch {
      return null; // private windows may refuse
    }
  }

  function keepHead({ layer, head }) {
    const name = `heads=L${layer}H${head}`;
    try {
      const before = localStorage.getItem(STORED) || "look:";
      const others = before.replace(/^look:/, "").split("&").filter((part) => part && !part.startsWith("heads="));
      localStorage.setItem(STORED, `look:${[...others, name].join("&")}`);
    } catch {
      // the choice is then this page's only
    }
  }

  // What it returns is done when the head that was kept is chosen.
  function linkHead(box, view, spec) {
    const param = (spec.params || []).find((one) => (one.select?.fields || []).join() === "layer,head");
    linked.delete(box);
    if (!param) return null;
    const store = `${param.name}_store`;
    const heads = new Set(
      Object.values(spec.datasets || {}).flat().filter((row) => row.head != null).map((row) => `${row.layer} ${row.head}`),
    );
    const chosen = () => {
      const value = view.signal(param.name);
      return value?.layer ? { layer: value.layer[0], head: value.head[0] } : null;
    };
    const choose = (one) => {
      const [tuple] = view.data(store);
      const now = chosen();
      if (!tuple || !heads.has(`${one.layer} ${one.head}`) || (now?.layer === one.layer && now.head === one.head)) return null;
      const { unit, fields } = tuple; // a new row: a copy would have the old one's hidden identity
      return view.data(store, [{ unit, fields, values: fields.map(({ field }) => one[field]) }]).runAsync();
    };
    linked.set(box, choose);
    view.addSignalListener(param.name, () => {
      const one = chosen();
      const last = keptHead();
      if (!one || (last?.layer === one.layer && last.head === one.head)) return;
      keepHead(one);
      linked.forEach((set, other) => other !== box && set(one));
    });
    const kept = keptHead();
    return kept && choose(kept);
  }

  const wanted = (box) => `${isDark() ? "dark" : "light"} ${isNarrow(box) ? "narrow" : "wide"}`;
  const boxes = () => [...document.querySelectorAll(".vega-chart")];
  // without a size a chart is in a part of the page that is folded away
  const isStale = (box) => box.clientWidth > 0 && box.asked !== wanted(box);
  function update(box) {
    if (!isStale(box)) return null;
    box.asked = wanted(box);
    return draw(box);
  }
  const redraw = () => boxes().filter((box) => box.asked).forEach(update);
  const idle = window.requestIdleCallback || ((task) => setTimeout(task, 50));
  async function drawNext() {
    const next = boxes().find(isStale);
    if (!next) return;
    await update(next);
    idle(drawNext);
  }

  function start() {
    const near = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => update(entry.target)),
      { rootMargin: NEAR },
    );
    // not before the page is there: what draws is large
    const observe = () => {
      boxes().forEach((box) => near.observe(box));
      idle(drawNext);
    };
    new MutationObserver(redraw).observe(root, { attributeFilter: ["data-theme"] });
    window.addEventListener("resize", redraw);
    if (document.readyState === "complete") observe();
    else window.addEventListener("load", observe);
  }

  window.bookCharts = {
    provide: (name, packed) => given.set(name, packed),
    specification,
    drawAll: () => Promise.all(boxes().map(update)),
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
