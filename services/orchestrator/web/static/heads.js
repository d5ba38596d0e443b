// Which positions of its window each KV head kept: a strip of [layer x head] rows.
import {el} from '/dom.js';

const LABEL = 58, GAP = 5;

// `kept`, `held` before it (or null): [L][Hk][positions]. `text(p)`: of a token. `mark`: a position to point out, or null.
export function headStrip({window: [begin, end], kept, held}, event, text, mark, width) {
  const heads = kept[0]?.length ?? 0, rows = kept.length * heads;
  const cell = Math.max(2, Math.min(22, (width - LABEL) / (end - begin)));
  const high = Math.max(2, Math.min(18, 340 / Math.max(1, rows)));
  const letters = cell >= 9;
  const foot = letters ? 18 : 4;
  const size = [LABEL + cell * (end - begin), rows * high + (kept.length - 1) * GAP + foot + 2];
  const dense = devicePixelRatio || 1;
  const canvas = el('canvas', {width: size[0] * dense, height: size[1] * dense, role: 'img',
    'aria-label': `positions ${begin} to ${end - 1}: what each of ${kept.length} layers of ${heads} heads kept`});
  canvas.style.width = `${size[0]}px`;
  canvas.style.height = `${size[1]}px`;
  const top = (layer, head) => (layer * heads + head) * high + layer * GAP;
  const paint = () => {
    const style = getComputedStyle(canvas);
    const [ink, bare, quiet, mine] = ['--ink', '--bare', '--quiet', `--e${event % 6}`]
      .map((name) => style.getPropertyValue(name));
    const g = canvas.getContext('2d');
    g.scale(dense, dense);
    kept.forEach((layer, l) => layer.forEach((positions, h) => {
      g.globalAlpha = 1;
      const y = top(l, h), stays = new Set(positions), was = new Set(held?.[l][h] ?? []);
      g.fillStyle = quiet;
      g.font = '11px ui-monospace, Menlo, "Liberation Mono", monospace';
      g.textBaseline = 'middle';
      if (high >= 9) g.fillText(`L${l} H${h}`, 0, y + high / 2);
      for (let p = begin; p < end; ++p) {
        g.fillStyle = stays.has(p) || was.has(p) ? mine : bare;
        g.globalAlpha = stays.has(p) || !was.has(p) ? 1 : 0.28;
        g.fillRect(LABEL + (p - begin) * cell, y, cell - (cell > 4 ? 1 : 0), high - (high > 4 ? 1 : 0));
      }
    }));
    g.globalAlpha = 1;
    g.textAlign = 'center';
    for (let p = begin; letters && p < end; ++p) {
      g.fillStyle = p === mark ? ink : quiet;
      g.fillText([...text(p)][0] ?? '', LABEL + (p - begin + 0.5) * cell - 0.5, size[1] - foot / 2);
    }
    if (mark !== null && begin <= mark && mark < end) {
      g.strokeStyle = ink;
      g.lineWidth = 1.5;
      g.strokeRect(LABEL + (mark - begin) * cell - 1, 0.5, cell + 1, size[1] - foot);
    }
  };
  const placeOf = (event_) => {
    const box = canvas.getBoundingClientRect();
    const p = begin + Math.floor((event_.clientX - box.left - LABEL) / cell);
    const y = event_.clientY - box.top;
    for (let l = 0; l < kept.length; ++l) {
      for (let h = 0; h < heads; ++h) {
        if (y >= top(l, h) && y < top(l, h) + high && p >= begin && p < end) return {p, l, h};
      }
    }
    return null;
  };
  const told = el('p', {class: 'quiet told'}, 'full: kept · pale: scraped away now · bare: gone before');
  canvas.addEventListener('pointermove', (move) => {
    const at = placeOf(move);
    if (!at) return;
    const fate = kept[at.l][at.h].includes(at.p) ? 'kept'
      : held && !held[at.l][at.h].includes(at.p) ? 'gone before' : 'scraped away';
    told.textContent = `layer ${at.l}, head ${at.h}: “${text(at.p)}” at ${at.p} ${fate}`;
  });
  return {nodes: [el('div', {class: 'strip'}, canvas), told], paint};
}
