// What is chosen, as an address (the part after #) and in the browser's memory, so that a head has a link.

const MARK = "look:";
const STORED = "visualheads.look";

/** The head's name as the book writes it. */
export function headName({ layer, head }) {
  return `L${layer}H${head}`;
}

export function headOf(text) {
  const found = /^L(\d+)H(\d+)$/.exec(text);
  return found ? { layer: Number(found[1]), head: Number(found[2]) } : null;
}

/** The choice as text for the address; what is not chosen is left out. */
export function written(choice) {
  const parts = [];
  const put = (name, value) => value != null && value !== "" && parts.push(`${name}=${encodeURIComponent(value)}`);
  put("model", choice.model);
  put("sample", choice.sample);
  put("heads", choice.heads?.map(headName).join("+"));
  put("token", choice.token?.after == null ? choice.token : null); // a place in another sample has no number yet
  put("measure", choice.measure);
  put("box", choice.box?.map((edge) => Math.round(edge * 10) / 10).join(","));
  put("patch", choice.patch);
  return MARK + parts.join("&");
}

/** The choice that an address tells; null where it is not one of the explorer's. What is malformed is left out. */
export function read(hash) {
  const text = hash.replace(/^#/, "");
  if (!text.startsWith(MARK)) return null;
  const choice = {};
  for (const part of text.slice(MARK.length).split("&")) {
    const at = part.indexOf("=");
    if (at < 1) continue;
    const name = part.slice(0, at);
    const value = unescaped(part.slice(at + 1));
    if (value === null) continue;
    if (name === "heads") {
      const heads = value.split("+").map(headOf);
      if (heads.length && heads.every(Boolean)) choice.heads = heads;
    } else if (name === "token" || name === "patch") {
      if (/^-?\d+$/.test(value)) choice[name] = Number(value);
    } else if (name === "box") {
      const edges = value.split(",").map(Number);
      if (edges.length === 4 && edges.every(Number.isFinite) && edges[0] < edges[2] && edges[1] < edges[3]) choice.box = edges;
    } else if (["model", "sample", "measure"].includes(name)) {
      choice[name] = value;
    }
  }
  return choice;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null; // a cut link
  }
}

/** What was chosen last, on any page of the book; storage may be refused. */
export function remembered() {
  try {
    return read(localStorage.getItem(STORED) || "");
  } catch {
    return null;
  }
}

export function remember(choice) {
  try {
    localStorage.setItem(STORED, written(choice));
  } catch {
    // private windows may refuse: the choice is then the page's only
  }
}
