// Colours and the numbers beside them. All colour scales change in lightness, so that no hue has to be told apart.

export const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const BLUE_ORANGE = ["#134b85", "#4d84bd", "#a5c7e2", "#f2f0eb", "#f5bf83", "#d9772b", "#8a3a05"];
const BLUE_ORANGE_DARK = ["#9fd0ff", "#5696d4", "#2c5484", "#2a2a2c", "#7d4a1c", "#d17f36", "#ffc98c"];
export const LEVELS = [0.25, 0.5, 0.75];
/** Colours of the outlines at LEVELS of the overlay's scale: light on the picture, with a dark edge. */
export const LEVEL_COLOURS = ["#c2549d", "#fb9b66", "#fcfdbf"];

function channels(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

/** The colour at a place from 0 to 1 of a list of colours. */
export function mix(colours, place) {
  const at = Math.min(1, Math.max(0, place)) * (colours.length - 1);
  const below = Math.min(colours.length - 2, Math.floor(at));
  const [from, to] = [channels(colours[below]), channels(colours[below + 1])];
  const mixed = from.map((value, i) => Math.round(value + (to[i] - value) * (at - below)));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * A colour scale for the values of all heads. kind "sequential": from 0 (or the least) to the largest; "diverging": alike
 * to both sides of zero; "ratio": diverging on a log scale, around 1.
 */
export function headScale(values, kind, dark = false) {
  const finite = Array.from(values).filter(Number.isFinite);
  const colours = kind === "sequential" ? VIRIDIS : dark ? BLUE_ORANGE_DARK : BLUE_ORANGE;
  if (kind === "ratio") {
    const far = Math.min(6, Math.max(1, ...finite.map((value) => Math.abs(Math.log2(Math.max(value, 2 ** -6))))));
    const place = (value) => (Math.log2(Math.max(value, 2 ** -6)) / far + 1) / 2;
    return { colours, place, ticks: [2 ** -far, 1, 2 ** far] };
  }
  if (kind === "diverging") {
    const far = finite.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
    return { colours, place: (value) => (value / far + 1) / 2, ticks: [-far, 0, far] };
  }
  const low = Math.min(0, ...finite);
  const high = Math.max(...finite, low) || 1;
  return { colours, place: (value) => (value - low) / (high - low || 1), ticks: [low, (low + high) / 2, high] };
}

export function colourOf(scale, value) {
  return Number.isFinite(value) ? mix(scale.colours, scale.place(value)) : null;
}

/** Place from 0 to 1 of a share of attention on the overlay's scale, which is a square root: faint shares stay visible. */
export function shade(weight, top) {
  return top > 0 ? Math.sqrt(Math.min(1, Math.max(0, weight) / top)) : 0;
}

/** A share as a percentage with two significant digits. */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = 100 * share;
  if (value !== 0 && Math.abs(value) < 0.01) return `${value < 0 ? "−" : ""}<0.01 %`;
  const digits = Math.abs(value) >= 9.95 || value === 0 ? 0 : Math.abs(value) >= 0.995 ? 1 : 2;
  return `${signless(value.toFixed(digits))} %`;
}

/** A number with three significant digits, and a true minus sign. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return signless(size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(size < 0.1 ? 3 : 2));
}

function signless(text) {
  return text.replace("-", "−");
}

/** A value of a measure as its unit asks. */
export function told(value, unit) {
  if (unit === "share") return percent(value);
  if (unit === "change") {
    if (!Number.isFinite(value)) return "–";
    return `${value > 0 ? "+" : ""}${number(100 * value)} points`;
  }
  if (unit === "ratio") return Number.isFinite(value) ? `${number(value)} ×` : "–";
  if (unit === "nats") return Number.isFinite(value) ? `${value > 0 ? "+" : ""}${number(value)}` : "–";
  return number(value);
}
