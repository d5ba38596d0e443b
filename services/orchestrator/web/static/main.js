// Which page stands here, by the part of the address after '#', and when it is drawn again.
import {ask, el} from '/dom.js';
import {leaf} from '/leaf.js';
import {overview} from '/overview.js';
import {rollouts} from '/rollouts.js';

const EVERY = 2000;  // ms
const main = document.getElementById('main');
let page = null;  // {refresh, change}, both may be absent
let drawing = 0;  // only the latest address is drawn

// '#/rollout/ID?event=3' -> {name: 'rollout', rest: 'ID', query}
function route() {
  const [path, query] = (location.hash.slice(1) || '/').split('?');
  const [, name, ...rest] = path.split('/');
  return {name, rest: decodeURIComponent(rest.join('/')), query: new URLSearchParams(query)};
}

const PAGES = {'': overview, rollouts, rollout: leaf};

function say(progress) {
  document.title = `${progress.run} · Palimpsest`;
  document.getElementById('state').replaceChildren(
    el('b', {}, progress.run), ' ',
    el('span', {class: `phase ${progress.phase}`}, progress.phase));
}

function fail(error) {
  console.error(error);
  main.replaceChildren(el('p', {class: 'error', role: 'alert'}, error.message));
}

async function draw() {
  const at = route();
  for (const link of document.querySelectorAll('nav a')) {
    const mine = link.hash === '#/' ? at.name === '' : at.name.startsWith('rollout');
    if (mine) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  // A page that only moves within itself does so without being made again.
  if (page?.name === at.name && page.change?.(at)) return;
  const mine = ++drawing;
  try {
    const make = PAGES[at.name];
    if (!make) throw new Error(`there is no page ${location.hash}`);
    const made = await make(at);
    if (mine !== drawing) return;
    page = {name: at.name, ...made};
    main.replaceChildren(...made.nodes);
    made.shown?.();
  } catch (error) {
    if (mine === drawing) fail(error);
  }
  document.documentElement.dataset.drawn = at.name || 'run';
}

async function watch() {
  try {
    const progress = await ask('/api/progress');
    say(progress);
    if (!document.hidden) await page?.refresh?.(progress);
    document.documentElement.removeAttribute('data-lost');
    if (!progress.live && progress.phase !== 'running') return;
  } catch {
    document.documentElement.dataset.lost = '';
  }
  setTimeout(watch, EVERY);
}

addEventListener('hashchange', draw);
await draw();
watch();
