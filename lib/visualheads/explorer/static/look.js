// One model, one sample: the arrays of a look, unpacked when they are needed.

import { keyWeight, tokenMapOf, unpack, weightsOf } from "./decode.js";

export const FORMAT = "visualheads.look";
export const VERSION = 1;
const KEPT_ROWS = 4;

/** A look from its JSON; an error that tells what is wrong where it is of another format. */
export async function lookOf(json) {
  if (json?.format !== FORMAT) throw new Error(`These data are no look (format “${json?.format}”, expected “${FORMAT}”).`);
  if (json.version !== VERSION) {
    throw new Error(`These data are of version ${json.version}; this explorer reads version ${VERSION}: write them again.`);
  }
  const [map, sinks] = await Promise.all([tokenMapOf(json.token_map), unpack(json.sinks)]);
  return new Look(json, map, sinks);
}

export class Look {
  constructor(json, map, sinks) {
    this.json = json;
    this.map = map;
    this.layers = json.model.layers;
    this.perLayer = json.model.heads;
    this.heads = this.layers * this.perLayer;
    this.imagePositions = json.tokens.image.flatMap(([first, length]) => Array.from({ length }, (_, i) => first + i));
    this.nImage = this.imagePositions.length;
    this.sinkMarks = sinks;
    this.ready = new Map();
    this.effectsReady = new Map();
  }

  /** Index of a head among those of all layers. */
  index({ layer, head }) {
    return layer * this.perLayer + head;
  }

  at(index) {
    return { layer: Math.floor(index / this.perLayer), head: index % this.perLayer };
  }

  has({ layer, head }) {
    return layer < this.layers && head < this.perLayer;
  }

  /** Place of the row of a token position among the rows; −1 where it was not asked. */
  rowOf(position) {
    return this.json.rows.findIndex((row) => row.position === position);
  }

  /** The weights, measures and text keys of a row; the last few are kept. */
  row(place) {
    if (!this.ready.has(place)) {
      if (this.ready.size >= KEPT_ROWS) this.ready.delete(this.ready.keys().next().value);
      this.ready.set(place, this.unpackedRow(this.json.rows[place]));
    }
    return this.ready.get(place);
  }

  async unpackedRow(row) {
    const names = Object.keys(row.measures);
    const [codes, low, peak, total, positions, keyCodes, ...measured] = await Promise.all(
      [row.codes, row.low, row.peak, row.total, row.keys?.positions, row.keys?.codes, ...names.map((name) => row.measures[name])].map(unpack),
    );
    return {
      position: row.position,
      label: row.label,
      weights: weightsOf(codes, low, peak, total, this.heads, this.nImage),
      peak,
      total,
      measures: Object.fromEntries(names.map((name, i) => [name, measured[i]])),
      keys: positions && { positions, codes: keyCodes, each: positions.length / this.heads },
    };
  }

  /** Share of attention of some heads on each text token they look at most: position → mean weight. */
  textWeights(row, chosen) {
    const found = new Map();
    if (!row.keys) return found;
    for (const head of chosen) {
      for (let i = head * row.keys.each; i < (head + 1) * row.keys.each; i++) {
        const weight = keyWeight(row.keys.codes[i]) / chosen.length;
        if (weight > 0) found.set(row.keys.positions[i], (found.get(row.keys.positions[i]) || 0) + weight);
      }
    }
    return found;
  }

  /** Which image tokens are sinks in a layer (of any of the chosen heads); null where the model has no sink tokens. */
  sinksOf(heads) {
    if (!this.sinkMarks) return null;
    const layers = [...new Set(heads.map(({ layer }) => layer))];
    return Array.from({ length: this.nImage }, (_, i) => layers.some((layer) => this.sinkMarks[layer * this.nImage + i]));
  }

  /** What single heads do in a mode: probability (head, candidate), after (head: id of the first token), texts. */
  effects(mode) {
    if (!this.effectsReady.has(mode)) this.effectsReady.set(mode, unpackedEffects(this.json.effects[mode]));
    return this.effectsReady.get(mode);
  }
}

async function unpackedEffects(told) {
  const [probability, first, firstProbability] = await Promise.all(
    [told.probability, told.first, told.first_probability].map(unpack),
  );
  return { ...told, probability, first, firstProbability };
}
