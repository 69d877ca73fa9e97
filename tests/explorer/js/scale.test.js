import assert from "node:assert/strict";
import { test } from "node:test";

import { LEVEL_COLOURS, colourOf, headScale, mix, number, percent, shade, told } from "../../../lib/visualheads/explorer/static/scale.js";

function lightness(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

test("sequential colours only get lighter, so that no hue has to be told apart", () => {
  const { colours } = headScale([0, 1], "sequential");
  const found = Array.from({ length: 40 }, (_, i) => lightness(mix(colours, i / 39)));
  assert.ok(found.every((value, i) => i === 0 || value > found[i - 1]));
  assert.deepEqual(LEVEL_COLOURS.map(lightness), LEVEL_COLOURS.map(lightness).sort((a, b) => a - b));
});

test("diverging scales end alike on both sides, ratios lie around one", () => {
  const scale = headScale([-1, 3], "diverging");
  assert.deepEqual(scale.ticks, [-3, 0, 3]);
  assert.equal(scale.place(0), 0.5);
  const ratio = headScale([0, 0.5, 4], "ratio");
  assert.equal(ratio.place(1), 0.5);
  assert.ok(ratio.place(4) > 0.5 && ratio.place(0) >= 0);
});

test("colours of one value, of none, and of nothing but zeros", () => {
  assert.equal(colourOf(headScale([0, 0], "sequential"), 0), "#440154");
  assert.equal(colourOf(headScale([1], "sequential"), NaN), null);
  assert.match(colourOf(headScale([NaN], "diverging", true), 0), /^#/);
});

test("numbers as a reader writes them", () => {
  assert.deepEqual([0, 0.123, 0.0123, 0.00012, 0.000001, 1, -0.05, NaN].map(percent), ["0 %", "12 %", "1.2 %", "0.01 %", "<0.01 %", "100 %", "−5.0 %", "–"]);
  assert.deepEqual([0, 0.01234, 1.234, 12.34, 123.4, -2, NaN].map(number), ["0", "0.012", "1.23", "12.3", "123", "−2.00", "–"]);
  assert.equal(told(0.021, "change"), "+2.10 points");
  assert.equal(told(2, "ratio"), "2.00 ×");
  assert.equal(told(NaN, "nats"), "–");
});

test("shade is a square root, from 0 to 1", () => {
  assert.deepEqual([shade(0.25, 1), shade(2, 1), shade(0, 1), shade(1, 0)], [0.5, 1, 0, 0]);
});
