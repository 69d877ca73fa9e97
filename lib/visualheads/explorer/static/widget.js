// The explorer as an anywidget widget: looks come with it, the kernel answers what they do not hold.

import { mount } from "./explorer.js";

export function render({ model, el }) {
  let asked = 0;
  const waiting = new Map();
  const request = (content) =>
    new Promise((resolve, reject) => {
      asked += 1;
      waiting.set(asked, { resolve, reject });
      model.send({ ...content, number: asked });
    });
  const answered = (message) => {
    const waits = waiting.get(message?.number);
    if (!waits) return;
    waiting.delete(message.number);
    if (message.error) waits.reject(new Error(message.error));
    else waits.resolve(message.result);
  };
  model.on("msg:custom", answered);
  const looks = model.get("looks");
  const modes = model.get("modes");
  const source = {
    index: model.get("index"),
    load: async (name, sample) => looks[`${name}/${sample}`],
    live: modes.length ? { modes, steerable: model.get("steerable"), ask: (content) => request({ kind: "answer", ...content }), row: (content) => request({ kind: "row", ...content }) } : null,
  };
  const place = document.createElement("div");
  el.append(place);
  const explorer = mount(place, source, { address: false, ...model.get("first") });
  place.addEventListener("vh-choice", (event) => {
    model.set("choice", JSON.parse(JSON.stringify(event.detail)));
    model.save_changes();
  });
  return () => {
    model.off("msg:custom", answered);
    explorer.stop();
  };
}
