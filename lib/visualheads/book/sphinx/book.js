/* The select that goes from one model's page to another's, and heads that the search finds by name. */
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
})();
