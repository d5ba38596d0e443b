// What every page is built of. Text is always set as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export async function ask(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

// Numbers as one reads them; a number that is not there is a dash.
const has = (x) => x !== null && x !== undefined;
export const fixed = (x, digits = 3) => (has(x) ? x.toFixed(digits).replace(/^-(?=[0.]*$)/, '') : '–');
export const count = (x) => (has(x) ? x.toLocaleString('en') : '–');
export function small(x) {
  if (!has(x)) return '–';
  if (x === 0) return '0';
  const power = Math.floor(Math.log10(Math.abs(x)));
  if (power >= -3 && power < 5) return String(Number(x.toPrecision(3)));
  return `${Number((x / 10 ** power).toFixed(1))}e${power}`;
}
export function time(seconds) {
  if (!has(seconds)) return '–';
  const s = Math.round(seconds);
  const two = (n) => String(n).padStart(2, '0');
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}`
                  : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

// <dl> of [name, value]; a value is a text or a node.
export const facts = (rows, kind = 'facts') =>
  el('dl', {class: kind}, rows.map(([name, value]) =>
    el('div', {}, el('dt', {}, name), el('dd', {}, value))));
