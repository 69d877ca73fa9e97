// What the explorer computes itself, from the weights (head of all layers, image token) of one query.

/** Mean weights of several heads; null without any head that has a map. */
export function meanWeights(weights, chosen, tokens) {
  const mean = new Float32Array(tokens);
  let counted = 0;
  for (const head of chosen) {
    const start = head * tokens;
    if (Number.isNaN(weights[start])) continue;
    counted += 1;
    for (let token = 0; token < tokens; token++) mean[token] += weights[start + token];
  }
  if (!counted) return null;
  return mean.map((value) => value / counted);
}

/** Which image tokens are patches that share area with a box (left, top, right, bottom). */
export function inBox(map, box) {
  const [left, top, right, bottom] = box;
  return map.isPatch.map((patch, i) => {
    const [x0, y0, x1, y1] = map.box.subarray(4 * i, 4 * i + 4);
    return patch && Math.min(x1, right) - Math.max(x0, left) > 1e-6 && Math.min(y1, bottom) - Math.max(y0, top) > 1e-6;
  });
}

/** Lift of every head on a set of patches: their share of the weight on patches, over their share of the patches. */
export function lift(weights, map, inside, heads, hidden = null) {
  const patches = map.isPatch.map((patch, i) => patch && !hidden?.[i]);
  const region = inside.map((within, i) => within && patches[i]);
  const share = count(region) / count(patches);
  const [within, all] = [sums(weights, region, heads), sums(weights, patches, heads)];
  return Float32Array.from(within, (value, head) => (all[head] > 1e-6 && share > 0 ? value / all[head] / share : NaN));
}

/** Sum of every head's weights over the marked tokens. */
export function sums(weights, marked, heads) {
  const tokens = marked.length;
  const out = new Float32Array(heads);
  for (let head = 0; head < heads; head++) {
    let sum = 0;
    for (let token = 0; token < tokens; token++) if (marked[token]) sum += weights[head * tokens + token];
    out[head] = sum;
  }
  return out;
}

/** Every head's weight on one image token. */
export function onToken(weights, token, heads, tokens) {
  return Float32Array.from({ length: heads }, (_, head) => weights[head * tokens + token]);
}

/** The image token whose box holds a point, on the whole picture's grid or on the tiles'; −1 where there is none. */
export function tokenAt(map, x, y, tiles = false) {
  for (let i = 0; i < map.isPatch.length; i++) {
    if (!map.isPatch[i] || map.tile[i] > 0 !== tiles) continue;
    const [x0, y0, x1, y1] = map.box.subarray(4 * i, 4 * i + 4);
    if (x0 <= x && x < x1 && y0 <= y && y < y1) return i;
  }
  return -1;
}

/** The value below which a share of the finite values lies. */
export function quantile(values, share) {
  const sorted = Array.from(values).filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return NaN;
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

/** Indices of the largest (or, of signed values, farthest from zero) finite values, the largest first. */
export function strongest(values, n, signed = false) {
  const size = signed ? Math.abs : (value) => value;
  return Array.from(values.keys())
    .filter((i) => Number.isFinite(values[i]))
    .sort((a, b) => size(values[b]) - size(values[a]) || a - b)
    .slice(0, n);
}

export function count(marked) {
  return marked.reduce((sum, mark) => sum + (mark ? 1 : 0), 0);
}
