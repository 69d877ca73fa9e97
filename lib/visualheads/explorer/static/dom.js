// Making elements, and nothing else.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export function h(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function s(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** A row of buttons of which one is pressed. options: [value, label]. */
export function buttonRow(label, options, current, onchange) {
  return h(
    "div",
    { class: "vh-choice", role: "group", "aria-label": label },
    options.map(([value, text, title]) =>
      h("button", { type: "button", title, "aria-pressed": String(value === current), "data-value": value, onclick: () => onchange(value) }, text),
    ),
  );
}

let made = 0;

/** An id that no other explorer on the page has. */
export function uniqueId(stem) {
  made += 1;
  return `vh-${stem}-${made}`;
}

/** Hand the reader a file. */
export function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
