// One rollout, as a palimpsest: its tokens in the ink that is left of them, its events, one token.
import {ask, count, el, facts, fixed, small, svg} from '/dom.js';
import {headStrip} from '/heads.js';
import {MISMATCHES, SURPRISES, gapOf, mismatchOf, surpriseOf, worstMismatch} from '/likelihood.js';
import {eventsOf, inkOf, memoryAfter, spanOf} from '/memory.js';

const AT_ONCE = 4000;  // tokens that are shown without being asked for
const ORIGINS = {p: 'prompt', s: 'sampled', i: 'injected'};
const shown = (piece) => piece.replaceAll('\n', '⏎\n');
const onLine = (piece) => piece.replaceAll('\n', '⏎').replaceAll(' ', '␣');
const hue = (event) => `e${event % 6}`;

// Why a rollout has no replayed log-probabilities.
const whyNone = (r) => r.batch_mismatch === null ? 'not trained yet' : 'not kept';
const signed = (x) => `${x > 0 ? '+' : ''}${small(x)}`;

// What the trainer's replay made of token p, in words.
function replayOf(r, p) {
  if (r.logprobs[p] === null) return '–';
  if (r.replayed) return r.replayed[p] === null ? 'not finite' : `${fixed(r.replayed[p], 4)} nats`;
  const worst = r.batch_mismatch?.max_abs ?? null;
  return worst === null ? whyNone(r) : `${whyNone(r)}; its batch is within ${small(worst)} nats`;
}

// What the colours mean, by what is coloured by.
const swatch = (kind, text) => el('span', {class: `t ${kind}`}, text);
const shades = (bounds, kind) => bounds.map((bound, i) => swatch(`sampled ${kind}${i + 1}`, `> ${small(bound)}`));
const writers = () => Object.values(ORIGINS).map((origin) => swatch(origin, origin));
const KEYS = {
  memory: () => [...writers(), swatch('sampled scraped k2 d1 e0', 'kept by some heads'),
    swatch('sampled scraped k0 d1 e0', 'scraped away'), swatch('heard', 'listened to')],
  surprise: () => [...writers(), 'nats of surprise', ...shades(SURPRISES, 'x')],
  mismatch: (r) => r.replayed
    ? [...writers(), 'replayed as likelier, nats', ...shades(MISMATCHES, 'up m'), 'as less likely', ...shades(MISMATCHES, 'down m')]
    : [r.batch_mismatch === null ? 'No mismatch to show: this rollout is not trained yet.'
                                 : 'No mismatch to show: what the trainer replayed of this rollout is not kept.'],
};
const INKS = Object.keys(KEYS);

// All that the page of one rollout is made of; `event` is the chosen one (null: the end).
class Leaf {
  constructor(rollout, query) {
    this.r = rollout;
    this.kept = new Map();  // of events that were asked for
    this.limit = AT_ONCE;
    this.text = el('div', {class: 'leaf', tabindex: 0, role: 'group', onkeydown: (e) => this.key(e),
      'aria-label': 'The tokens. Arrow keys go from token to token, comma and full stop from event to event.'});
    this.text.addEventListener('pointerover', (e) => this.point(e.target.dataset.p, false));
    this.text.addEventListener('click', (e) => this.point(e.target.dataset.p, true));
    this.strata = el('div', {class: 'strata'});
    this.steps = el('div', {class: 'steps', role: 'toolbar', 'aria-label': 'Events'});
    this.inks = el('div', {class: 'inks', role: 'radiogroup', 'aria-label': 'Colour by'}, 'colour by',
      INKS.map((ink) => el('label', {}, el('input', {type: 'radio', name: 'ink', value: ink,
        onchange: () => this.go({ink: ink === 'memory' ? null : ink})}), ink)));
    this.legend = el('p', {class: 'key'});
    this.about = el('section', {class: 'about'});
    this.token = el('section', {class: 'token', 'aria-live': 'polite'});
    this.read(query);
  }

  read(query) {
    const whole = (name, end) => {
      const n = Number(query.get(name) ?? NaN);
      return Number.isInteger(n) && n >= 0 && n < end ? n : null;
    };
    const event = whole('event', this.r.events_list.length + 1);
    this.event = event ? event - 1 : null;
    this.before = event === 0;
    this.at = whole('token', this.r.ids.length);
    this.ink = INKS.includes(query.get('ink')) ? query.get('ink') : 'memory';
  }

