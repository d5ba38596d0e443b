// The run as a whole: where it is, its curves, its fleet.
import {ask, count, el, facts, fixed, small, time} from '/dom.js';
import {chart} from '/chart.js';

const line = (steps, name) => steps.map((s) => [s.rl_step, s[name]]);

function specs(curves) {
  const rl = curves.steps.filter((s) => s.rl_step !== null);
  const heldout = (greedy) => curves.heldout.filter((h) => h.greedy === greedy && h.rl_step !== null)
    .map((h) => [h.rl_step, h.reward]).sort((a, b) => a[0] - b[0]);
  return [
    {title: 'Reward', unit: 'by step of RL', wide: true, low: 0, high: 1, series: [
      {name: 'batch', kind: 's0', points: line(rl, 'reward')},
      {name: 'held-out, T = 1', kind: 's1', marks: true, points: heldout(false)},
      {name: 'held-out, greedy', kind: 's2', marks: true, points: heldout(true)}]},
    {title: 'Sampled against replayed', unit: 'nats', log: true, series: [
      {name: 'KL a token', kind: 's0', points: line(rl, 'mismatch_kl')},
      {name: 'worst token', kind: 's1', points: line(rl, 'mismatch_max_abs')}]},
    {title: 'Speed', unit: 'sampled tokens/s', low: 0, digits: 0, series: [
      {name: 'while generating', kind: 's0', points: line(rl, 'tokens_per_second')}]},
    {title: 'Staleness', unit: 'versions', low: 0, high: 1, digits: 0, series: [
      {name: 'oldest token of the batch', kind: 's0', points: line(rl, 'staleness_max')}]},
    {title: 'Seconds of a step', low: 0, digits: 1, series: [
      {name: 'generate', kind: 's0', points: line(rl, 'generate_seconds')},
      {name: 'train', kind: 's1', points: line(rl, 'train_seconds')}]},
    {title: 'A rollout', low: 0, digits: 1, series: [
      {name: 'events', kind: 's1', points: line(rl, 'events')}]},
    {title: 'Loss', unit: 'by step of the trainer', loose: true, series: [
      {name: 'all stages', kind: 's0', points: curves.steps.map((s) => [s.step, s.loss])}]},
  ];
}

function hero(p, curves) {
  const last = curves.heldout.find((h) => h.name === 'last' && !h.greedy)
    ?? curves.heldout.filter((h) => !h.greedy && h.rl_step !== null).at(-1);
  const share = p.total_steps > 0 ? p.step / p.total_steps : p.phase === 'done' ? 1 : 0;
  const trained = curves.steps.at(-1)?.rl_step;
  const where = p.phase === 'done' && trained ? `${trained} steps of RL`
    : p.total_steps > 0 ? `${p.stage} · step ${p.step} of ${p.total_steps}`
    : p.step > 0 ? `${p.stage} · step ${p.step}` : p.stage;
  return el('section', {class: 'hero'},
    el('h1', {}, p.run), el('p', {class: 'where'}, where || p.phase),
    el('progress', {max: 1, value: share, 'aria-label': 'of this stage'}),
    p.failure ? el('p', {class: 'error', role: 'alert'}, p.failure) : null,
    facts([
      ['reward', fixed(p.reward)], ['held-out', fixed(last?.reward)],
      ['tokens/s', fixed(p.tokens_per_second, 0)],
      ['events a rollout', fixed(p.events_per_rollout, 1)],
      ['tokens a rollout', fixed(p.mean_total_tokens, 0)],
      ['worst mismatch', small(p.mismatch_max_abs)], ['staleness', count(p.staleness_max)],
      ['weights', p.policy_version < 0 ? '–' : `v${p.policy_version}`],
      ['elapsed', time(p.elapsed_seconds)],
      p.left_seconds === null ? ['attempt', count(p.attempt + 1)] : ['left', time(p.left_seconds)],
    ], 'facts big'));
}

function stages(fleet) {
  return el('ol', {class: 'stages'}, fleet.stages.map((s) => el('li',
    {class: s.last_step === null ? 'open' : 'over'}, el('b', {}, s.name), ' ',
    el('small', {}, s.last_step === null ? `since step ${s.first_step}`
      : s.last_step > s.first_step ? `${s.last_step - s.first_step} steps` : 'measured'))));
}

function peers(fleet, live) {
  if (!live) return el('p', {class: 'quiet'}, 'Nobody makes this run now: read from its ledger.');
  return el('ul', {class: 'fleet'}, fleet.peers.map((peer) => el('li',
    {class: peer.ready ? 'ready' : 'away'},
    el('b', {}, `${peer.role}-${peer.rank}`), ' ', peer.ready ? 'ready' : 'away',
    el('small', {}, peer.address || 'no address yet'),
    peer.last_error && !peer.ready ? el('small', {class: 'why'}, peer.last_error) : null)));
}

const prompts = (h) => h.unjudged ? `${count(h.prompts)} (${count(h.unjudged)} failed)` : count(h.prompts);

function others(curves) {
  const names = [...new Set(curves.heldout.filter((h) => h.rl_step === null).map((h) => h.name))];
  if (!names.length) return null;
  const of = (name, greedy) => curves.heldout.find((h) => h.name === name && h.greedy === greedy);
  return el('section', {}, el('h2', {}, 'Measured besides'), el('table', {},
    el('thead', {}, el('tr', {}, ['', 'T = 1', 'greedy', 'prompts'].map((t) => el('th', {}, t)))),
    el('tbody', {}, names.map((name) => el('tr', {}, el('th', {scope: 'row'}, name.replace(/^also\./, 'under ')),
      el('td', {}, fixed(of(name, false)?.reward)), el('td', {}, fixed(of(name, true)?.reward)),
      el('td', {}, prompts(of(name, true) ?? of(name, false))))))));
}

export async function overview() {
  let [p, curves, fleet] = await Promise.all(
    ['/api/progress', '/api/curves', '/api/fleet'].map(ask));
  const top = el('div'), grid = el('div', {class: 'charts'}), below = el('div', {class: 'below'});
  let charts = [];
  const redraw = () => charts.forEach((c) => c.redraw());
  const draw = () => {
    top.replaceChildren(hero(p, curves));
    charts = specs(curves).map(chart);
    grid.replaceChildren(...charts.map((c) => c.figure));
    below.replaceChildren(
      el('section', {}, el('h2', {}, 'Fleet'), peers(fleet, p.live)),
      el('section', {}, el('h2', {}, 'Stages'), stages(fleet)),
      ...[others(curves)].filter(Boolean));
    if (grid.isConnected) redraw();
  };
  draw();
  window.onresize = redraw;
  return {
    nodes: [top, grid, below],
    shown: redraw,
    async refresh(now) {
      const moved = now.step !== p.step || now.stage !== p.stage;
      p = now;
      fleet = await ask('/api/fleet');
      if (moved) curves = await ask('/api/curves');
      draw();
    },
  };
}
