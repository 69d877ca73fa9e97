// Outlines of patches above a level: they follow the edges of patches, since nothing is known inside one.

/** Boxes that cover the marked patches of one grid, as closed loops of points (x, y); `box` holds four edges a token. */
export function loops(marked, box) {
  const edges = new Map();
  const key = (x, y) => `${x.toFixed(2)},${y.toFixed(2)}`;
  const toggle = (x0, y0, x1, y1) => {
    // an edge that two marked patches share is met once in each direction, and is no outline
    const back = `${key(x1, y1)}>${key(x0, y0)}`;
    if (edges.has(back)) edges.delete(back);
    else edges.set(`${key(x0, y0)}>${key(x1, y1)}`, [x0, y0, x1, y1]);
  };
  for (let i = 0; i < marked.length; i++) {
    if (!marked[i] || Number.isNaN(box[4 * i])) continue;
    const [left, top, right, bottom] = box.subarray(4 * i, 4 * i + 4);
    toggle(left, top, right, top);
    toggle(right, top, right, bottom);
    toggle(right, bottom, left, bottom);
    toggle(left, bottom, left, top);
  }
  const leaving = new Map();
  for (const edge of edges.values()) {
    const from = key(edge[0], edge[1]);
    if (!leaving.has(from)) leaving.set(from, []);
    leaving.get(from).push(edge);
  }
  const found = [];
  for (const start of edges.values()) {
    if (start.used) continue;
    const points = [];
    let edge = start;
    while (edge && !edge.used) {
      edge.used = true;
      points.push([edge[0], edge[1]]);
      const next = (leaving.get(key(edge[2], edge[3])) || []).filter((one) => !one.used);
      edge = next.find((one) => turn(edge, one) > 0) || next[0];
    }
    found.push(straightened(points));
  }
  return found;
}

function turn(from, to) {
  return (from[2] - from[0]) * (to[3] - to[1]) - (from[3] - from[1]) * (to[2] - to[0]);
}

function straightened(points) {
  return points.filter((point, i) => {
    const before = points[(i + points.length - 1) % points.length];
    const after = points[(i + 1) % points.length];
    return Math.abs((point[0] - before[0]) * (after[1] - point[1]) - (point[1] - before[1]) * (after[0] - point[0])) > 1e-6;
  });
}

/** An SVG path of the loops, with corners rounded by at most `radius`. */
export function pathOf(found, radius = 0) {
  const place = (x, y) => `${round(x)} ${round(y)}`;
  return found
    .filter((points) => points.length > 2)
    .map((points) => {
      const n = points.length;
      const pieces = points.map((point, i) => {
        const [before, after] = [points[(i + n - 1) % n], points[(i + 1) % n]];
        const [a, b] = [towards(point, before, radius), towards(point, after, radius)];
        return `${i ? "L" : "M"}${place(...a)}Q${place(...point)} ${place(...b)}`;
      });
      return `${pieces.join("")}Z`;
    })
    .join("");
}

function towards(point, other, radius) {
  const length = Math.hypot(other[0] - point[0], other[1] - point[1]);
  const share = length > 0 ? Math.min(radius, length / 2) / length : 0;
  return [point[0] + (other[0] - point[0]) * share, point[1] + (other[1] - point[1]) * share];
}

function round(value) {
  return Math.round(value * 100) / 100;
}