  // Writes what is chosen into the address, which draws it.
  go(changes) {
    const now = {event: this.before ? 0 : this.event === null ? null : this.event + 1,
                 token: this.at, ink: this.ink === 'memory' ? null : this.ink, ...changes};
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(now)) if (value !== null) query.set(name, value);
    const words = query.toString();
    location.replace(`#/rollout/${encodeURIComponent(this.r.id)}${words ? `?${words}` : ''}`);
  }

  // How many events have happened in what is shown.
  get done() { return this.before ? 0 : this.event === null ? this.r.events_list.length : this.event + 1; }

  // Tokens from here on are not written yet in what is shown.
  get written() {
    if (this.before) return this.r.events_list[0]?.at ?? this.r.ids.length;
    return this.event === null ? this.r.ids.length : this.r.events_list[this.event].at;
  }

  point(p, stays) {
    if (p === undefined) return;
    if (stays) this.go({token: Number(p)});
    else this.tell(Number(p));
  }

  key(e) {
    const step = {ArrowRight: 1, ArrowLeft: -1}[e.key];
    const turn = {'.': 1, ',': -1}[e.key];
    if (step) {
      const p = Math.max(0, Math.min(this.r.ids.length - 1, (this.at ?? -1) + step));
      this.go({token: p});
    } else if (turn) {
      const n = Math.max(0, Math.min(this.r.events_list.length, this.done + turn));
      this.go({event: n});
    } else {
      return;
    }
    e.preventDefault();
  }

  // The classes that colour token p.
  coloursOf(p, {share, first, depth}) {
    if (this.ink === 'surprise') {
      const shade = surpriseOf(this.r.logprobs[p]);
      return shade ? [`x${shade}`] : [];
    }
    if (this.ink === 'mismatch') {
      const mismatch = mismatchOf(this.r, p), shade = gapOf(mismatch);
      return shade ? [mismatch > 0 ? 'up' : 'down', `m${shade}`] : [];
    }
    const names = p < this.written ? [`k${inkOf(share[p])}`] : [];
    if (depth[p]) names.push('scraped', hue(first[p]), `d${Math.min(3, depth[p])}`);
    return names;
  }

  drawText() {
    const memory = memoryAfter(this.r, this.done);
    const knives = new Map(this.r.events_list.map((event, e) => [event.at, e]));
    const chosen = this.event === null ? null : this.r.events_list[this.event];
    const within = ([begin, end], p) => begin <= p && p < end;
    const end = Math.min(this.r.ids.length, this.limit);
    this.text.style.setProperty('--chosen', `var(--e${(this.event ?? 0) % 6})`);
    const nodes = [];
    for (let p = 0; p < end; ++p) {
      if (knives.has(p)) nodes.push(this.knife(knives.get(p)));
      const names = ['t', ORIGINS[this.r.origins[p]]];
      if (p >= this.written) names.push('unwritten');
      names.push(...this.coloursOf(p, memory));
      if (chosen && within(chosen.window, p)) names.push('window');
      if (chosen && within(chosen.reference, p)) names.push('heard');
      if (p === this.at) names.push('here');
      nodes.push(el('span', {class: names.join(' '), 'data-p': p}, shown(this.r.pieces[p])));
    }
    if (end < this.r.ids.length) {
      nodes.push(el('button', {class: 'more', onclick: () => { this.limit += AT_ONCE; this.drawText(); }},
        `${count(this.r.ids.length - end)} more tokens`));
    }
    this.text.replaceChildren(...nodes);
  }

  knife(e) {
    const {at} = this.r.events_list[e];
    return el('button', {class: `knife ${hue(e)} ${e === this.event ? 'chosen' : ''}`, title: `event ${e + 1}, before token ${at}`,
      'aria-label': `event ${e + 1}, before token ${at}`, onclick: () => this.go({event: e + 1})}, e + 1);
  }

  drawSteps() {
    const n = this.r.events_list.length;
    const button = (text, value, chosen, kind = '') => el('button',
      {class: kind, 'aria-pressed': String(chosen), onclick: () => this.go({event: value})}, text);
    const focused = this.steps.contains(document.activeElement);
    this.steps.replaceChildren(
      button('before', 0, this.before),
      ...this.r.events_list.map((_, e) => button(e + 1, e + 1, e === this.event, hue(e))),
      button('the end', null, !this.before && this.event === null));
    this.steps.hidden = n === 0;
    if (focused) this.steps.querySelector('[aria-pressed=true]').focus();
  }

  drawInks() {
    for (const choice of this.inks.querySelectorAll('input')) choice.checked = choice.value === this.ink;
    this.legend.replaceChildren(...KEYS[this.ink](this.r));
  }

  // Position from left to right, one event below the other: its window, dense where heads kept
  // much, the stretch that it listened to, and the place where it happened.
  drawStrata() {
    const events = this.r.events_list, size = this.r.ids.length;
    const width = this.strata.clientWidth || 800;
    const row = Math.max(3, Math.min(15, 260 / Math.max(1, events.length))), base = 14;
    const X = (p) => p / size * width;
    const heads = this.r.layers * this.r.kv_heads;
    const cells = (event, e, y) => event.kept_heads.map((kept, i) => kept === 0 ? null : svg('rect', {
      class: hue(e), x: X(event.window[0] + i), y, width: Math.max(0.8, X(1) - 0.4), height: row - 3,
      'fill-opacity': 0.25 + 0.75 * kept / heads}));
    this.strata.replaceChildren(svg('svg', {width, height: base + row * events.length + 4, role: 'img',
      'aria-label': `${events.length} events over ${size} tokens`},
      svg('rect', {class: 'page prompt', x: 0, y: 2, width: X(this.r.prompt_tokens), height: 7}),
      svg('rect', {class: 'page', x: X(this.r.prompt_tokens), y: 2, width: width - X(this.r.prompt_tokens), height: 7}),
      events.map((event, e) => {
        const y = base + row * e;
        return svg('g', {class: `stratum ${e === this.event ? 'chosen' : ''}`, onclick: () => this.go({event: e + 1})},
          svg('rect', {class: 'hit', x: 0, y: y - 1, width, height: row}),
          svg('rect', {class: `frame ${hue(e)}`, x: X(event.window[0]), y, width: X(event.window[1] - event.window[0]), height: row - 3}),
          cells(event, e, y),
          svg('line', {class: 'heard', x1: X(event.reference[0]), x2: X(event.reference[1]), y1: y + row - 1.5, y2: y + row - 1.5}),
          svg('line', {class: `cut ${hue(e)}`, x1: X(event.at), x2: X(event.at), y1: y - 1, y2: y + row - 2}));
      }),
      this.at === null ? null : svg('line', {class: 'here', x1: X(this.at + 0.5), x2: X(this.at + 0.5), y1: 0, y2: base + row * events.length})));
    this.strata.hidden = events.length === 0;
  }

  async drawEvent() {
    if (this.event === null) {
      const n = this.r.events_list.length;
      this.about.replaceChildren(el('h2', {}, this.before ? 'Before the first event' : n ? 'The page at its end' : 'Nothing was compacted'),
        el('p', {class: 'quiet'}, n ? ['Choose an event: a numbered mark in the text, a layer above, or the keys ',
          el('kbd', {}, ','), ' and ', el('kbd', {}, '.')] : 'Every token saw all tokens before it.'));
      return;
    }
    const e = this.event, event = this.r.events_list[e], q = event.quality;
    const range = ([a, b]) => b > a ? `[${a}, ${b})` : 'none';
    const strip = el('div', {class: 'heads'}), keptOfAHead = el('span', {}, '…');
    this.about.replaceChildren(
      el('h2', {class: hue(e)}, `Event ${e + 1}`, el('small', {}, ` ${event.method.replaceAll('_', ' ')}`)),
      facts([
        ['before token', count(event.at)], ['window', range(event.window)], ['listened to', range(event.reference)],
        ['kept a head', keptOfAHead],
        ['chosen by', event.chooser], ['mass error', small(q.mass_error)], ['output error', small(q.output_error)],
        ['unheard mass error', small(q.holdout_mass_error)], ['unheard output error', small(q.holdout_output_error)],
        ['KKT residual', small(q.kkt_residual)], ['took', `${small(event.seconds * 1000)} ms`]]
        .filter(([, value]) => value !== '–')),
      strip);
    const kept = await this.keptOf(e);
    if (this.event !== e) return;
    const most = (lists) => Math.max(...lists.flat().map((positions) => positions.length));
    keptOfAHead.textContent = `${event.kept_least === event.kept_most ? '' : `${event.kept_least} to `}${event.kept_most} of ` +
      `${kept.held ? most(kept.held) : event.kept_heads.length} slots`;
    const {nodes, paint} = headStrip(kept, e, (p) => onLine(this.r.pieces[p]), this.at, this.about.clientWidth || 380);
    strip.replaceChildren(...nodes);
    paint();
  }

  async keptOf(e) {
    if (!this.kept.has(e)) this.kept.set(e, await ask(`/api/rollouts/${encodeURIComponent(this.r.id)}/events/${e}`));
    return this.kept.get(e);
  }

  // One token, in words.
  async tell(p) {
    const r = this.r, span = spanOf(r, p), logprob = r.logprobs[p], events = eventsOf(r, p);
    const mismatch = mismatchOf(r, p);
    const fate = el('div', {class: 'fates'}, events.length ? null : el('p', {class: 'quiet'}, 'No event had it in its window.'));
    this.token.replaceChildren(
      el('h2', {}, el('code', {}, onLine(r.pieces[p])), el('small', {}, ` token ${p}`)),
      facts([
        ['origin', ORIGINS[r.origins[p]]], ['id', count(r.ids[p])],
        ['weights', span ? `v${span.version}${span.kv_epoch ? `, KV rebuilt ${span.kv_epoch}×` : ''}` : '–'],
        ['sampled at', logprob === null ? 'not sampled' : `${fixed(logprob, 4)} nats (${(100 * Math.exp(logprob)).toFixed(1)} %)`],
        ['replayed', replayOf(r, p)], ['mismatch', mismatch === null ? '–' : `${signed(mismatch)} nats`]]),
      fate);
    for (const e of events) {
      const kept = await this.keptOf(e);
      fate.append(el('p', {class: 'fate'}, el('b', {class: hue(e)}, `event ${e + 1}`),
        ...kept.kept.map((layer, l) => {
          const held = layer.map((positions) => positions.includes(p));
          const n = held.filter(Boolean).length;
          return el('span', {class: 'dots', title: `layer ${l}: kept by ${n} of ${held.length} heads`},
            `L${l} `, held.length <= 8 ? held.map((yes) => el('i', {class: yes ? `on ${hue(e)}` : 'off'})) : `${n}/${held.length}`);
        })));
    }
  }

  async draw() {
    this.drawText();
    this.drawSteps();
    this.drawInks();
    this.drawStrata();
    const telling = this.at !== null ? this.tell(this.at) : this.token.replaceChildren(
      el('h2', {}, 'A token'), el('p', {class: 'quiet'}, 'Point at one, tap it, or go by ', el('kbd', {}, '←'), ' ', el('kbd', {}, '→')));
    await Promise.all([this.drawEvent(), telling]);
    this.text.dataset.drawn = `${this.done}`;
  }
}

