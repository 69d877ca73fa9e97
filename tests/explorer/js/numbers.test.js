import assert from "node:assert/strict";
import { test } from "node:test";

import { inBox, lift, meanWeights, onToken, quantile, strongest, sums, tokenAt } from "../../../lib/visualheads/explorer/static/numbers.js";

const box = Float32Array.of(0, 0, 10, 10, 10, 0, 20, 10, NaN, NaN, NaN, NaN, 0, 0, 5, 5);
const map = { isPatch: [true, true, false, true], tile: [0, 0, 0, 1], box };
// two heads, four image tokens
const weights = Float32Array.of(0.1, 0.3, 0.2, 0.1, 0.4, 0.1, 0, 0);

test("the mean of heads leaves out those without a map", () => {
  assert.deepEqual([...meanWeights(weights, [0, 1], 4)].map((w) => Math.round(1000 * w)), [250, 200, 100, 50]);
  const missing = Float32Array.of(NaN, NaN, 0.5, 0.1);
  assert.deepEqual([...meanWeights(missing, [0, 1], 2)], [0.5, Math.fround(0.1)]);
  assert.equal(meanWeights(missing, [0], 2), null);
});

test("boxes meet patches that share area, never newlines", () => {
  assert.deepEqual(inBox(map, [10, 0, 20, 10]), [false, true, false, false]);
  assert.deepEqual(inBox(map, [0, 0, 30, 30]), [true, true, false, true]);
});

test("lift is 1 for an even look, and can leave sinks out", () => {
  const even = Float32Array.of(0.2, 0.2, 0.4, 0.2);
  assert.ok(Math.abs(lift(even, map, [true, false, false, false], 1)[0] - 1) < 1e-6);
  const found = lift(weights, map, [false, true, false, false], 2);
  assert.ok(Math.abs(found[0] - 0.6 * 3) < 1e-5 && Math.abs(found[1] - 0.2 * 3) < 1e-5);
  assert.ok(Math.abs(lift(weights, map, [false, true, false, false], 2, [true, false, false, false])[0] - 0.75 * 2) < 1e-5);
  assert.ok(Number.isNaN(lift(weights, map, [false, false, false, false], 1)[0]));
});

test("patch to heads, and the patch under a point on either grid", () => {
  assert.deepEqual([...onToken(weights, 1, 2, 4)], [Math.fround(0.3), Math.fround(0.1)]);
  assert.equal(tokenAt(map, 12, 3), 1);
  assert.equal(tokenAt(map, 1, 1, true), 3);
  assert.equal(tokenAt(map, 50, 50), -1);
});

test("order, quantiles and sums pass over what is missing", () => {
  assert.deepEqual(strongest([0.1, NaN, 0.5, -0.9], 2), [2, 0]);
  assert.deepEqual(strongest([0.1, NaN, 0.5, -0.9], 2, true), [3, 2]);
  assert.equal(quantile([3, NaN, 1, 2], 0.5), 2);
  assert.ok(Number.isNaN(quantile([NaN], 0.5)));
  assert.ok(Math.abs(sums(weights, [true, true, false, false], 2)[1] - 0.5) < 1e-6);
});
