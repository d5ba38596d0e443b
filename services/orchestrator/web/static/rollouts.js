// The rollouts of the run, newest first, a page at a time.
import {ask, count, el, fixed} from '/dom.js';

const ORDERS = {newest: null, 'best first': (a, b) => b.reward - a.reward,
                'worst first': (a, b) => a.reward - b.reward};

function row(r) {
  const reward = r.reward ?? 0;
  return el('li', {},
    el('a', {class: 'row', href: `#/rollout/${encodeURIComponent(r.id)}`},
      el('span', {class: 'reward'}, el('b', {}, fixed(r.reward, 2)),
        el('meter', {min: 0, max: 1, value: Math.min(1, Math.max(0, reward)),
                     'aria-label': 'reward'})),
      el('span', {class: 'what'},
        el('span', {class: 'ids'}, el('b', {}, r.id), ` ${r.task} · `,
          r.step === null ? 'in no batch yet' : `step ${r.step}`,
          ` · ${count(r.total_tokens)} tokens · ${r.events} events`,
          r.turns > 1 ? ` · ${r.turns} turns` : ''),
        el('code', {}, r.text.replaceAll('\n', ' ⏎ ')),
        el('small', {}, r.reason))));
}

// Where the same list is under other words.
function link(query, changes) {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') next.delete(name);
    else next.set(name, value);
  }
  return `#/rollouts?${next}`;
}

function controls(query) {
  const step = el('input', {type: 'number', min: 0, value: query.get('step') ?? '', placeholder: 'all',
                            onchange: () => { location.hash = link(query, {step: step.value, before: null}); }});
  const order = el('select', {onchange: () => { location.hash = link(query, {order: order.value}); }},
    Object.keys(ORDERS).map((name) =>
      el('option', {selected: name === (query.get('order') ?? 'newest')}, name)));
  return el('form', {class: 'controls', onsubmit: (e) => e.preventDefault()},
    el('label', {}, 'trained in step ', step), el('label', {}, 'on this page ', order));
}

export async function rollouts({query}) {
  const asked = new URLSearchParams({limit: 50});
  for (const name of ['step', 'group', 'before']) if (query.get(name)) asked.set(name, query.get(name));
  const {rows, next} = await ask(`/api/rollouts?${asked}`);
  const order = ORDERS[query.get('order')];
  if (order) rows.sort(order);
  return {nodes: [
    el('h1', {}, 'Rollouts'), controls(query),
    rows.length ? el('ol', {class: 'list'}, rows.map(row))
                : el('p', {class: 'quiet'}, 'There is none here yet.'),
    next ? el('p', {}, el('a', {class: 'older', href: link(query, {before: next})}, 'older ones →'))
         : null].filter(Boolean)};
}
