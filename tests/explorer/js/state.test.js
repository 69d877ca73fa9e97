import assert from "node:assert/strict";
import { test } from "node:test";

import { headOf, read, remember, remembered, written } from "../../../lib/visualheads/explorer/static/state.js";

const choice = { model: "mini 1", sample: "a/b&c", heads: [{ layer: 12, head: 3 }, { layer: 0, head: 0 }], token: 90, measure: "effect:mean", box: [1, 2.5, 30, 40], patch: 7 };

test("what is written is read again", () => {
  assert.deepEqual(read(`#${written(choice)}`), choice);
});

test("a place in another sample has no token yet", () => {
  assert.equal("token" in read(`#${written({ ...choice, token: { after: 1 } })}`), false);
});

test("other addresses are none of the explorer's", () => {
  assert.equal(read("#section-2"), null);
  assert.equal(read(""), null);
});

test("what is malformed is left out, the rest stays", () => {
  assert.deepEqual(read("#look:model=m&heads=L1H1%2Bx&token=-&box=5,5,1,1&patch=3&rubbish&sample=%E0%A4%A"), { model: "m", patch: 3 });
});

test("heads have the names of the book", () => {
  assert.deepEqual(headOf("L10H2"), { layer: 10, head: 2 });
  assert.equal(headOf("10.2"), null);
});

test("without storage nothing is remembered, and nothing breaks", () => {
  remember(choice);
  assert.equal(remembered(), null);
});
