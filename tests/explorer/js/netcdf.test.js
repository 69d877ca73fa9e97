import assert from "node:assert/strict";
import { test } from "node:test";

import { netcdf } from "../../../lib/visualheads/explorer/static/netcdf.js";

test("a classic NetCDF file: magic, one variable, big-endian floats at its end", () => {
  const file = netcdf({ x: 2 }, [{ name: "y", dimensions: ["x"], values: Float32Array.of(1, -2) }], { about: "é" });
  assert.deepEqual([...file.subarray(0, 4)], [0x43, 0x44, 0x46, 1]);
  assert.equal(file.length % 4, 0);
  const view = new DataView(file.buffer, file.length - 8);
  assert.deepEqual([view.getFloat32(0), view.getFloat32(4)], [1, -2]);
});
