/* The select that goes from one model's page to another's, pages turned by keys, heads that the search finds by name,
   tables that fit. */
(() => {
  const select = document.querySelector("[data-page-switch]");
  if (select) {
    // at the same heading; labels of figures have the model in their name, headings have not
    const heading = () => {
      const above = [...document.querySelectorAll("main section[id] > h2")].filter((one) => one.getBoundingClientRect().top < 200);
      return above.length ? `#${above.pop().parentElement.id}` : "";
    };
    select.addEventListener("change", () => {
      location.href = select.value + heading();
    });
  }

  // ← and → turn pages where no figure, field or link has the focus
  document.addEventListener("keydown", (event) => {
    const turned = { ArrowLeft: "left-prev", ArrowRight: "right-next" }[event.key];
    const free = document.activeElement === document.body && !event.defaultPrevented;
    if (!turned || !free || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    document.querySelector(`.prev-next-footer a.${turned}, .prev-next-area a.${turned}`)?.click();
  });

  const results = document.getElementById("search-results");
  const head = /\bL(\d+)H(\d+)\b/i.exec(new URLSearchParams(location.search).get("q") || "");
  if (results && head) {
    const name = `L${head[1]}H${head[2]}`;
    const link = document.createElement("a");
    link.href = `${document.documentElement.dataset.content_root}book/index.html#look:heads=${name}`;
    link.textContent = `Head ${name} in the explorer`;
    const line = document.createElement("p");
    line.className = "search-head";
    line.append(link);
    results.before(line);
  }

  // A table that is too wide first breaks its lines, then becomes a list: one block a row, each cell with its column's name.
  const tables = [...document.querySelectorAll("main article table")].filter((one) => one.querySelector("thead"));
  const holds = (box) => !box || box.scrollWidth <= box.clientWidth + 1;
  const fits = (table) => holds(table) && holds(table.closest(".table-scroll"));
  function name(table) {
    const heads = [...table.querySelectorAll("thead tr:last-child th")];
    const columns = heads.map((one) => one.textContent.trim());
    heads.forEach((one, place) => {
      const cells = [...table.querySelectorAll(`tbody tr > :nth-child(${place + 1})`)];
      const words = cells.every((cell) => /^$|^[^\d−–]/.test(cell.textContent.trim()));
      for (const cell of words ? [one, ...cells] : []) cell.classList.add("words");
    });
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.children].forEach((cell, place) => (cell.dataset.column = columns[place] || ""));
    }
  }
  function fit(table) {
    table.classList.remove("table-broken", "table-list");
    for (const form of ["table-broken", "table-list"]) if (!fits(table)) table.classList.add(form);
  }
  tables.forEach(name);
  const fitAll = () => tables.filter((one) => one.clientWidth).forEach(fit);
  fitAll();
  let width = 0;
  const column = document.querySelector("main article");
  if (column) {
    new ResizeObserver(() => {
      if (column.clientWidth !== width) fitAll();
      width = column.clientWidth;
    }).observe(column);
  }
  document.addEventListener("toggle", fitAll, true); // in what was folded away
})();
