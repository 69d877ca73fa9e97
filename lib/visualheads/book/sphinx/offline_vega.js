/* Replace each static chart by the live one; redraw it when the page turns dark, light, narrow or wide. */
(() => {
  const NARROW = 560; // px of text column below which charts that stand side by side are stacked
  const PALE = { color: "#ced6dd" }; // on dark pages, for marks that Vega-Lite draws in black where none is given
  const root = document.documentElement;
  const isDark = () => root.dataset.theme === "dark";
  const isNarrow = (box) => box.clientWidth > 0 && box.clientWidth < NARROW;
  const views = (window.bookViews = []);

  function stacked(spec, room) {
    const out = { ...spec };
    if (out.hconcat) {
      out.vconcat = out.hconcat;
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

  function drawable(box) {
    const spec = JSON.parse(box.querySelector("script.vega-spec").textContent);
    const margin = (spec.usermeta && spec.usermeta.margin) || 90; // px for axis labels
    return isNarrow(box) ? stacked(spec, box.clientWidth - margin) : spec;
  }

  async function draw(box) {
    const turn = (box.turn = (box.turn || 0) + 1);
    const live = box.querySelector(".vega-live");
    const image = box.querySelector(".vega-fallback");
    const stage = document.createElement("div");
    try {
      const out = await window.vegaEmbed(stage, drawable(box), {
        mode: "vega-lite",
        renderer: "svg",
        theme: isDark() ? "dark" : undefined,
        config: { background: "transparent", ...(isDark() ? { rule: PALE, text: PALE } : {}) },
        actions: { export: true, source: true, compiled: false, editor: false },
        downloadFileName: box.closest("figure")?.id || "chart",
      });
      if (turn !== box.turn) return out.finalize();
      if (box.drawn) {
        views.splice(views.indexOf(box.drawn.view), 1);
        box.drawn.finalize();
      }
      box.drawn = out;
      views.push(out.view);
      live.replaceChildren(stage);
      box.dataset.drawn = `${isDark() ? "dark" : "light"} ${isNarrow(box) ? "narrow" : "wide"}`;
      live.hidden = false;
      if (image) image.hidden = true;
    } catch (error) {
      console.error("chart kept as an image:", error);
    }
  }

  const wanted = (box) => `${isDark() ? "dark" : "light"} ${isNarrow(box) ? "narrow" : "wide"}`;
  const drawAll = () => document.querySelectorAll(".vega-chart").forEach((box) => {
    if (box.asked === wanted(box)) return;
    box.asked = wanted(box);
    draw(box);
  });
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
  else drawAll();
  new MutationObserver(drawAll).observe(root, { attributeFilter: ["data-theme"] });
  window.addEventListener("resize", drawAll);
})();