function head(r) {
  return el('section', {class: 'title'},
    el('p', {class: 'path'}, el('a', {href: r.step === null ? '#/rollouts' : `#/rollouts?step=${r.step}`},
      r.step === null ? 'rollouts' : `step ${r.step}`), ` / group ${r.group} / sample ${r.sample}`),
    el('h1', {}, r.id),
    facts([
      ['reward', fixed(r.reward)], ...Object.entries(r.parts).map(([name, value]) => [name, fixed(value)]),
      ['advantage', fixed(r.advantage, 2)], ['task', `${r.task} ${r.index}`],
      ['tokens', `${r.prompt_tokens} + ${r.total_tokens - r.prompt_tokens}`], ['events', count(r.events)],
      ['ended by', r.finish_reason],
      ['worst mismatch', r.replayed ? small(worstMismatch(r)) : whyNone(r)],
      ['weights', r.min_version === r.max_version ? `v${r.min_version}` : `v${r.min_version}–v${r.max_version}`]], 'facts big'),
    r.reason ? el('p', {class: 'reason'}, r.reason) : null);
}

export async function leaf({rest, query}) {
  const rollout = await ask(`/api/rollouts/${encodeURIComponent(rest)}`);
  const view = new Leaf(rollout, query);
  window.onresize = () => view.drawStrata();
  return {
    nodes: [head(rollout), view.strata, el('div', {class: 'bar'}, view.steps, view.inks),
      el('div', {class: 'desk'}, el('div', {}, view.text, view.legend),
        el('aside', {}, view.about, view.token))],
    shown: () => view.draw(),
    change(at) {
      if (at.rest !== rollout.id) return false;
      view.read(at.query);
      view.draw();
      return true;
    },
  };
}
