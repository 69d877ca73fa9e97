// What is seen as a file: SVG, PNG, and the numbers as NetCDF.

import { download } from "./dom.js";
import { netcdf } from "./netcdf.js";
import { headName } from "./state.js";

const STYLED = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "font-family", "font-size", "vector-effect", "display", "shape-rendering"];
const PIXELS = 2;

/** An SVG that needs no style sheet, as text. */
export function standalone(svg) {
  const copy = svg.cloneNode(true);
  const [from, to] = [[svg, ...svg.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of STYLED) {
      const value = style.getPropertyValue(name);
      if (value && !(name === "fill-opacity" && element.hasAttribute(name))) to[i].style.setProperty(name, value);
    }
    to[i].removeAttribute("class");
  });
  const { width, height } = svg.getBoundingClientRect();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", Math.round(width));
  copy.setAttribute("height", Math.round(height));
  copy.removeAttribute("tabindex");
  copy.style.background = getComputedStyle(svg.closest(".vh-look")).backgroundColor;
  return new XMLSerializer().serializeToString(copy);
}

export async function pictureFile(name, svg, format) {
  const text = standalone(svg);
  if (format === "svg") return download(`${name}.svg`, text, "image/svg+xml");
  const { width, height } = svg.getBoundingClientRect();
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * PIXELS);
  canvas.height = Math.round(height * PIXELS);
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return download(`${name}.png`, blob, "image/png");
}

/** The data behind the view: the weights of all heads on the image tokens from this query, and all its measures. */
export function dataOf({ look, row, choice, values, measure }) {
  const { json } = look;
  const dimensions = { layer: look.layers, head: look.perLayer, image_token: look.nImage };
  const variables = [{
    name: "attention", dimensions: ["layer", "head", "image_token"], values: row.weights,
    attributes: { long_name: "attention on image tokens, from 4-bit codes", units: "1" },
  }];
  const heads = ["layer", "head"];
  for (const [name, found] of Object.entries(row.measures)) {
    variables.push({ name, dimensions: heads, values: found, attributes: { long_name: json.measures[name]?.long_name || name } });
  }
  if (!(choice.measure in row.measures)) {
    variables.push({ name: choice.measure.replace(/\W/g, "_"), dimensions: heads, values, attributes: { long_name: measure.long_name } });
  }
  if (look.map) {
    dimensions.edge = 4;
    variables.push({ name: "box", dimensions: ["image_token", "edge"], values: look.map.box, attributes: { long_name: "left, top, right, bottom in pixels of the picture" } });
  }
  return netcdf(dimensions, variables, {
    model: json.model.name, sample: json.sample.id, question: json.sample.question, query: row.label,
    heads: choice.heads.map(headName).join(" "), format: `${json.format} ${json.version}`,
  });
}

export function dataFile(name, context) {
  download(`${name}.nc`, dataOf(context), "application/x-netcdf");
}
