// Where looks come from: the page itself, scripts beside it (a page opened from a folder may not fetch files), a kernel.

/** Looks that stand in the page as JSON. parts: "model/sample" → function that gives the JSON text. */
export function inlineSource(index, parts) {
  const parsed = new Map();
  return {
    index,
    async load(model, sample) {
      const key = `${model}/${sample}`;
      if (!parts.has(key)) throw new Error(`The page holds no look of ${model} at ${sample}.`);
      if (!parsed.has(key)) parsed.set(key, JSON.parse(parts.get(key)()));
      return parsed.get(key);
    },
  };
}

const waiting = new Map();
const arrived = new Map();

/** What a script of looks calls: visualheads.provide(name, json). */
export function provide(name, json) {
  arrived.set(name, json);
  waiting.get(name)?.(json);
  waiting.delete(name);
}

function script(address, name) {
  if (arrived.has(name)) return Promise.resolve(arrived.get(name));
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const element = document.createElement("script");
    element.src = address;
    element.onerror = () => reject(new Error(`The data could not be loaded from ${address}.`));
    document.head.append(element);
  });
}

/** Looks in scripts under a folder, loaded when they are chosen; the folder's index.js tells which there are. */
export async function folderSource(folder) {
  const base = folder.endsWith("/") ? folder : `${folder}/`;
  const index = await script(`${base}index.js`, "index");
  return {
    index,
    load(model, sample) {
      const told = index.models.find((one) => one.name === model)?.samples.find((one) => one.id === sample);
      if (!told) throw new Error(`There is no look of ${model} at ${sample}.`);
      return script(base + told.file, told.file);
    },
  };
}
