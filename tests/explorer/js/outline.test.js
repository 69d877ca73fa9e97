import assert from "node:assert/strict";
import { test } from "node:test";

import { loops, pathOf } from "../../../lib/visualheads/explorer/static/outline.js";

const square = (x, y) => [x, y, x + 1, y + 1];
const boxes = Float32Array.from([...square(0, 0), ...square(1, 0), ...square(0, 1), ...square(3, 3)]);

test("neighbours share one outline, without points on straight edges", () => {
  const found = loops([true, true, false, false], boxes);
  assert.equal(found.length, 1);
  assert.equal(found[0].length, 4);
});

test("an L has six corners, patches apart have outlines of their own", () => {
  const found = loops([true, true, true, true], boxes);
  assert.deepEqual(found.map((points) => points.length).sort(), [4, 6]);
});

test("patches that only touch at a corner stay two", () => {
  const apart = Float32Array.from([...square(0, 0), ...square(1, 1)]);
  assert.equal(loops([true, true], apart).length, 2);
});

test("a hole has an outline too", () => {
  const ring = [];
  for (let y = 0; y < 3; y++) for (let x = 0; x < 3; x++) ring.push(square(x, y));
  const marked = ring.map((_, i) => i !== 4);
  assert.equal(loops(marked, Float32Array.from(ring.flat())).length, 2);
});

test("paths are closed; padding without a box is left out", () => {
  assert.match(pathOf(loops([true], boxes.subarray(0, 4)), 0.2), /^M.*Z$/);
  assert.equal(pathOf(loops([true], Float32Array.of(NaN, NaN, NaN, NaN))), "");
});
