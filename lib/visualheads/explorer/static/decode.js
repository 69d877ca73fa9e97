// Arrays of the explorer's format: base64 (gzip where said) → typed arrays; 4-bit codes → attention weights.

const READERS = {
  u1: (bytes) => bytes,
  u2: (bytes) => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1),
  i4: (bytes) => new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2),
  f4: (bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2),
  f2: (bytes) => halves(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1)),
};

export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflated(bytes) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack the data (no DecompressionStream); use one from 2023 or later.");
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The values of a packed array. */
export async function unpack(packed) {
  if (packed == null) return null;
  const bytes = bytesOf(packed.data);
  return READERS[packed.dtype](packed.gzip ? await inflated(bytes) : bytes);
}

/** IEEE half floats as ordinary ones. */
export function halves(words) {
  const out = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    const sign = word & 0x8000 ? -1 : 1;
    const exponent = (word >> 10) & 31;
    const fraction = word & 1023;
    if (exponent === 31) out[i] = fraction ? NaN : sign * Infinity;
    else if (exponent) out[i] = sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
    else out[i] = sign * 2 ** -14 * (fraction / 1024);
  }
  return out;
}

const CODES = 15;

/**
 * Weights (head of all layers, image token) from two codes a byte, the first in the low half.
 * Code 0 is 0; codes 1 … 15 run from low to peak on a log scale. A head's weights are scaled to `total`, its exact sum.
 */
export function weightsOf(codes, low, peak, total, heads, tokens) {
  const weights = new Float32Array(heads * tokens);
  const stride = Math.ceil(tokens / 2);
  const table = new Float32Array(CODES + 1);
  for (let head = 0; head < heads; head++) {
    const start = head * tokens;
    if (Number.isNaN(peak[head])) {
      weights.fill(NaN, start, start + tokens);
      continue;
    }
    if (!(peak[head] > 0)) continue;
    const step = Math.log(peak[head] / low[head]) / (CODES - 1);
    for (let code = 1; code <= CODES; code++) table[code] = low[head] * Math.exp(step * (code - 1));
    let sum = 0;
    for (let token = 0; token < tokens; token++) {
      const byte = codes[head * stride + (token >> 1)];
      const weight = table[token & 1 ? byte >> 4 : byte & 15];
      weights[start + token] = weight;
      sum += weight;
    }
    const factor = sum > 0 ? total[head] / sum : 0;
    for (let token = 0; token < tokens; token++) weights[start + token] *= factor;
  }
  return weights;
}

const KEY_DECADES = 6;

/** Weight of a text key from its byte: 0 is none, 1 … 255 run over six decades up to 1. */
export function keyWeight(code) {
  return code ? 10 ** (((code - 255) * KEY_DECADES) / 254) : 0;
}

/** Token map with its arrays made: kind, tile, row, column and box of every image token; null where it is unknown. */
export async function tokenMapOf(told) {
  if (!told) return null;
  const [tile, row, column, box] = await Promise.all([told.tile, told.row, told.column, told.box].map(unpack));
  return {
    grid: told.grid,
    tiles: told.tiles,
    isPatch: Array.from(told.kind, (letter) => letter === "p"),
    tile,
    row,
    column: Int32Array.from(column, (value) => value - 1),
    box,
  };
}
