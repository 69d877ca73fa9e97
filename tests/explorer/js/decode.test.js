import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { bytesOf, halves, keyWeight, tokenMapOf, unpack, weightsOf } from "../../../lib/visualheads/explorer/static/decode.js";

test("half floats: ordinary, subnormal, negative, infinite, none", () => {
  assert.deepEqual([...halves(Uint16Array.of(0x3c00, 0x0001, 0xc000, 0x7c00, 0))], [1, Math.fround(2 ** -24), -2, Infinity, 0]);
  assert.ok(Number.isNaN(halves(Uint16Array.of(0x7e00))[0]));
});

test("packed arrays are read as they are, or after gunzip", async () => {
  const bytes = Buffer.from(Float32Array.of(1.5, NaN).buffer);
  assert.deepEqual([...(await unpack({ dtype: "f4", data: bytes.toString("base64") }))], [1.5, NaN]);
  const zipped = gzipSync(bytes).toString("base64");
  assert.deepEqual([...(await unpack({ dtype: "f4", gzip: true, data: zipped }))], [1.5, NaN]);
  assert.equal(await unpack(null), null);
  assert.deepEqual([...bytesOf("AQI=")], [1, 2]);
});

test("codes become weights whose sum is exact", () => {
  // one head, three tokens: codes 15 (peak), 1 (low), 0 (none)
  const weights = weightsOf(Uint8Array.of(0x1f, 0x00), [0.01], [0.4], [0.41], 1, 3);
  assert.ok(Math.abs(weights[0] - 0.4) < 1e-6 && Math.abs(weights[1] - 0.01) < 1e-6);
  assert.equal(weights[2], 0);
});

test("a head without a map is not a number, one without attention is nothing", () => {
  assert.ok(Number.isNaN(weightsOf(Uint8Array.of(0), [NaN], [NaN], [NaN], 1, 2)[1]));
  assert.deepEqual([...weightsOf(Uint8Array.of(0), [1], [0], [0], 1, 2)], [0, 0]);
});

test("text keys run over six decades", () => {
  assert.equal(keyWeight(0), 0);
  assert.equal(keyWeight(255), 1);
  assert.ok(Math.abs(keyWeight(1) - 1e-6) < 1e-12);
});

test("an unknown token map stays unknown", async () => {
  assert.equal(await tokenMapOf(null), null);
});
