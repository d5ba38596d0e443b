// One small chart: lines over steps, marks where something was measured once in a while.
import {el, fixed, small, svg} from '/dom.js';

const HEIGHT = 190, TOP = 12, BOTTOM = 24, LEFT = 46, RIGHT = 14;

// About `n` round numbers that cover [low, high].
function ticks(low, high, n) {
  const raw = (high - low) / n;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * base).find((s) => s >= raw * 0.999);
  const list = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) list.push(v);
  return list;
}

function powers(low, high) {
  const list = [];
  const from = Math.ceil(low - 1e-9), to = Math.floor(high + 1e-9);
  const every = Math.max(1, Math.ceil((to - from) / 4));
  for (let p = from; p <= to; p += every) list.push(p);
  return list;
}

function extent(values, fallback) {
  return values.length ? [Math.min(...values), Math.max(...values)] : fallback;
}

// A spec: {title, unit, series: [{name, kind, points: [[x, y]], marks}], log, loose, digits, low, high}.
// `low` and `high` are always within the picture. Points whose y is null are left out; under `log`
// so are those <= 0.
export function chart(spec) {
  const lines = spec.series.map((s) => ({...s, points: s.points.filter(([x, y]) =>
    x !== null && y !== null && (!spec.log || y > 0))}));
  const box = el('div', {class: 'plot'});
  const values = lines.map((line) => el('b', {}));
  const legend = el('p', {class: 'legend'}, lines.map((line, i) =>
    el('span', {class: line.kind}, line.name, ' ', values[i])));
  const show = spec.log || spec.loose ? small : (y) => fixed(y, spec.digits ?? 3);
  const tell = (x) => lines.forEach((line, i) => {
    const point = x === null ? line.points.at(-1) : nearest(line.points, x);
    values[i].textContent = point ? show(point[1]) : '–';
  });
  tell(null);
  const figure = el('figure', {class: `chart ${spec.wide ? 'wide' : ''}`},
    el('figcaption', {}, spec.title, spec.unit ? el('small', {}, ` ${spec.unit}`) : null),
    legend, box);
  const redraw = () => box.replaceChildren(
    lines.some((line) => line.points.length) ? picture(spec, lines, box.clientWidth || 520, tell)
                                             : el('p', {class: 'quiet'}, 'nothing yet'));
  return {figure, redraw};
}

function nearest(points, x) {
  let best = null;
  for (const point of points) {
    if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  }
  return best;
}

function picture(spec, lines, width, tell) {
  const toY = spec.log ? Math.log10 : (y) => y;
  const all = lines.flatMap((line) => line.points);
  const [x0, x1] = extent(all.map(([x]) => x), [0, 1]);
  const ys = all.map(([, y]) => toY(y));
  for (const bound of [spec.low, spec.high]) if (bound !== undefined) ys.push(toY(bound));
  let [y0, y1] = extent(ys, [0, 1]);
  if (y1 - y0 < 1e-12) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const X = (x) => LEFT + (width - LEFT - RIGHT) * (x - x0) / (x1 - x0 || 1);
  const Y = (y) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (toY(y) - y0) / (y1 - y0));
  const rows = (spec.log ? powers(y0, y1) : ticks(y0, y1, 4)).map((v) => spec.log ? 10 ** v : v);
  const label = lines.map((line) => `${line.name} ${small(line.points.at(-1)?.[1])}`).join(', ');
  const cursor = svg('line', {class: 'cursor', y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9});
  const plot = svg('svg', {width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img',
                           'aria-label': `${spec.title}: last ${label}`},
    rows.map((v) => [
      svg('line', {class: 'grid', x1: LEFT, x2: width - RIGHT, y1: Y(v), y2: Y(v)}),
      svg('text', {x: LEFT - 7, y: Y(v) + 3.5, 'text-anchor': 'end'}, small(v))]),
    ticks(x0, Math.max(x1, x0 + 1), Math.min(8, width / 70)).filter(Number.isInteger)
      .filter((x) => x <= x1).map((x) =>
        svg('text', {x: X(x), y: HEIGHT - 7, 'text-anchor': 'middle'}, String(x))),
    lines.map((line) => [
      svg('polyline', {class: `line ${line.kind}`,
                       points: line.points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`)
                         .join(' ')}),
      line.marks || line.points.length === 1 ? line.points.map(([x, y]) =>
        svg('circle', {class: `mark ${line.kind}`, cx: X(x), cy: Y(y), r: 3.5})) : null]),
    cursor);
  plot.addEventListener('pointermove', (move) => {
    const at = move.clientX - plot.getBoundingClientRect().left;
    const x = x0 + (at - LEFT) / (width - LEFT - RIGHT) * (x1 - x0);
    const point = nearest(all, x);
    cursor.setAttribute('x1', X(point[0]));
    cursor.setAttribute('x2', X(point[0]));
    tell(point[0]);
  });
  plot.addEventListener('pointerleave', () => {
    cursor.setAttribute('x1', -9);
    cursor.setAttribute('x2', -9);
    tell(null);
  });
  return plot;
}
