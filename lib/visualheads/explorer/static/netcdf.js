// A NetCDF file (classic format, version 1) of float and text variables: what the view shows, for any other tool.

const FLOAT = 5;
const CHAR = 2;
const [DIMENSIONS, VARIABLES, ATTRIBUTES] = [10, 11, 12];

/**
 * dimensions: {name: size}; variables: [{name, dimensions: [names], values, attributes: {name: text}}], values a float
 * array, or a text; attributes: {name: text}. Returns the bytes.
 */
export function netcdf(dimensions, variables, attributes = {}) {
  const names = Object.keys(dimensions);
  const encoder = new TextEncoder();
  const bodies = variables.map(({ values }) => (typeof values === "string" ? padded(encoder.encode(values)) : floats(values)));
  const header = (offsets) => {
    const out = writer(encoder);
    out.bytes([0x43, 0x44, 0x46, 1]);
    out.integer(0);
    out.list(DIMENSIONS, names, (name) => {
      out.text(name);
      out.integer(dimensions[name]);
    });
    writeAttributes(out, attributes);
    out.list(VARIABLES, variables, (variable, index) => {
      out.text(variable.name);
      out.integer(variable.dimensions.length);
      for (const name of variable.dimensions) out.integer(names.indexOf(name));
      writeAttributes(out, variable.attributes || {});
      out.integer(typeof variable.values === "string" ? CHAR : FLOAT);
      out.integer(bodies[index].length);
      out.integer(offsets[index]);
    });
    return out.done();
  };
  const length = header(bodies.map(() => 0)).length;
  let at = length;
  const offsets = bodies.map((body) => (at += body.length) - body.length);
  const file = new Uint8Array(at);
  file.set(header(offsets));
  bodies.forEach((body, index) => file.set(body, offsets[index]));
  return file;
}

function writeAttributes(out, attributes) {
  out.list(ATTRIBUTES, Object.entries(attributes), ([name, text]) => {
    out.text(name);
    out.integer(CHAR);
    out.text(String(text));
  });
}

function writer(encoder) {
  const pieces = [];
  const bytes = (values) => pieces.push(Uint8Array.from(values));
  const integer = (value) => bytes([value >>> 24, value >>> 16, value >>> 8, value]);
  const text = (value) => {
    const encoded = encoder.encode(value);
    integer(encoded.length);
    pieces.push(padded(encoded));
  };
  const list = (tag, items, write) => {
    integer(items.length ? tag : 0);
    integer(items.length);
    items.forEach(write);
  };
  const done = () => {
    const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  };
  return { bytes, integer, text, list, done };
}

function padded(bytes) {
  const whole = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  whole.set(bytes);
  return whole;
}

function floats(values) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => view.setFloat32(4 * i, value));
  return new Uint8Array(view.buffer);
}
