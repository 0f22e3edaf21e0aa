// The operator page: what /metrics, /health/actors and /health/ready say, asked every two seconds and drawn by hand.
// Rates and quantiles are worked out here, from one answer to the next, so the service keeps no history for it.

const EVERY_MS = 2000;
const ANSWER_MS = 5000;
const KEPT_MS = 5 * 60_000;
const WINDOW_MS = 30_000; // of the numbers that stand for "now"
const MANY_ACTORS = 300; // from here on they are asked for less often
const CHILDREN = 50;
const OWN = /^\/(health\/.*|metrics|operator\.(js|css))?$/; // what this page itself asks for

const byId = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Written only where it differs: what a reader has selected or listens to stays as it is.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function dress(element, name) {
  if (element.className !== name) element.className = name;
}

// -- numbers ----------------------------------------------------------------------------------------------------------

function number(value, digits = 1) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const most = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : digits;
  return value.toLocaleString(undefined, { maximumFractionDigits: most });
}

function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '–';
  if (seconds < 1) return `${number(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 120) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} days`;
}

// -- the text format of Prometheus ------------------------------------------------------------------------------------

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

function readMetrics(text) {
  const found = { samples: new Map(), kinds: new Map(), help: new Map() };
  for (const line of text.split('\n')) {
    if (line[0] === '#') {
      const [, what, name, ...rest] = line.split(' ');
      if (what === 'TYPE') found.kinds.set(name, rest[0]);
      if (what === 'HELP') found.help.set(name, rest.join(' '));
      continue;
    }
    const match = LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? '').matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!found.samples.has(match[1])) found.samples.set(match[1], []);
    found.samples.get(match[1]).push({ labels, value: Number(match[3].replace('Inf', 'Infinity')) });
  }
  return found;
}

const one = (read, name) => read.samples.get(name)?.[0]?.value;

// One moment: counters as they stood, by what they are wanted for.
function digest(read, at) {
  const moment = { at, routes: new Map(), lag: [], read };
  const route = ({ labels }) => {
    const name = `${labels.method} ${labels.route}`;
    if (!moment.routes.has(name)) moment.routes.set(name, { served: 0, refused: 0, failed: 0, buckets: [] });
    return moment.routes.get(name);
  };
  for (const sample of read.samples.get('logstitch_http_requests_total') ?? []) {
    if (OWN.test(sample.labels.route)) continue;
    const status = Number(sample.labels.status);
    route(sample)[status >= 500 ? 'failed' : status >= 400 ? 'refused' : 'served'] += sample.value;
  }
  for (const sample of read.samples.get('logstitch_http_request_seconds_bucket') ?? []) {
    if (!OWN.test(sample.labels.route)) route(sample).buckets.push([Number(sample.labels.le.replace('+Inf', 'Infinity')), sample.value]);
  }
  for (const { labels, value } of read.samples.get('logstitch_loop_lag_seconds_bucket') ?? []) {
    moment.lag.push([Number(labels.le.replace('+Inf', 'Infinity')), value]);
  }
  return moment;
}

// Counts of buckets between two moments; cumulative, as Prometheus has them.
const between = (later, earlier = []) => later.map(([le, value], at) => [le, value - (earlier[at]?.[1] ?? 0)]);

function addUp(lists) {
  const sum = [];
  for (const list of lists) list.forEach(([le, value], at) => (sum[at] = [le, (sum[at]?.[1] ?? 0) + value]));
  return sum;
}

// The quantile within its bucket, taken as evenly spread; null where nothing was counted.
function quantile(buckets, share) {
  const all = buckets.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let [below, edge] = [0, 0];
  for (const [le, value] of buckets) {
    if (value >= all * share) return le === Infinity ? edge : edge + (le - edge) * ((all * share - below) / (value - below || 1));
    [below, edge] = [value, le];
  }
  return edge;
}

// What happened between two moments.
function interval(later, earlier) {
  const seconds = (later.at - earlier.at) / 1000;
  const rate = (name) => {
    const [now, then] = [one(later.read, name), one(earlier.read, name)];
    return now === undefined ? null : Math.max(0, now - (then ?? 0)) / seconds;
  };
  const routes = [];
  for (const [name, now] of later.routes) {
    const then = earlier.routes.get(name) ?? { served: 0, refused: 0, failed: 0, buckets: [] };
    const [served, refused, failed] = ['served', 'refused', 'failed'].map((kind) => Math.max(0, now[kind] - then[kind]));
    if (served + refused + failed) routes.push({ name, rate: (served + refused + failed) / seconds, refused, failed, buckets: between(now.buckets, then.buckets) });
  }
  const sum = (kind) => routes.reduce((total, route) => total + route[kind], 0);
  const all = addUp(routes.map((route) => route.buckets));
  return {
    at: later.at,
    routes,
    requests: sum('rate'),
    refused: sum('refused') / seconds,
    failed: sum('failed') / seconds,
    events: rate('logstitch_events_accepted_total'),
    p50: quantile(all, 0.5),
    p99: quantile(all, 0.99),
    lag: quantile(between(later.lag, earlier.lag), 0.99),
    cpu: rate('process_cpu_seconds_total'),
    memory: one(later.read, 'process_resident_memory_bytes') ?? null,
    calls: rate('logstitch_database_calls_total'),
  };
}

// -- drawing ----------------------------------------------------------------------------------------------------------

const [WIDTH, HEIGHT] = [200, 44];

class Spark {
  constructor(names) {
    this.area = svg('path');
    this.lines = names.map((_, at) => svg('polyline', at ? { class: 'second' } : {}));
    this.element = svg('svg', { class: 'spark', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      svg('line', { x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }), this.area, ...this.lines);
    this.names = names;
  }

  draw(history, now, least) {
    // All there is, a minute at least, five at most.
    const span = Math.min(KEPT_MS, Math.max(60_000, now - (history[0]?.at ?? now)));
    const top = Math.max(least, ...this.names.flatMap((name) => history.map((entry) => entry[name] ?? 0)));
    this.names.forEach((name, at) => {
      const points = history.filter((entry) => entry[name] !== null).map((entry) => [
        (WIDTH * (1 - (now - entry.at) / span)).toFixed(1), (HEIGHT - 1 - (HEIGHT - 4) * (entry[name] / top)).toFixed(1)]);
      this.lines[at].setAttribute('points', points.map((point) => point.join(',')).join(' '));
      if (at === this.names.length - 1 && points.length && this.names.length === 1) {
        this.area.setAttribute('d', `M${points[0][0]} ${HEIGHT}L${points.map((point) => point.join(' ')).join('L')}L${points.at(-1)[0]} ${HEIGHT}Z`);
      }
    });
    return top;
  }
}

const MIB = 1024 * 1024;
const TILES = [
  { title: 'Events stored', names: ['events'], least: 1, now: (n) => [number(n.events), 'per second'], beside: (h) => `most ${number(Math.max(...h.map((e) => e.events ?? 0)))} per second` },
  { title: 'Requests', names: ['requests'], least: 1, now: (n) => [number(n.requests), 'per second'], beside: (h, n) => (n.failed || n.refused ? `${number(n.refused)} refused, ${number(n.failed)} failed` : 'none refused, none failed') },
  { title: 'Time to answer', names: ['p50', 'p99'], least: 0.001, now: (n) => [duration(n.p50), n.p50 === null ? '' : 'p50'], beside: (h, n) => `p99 ${duration(n.p99)}`, keyed: true },
  { title: 'Event loop lag', names: ['lag'], least: 0.001, now: (n) => [duration(n.lag), n.lag === null ? '' : 'p99'], beside: (h) => `most ${duration(Math.max(...h.map((e) => e.lag ?? 0)))}` },
  { title: 'CPU', names: ['cpu'], least: 0.1, now: (n) => [n.cpu === null ? '–' : `${Math.round(n.cpu * 100)} %`, 'of a core'], beside: (h) => `most ${Math.round(100 * Math.max(...h.map((e) => e.cpu ?? 0)))} %` },
  { title: 'Memory', names: ['memory'], least: MIB, now: (n) => [n.memory === null ? '–' : number(n.memory / MIB, 0), 'MiB'], beside: (h) => `most ${number(Math.max(...h.map((e) => e.memory ?? 0)) / MIB, 0)} MiB` },
].map((tile) => {
  const [value, unit, beside] = [el('span'), el('small'), el('div', { class: 'beside' })];
  const spark = new Spark(tile.names);
  const besideText = el('span');
  beside.append(...(tile.keyed ? [el('span', { class: 'key second' })] : []), besideText);
  const box = el('div', { class: 'tile' }, el('h2', {}, tile.title), el('div', { class: 'value' }, value, unit), beside, spark.element);
  byId('tiles').append(box);
  return { ...tile, value, unit, besideText, spark };
});

function bar() {
  const fill = svg('rect', { class: 'fill', x: 0, y: 0, height: 8, width: 0 });
  const peak = svg('rect', { class: 'peak', y: 0, height: 8, width: 2, x: -2 });
  const element = svg('svg', { class: 'bar', viewBox: '0 0 110 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, fill, peak);
  return {
    element,
    set(value, most, highest) {
      const share = most > 0 ? Math.min(1, value / most) : 0;
      fill.setAttribute('width', value > 0 ? Math.max(2, 110 * share) : 0);
      peak.setAttribute('x', highest > 0 && most > 0 ? Math.min(108, Math.max(0, 110 * (highest / most) - 1)) : -2);
      element.setAttribute('class', `bar ${share >= 0.9 ? 'full' : share >= 0.5 ? 'half' : ''}`);
    },
  };
}

// -- routes -----------------------------------------------------------------------------------------------------------

function cells(row, names) {
  return Object.fromEntries(names.map((name) => [name, row.appendChild(el('td', { class: 'number' }))]));
}

function fillCell(cell, text, bad, zero) {
  write(cell, text);
  dress(cell, `number${bad ? ' bad' : zero ? ' zero' : ''}`);
}

// Rows by their key, in this order, made once and then only written to.
function keep(body, known, wanted, make) {
  for (const [key, row] of known) {
    if (!wanted.includes(key)) {
      row.element.remove();
      known.delete(key);
    }
  }
  wanted.forEach((key, at) => {
    if (!known.has(key)) known.set(key, make(key));
    const { element } = known.get(key);
    if (body.children[at] !== element) body.insertBefore(element, body.children[at] ?? null);
  });
}

const routeRows = new Map();

function drawRoutes(recent) {
  const routes = [...recent.routes].sort((a, b) => b.rate - a.rate).slice(0, 12);
  keep(byId('routes').tBodies[0], routeRows, routes.map((route) => route.name), (name) => {
    const element = el('tr', {}, el('th', { scope: 'row' }, name));
    return { element, ...cells(element, ['rate', 'p50', 'p99', 'refused', 'failed']) };
  });
  for (const route of routes) {
    const row = routeRows.get(route.name);
    fillCell(row.rate, number(route.rate));
    fillCell(row.p50, duration(quantile(route.buckets, 0.5)));
    fillCell(row.p99, duration(quantile(route.buckets, 0.99)));
    fillCell(row.refused, number(route.refused), false, !route.refused);
    fillCell(row.failed, number(route.failed), route.failed, !route.failed);
  }
  byId('routes').hidden = !routes.length;
  byId('no-routes').hidden = routes.length > 0;
}

// -- database ---------------------------------------------------------------------------------------------------------

const slots = bar();
const [slotsText, slotsCount] = [el('span', { class: 'soft' }, 'Transactions now'), el('span')];
byId('slots').append(slotsText, slots.element, slotsCount);
dress(byId('slots'), 'slots');
const facts = new Map();

function fact(name, text, { bad = false, help = '' } = {}) {
  if (!facts.has(name)) {
    const value = el('dd');
    byId('database').append(el('div', help ? { title: help } : {}, el('dt', {}, name), value));
    facts.set(name, value);
  }
  write(facts.get(name), text);
  dress(facts.get(name), bad ? 'bad' : '');
}

const BACKLOG = /^logstitch_(\w+?)_(?:backlog|pending|behind|lag)(?:_\w+)?$/;

function drawDatabase(moment, recent, ready) {
  const value = (name) => one(moment.read, `logstitch_database_${name}`);
  const reasons = ready.reasons.filter(({ field }) => field.split(/[./]/)[0] === 'database');
  const [state, why] = [byId('database-state'), byId('database-why')];
  write(state, reasons.length ? 'Not ready' : 'Up');
  dress(state, `pill ${reasons.length ? 'bad' : 'good'}`);
  write(why, reasons.map(({ message }) => message).join(' '));
  why.hidden = !reasons.length;
  slots.set(value('calls_in_flight') ?? 0, value('slots') ?? 0, 0);
  write(slotsCount, `${number(value('calls_in_flight') ?? 0)} of ${number(value('slots') ?? 0)}`);
  fact('Transactions', `${number(recent.calls)} /s`);
  fact('Waiting', number(value('calls_waiting') ?? 0), { bad: value('calls_waiting') > (value('slots') ?? Infinity), help: 'Calls that wait for a slot.' });
  fact('Connections', value('connections') === undefined ? '–' : `${number(value('connections'))}, ${number(value('connections_idle') ?? 0)} idle`);
  fact('Run again', number(value('calls_retried_total') ?? 0), { help: 'Times that a transaction was run again, since the start.' });
  fact('Failed', number(value('calls_failed_total') ?? 0), { bad: value('calls_failed_total') > 0, help: 'Transactions refused because the database was unavailable, since the start.' });
  fact('Cut', number(value('calls_cut_total') ?? 0), { bad: value('calls_cut_total') > 0, help: 'Calls cut because the server did not answer in time, since the start.' });
  if (value('listening') !== undefined) fact('Notifications', value('listening') ? 'connected' : 'none', { help: 'Whether the connection for notifications is up; without it, what they wake polls.' });
  for (const [name, samples] of moment.read.samples) {
    const match = BACKLOG.exec(name);
    if (match && moment.read.kinds.get(name) === 'gauge' && !name.endsWith('_created')) {
      const label = `${match[1].replaceAll('_', ' ')} waiting`;
      const sum = samples.reduce((total, sample) => total + sample.value, 0);
      fact(label[0].toUpperCase() + label.slice(1), /seconds$/.test(name) ? duration(sum) : number(sum), { help: moment.read.help.get(name) ?? '' });
    }
  }
}

// -- actors -----------------------------------------------------------------------------------------------------------

const TONES = { running: 'calm', starting: 'warn', backing_off: 'bad', stuck: 'bad', stopping: 'warn', stopped: 'warn' };
const unfolded = new Set();
const actorRows = new Map();
let handled = { at: 0, counts: new Map(), rates: new Map() };

const flatten = (node) => [...(node.actor ? [node.actor] : []), ...node.children.flatMap(flatten)];
const troubled = (actor) => actor.state !== 'running' || actor.depth >= actor.capacity / 2 || actor.restarts > 0 || actor.rejected > 0;

function together(path, actors) {
  const sum = (name) => actors.reduce((total, actor) => total + actor[name], 0);
  const worst = ['stuck', 'backing_off', 'starting', 'stopping', 'stopped', 'running'].find((state) => actors.some((actor) => actor.state === state));
  const failed = actors.filter((actor) => actor.last_error);
  const fullest = actors.reduce((most, actor) => (actor.depth / actor.capacity > most.depth / most.capacity ? actor : most));
  const gauges = {};
  for (const [name, value] of actors.flatMap((actor) => Object.entries(actor.gauges ?? {}))) gauges[name] = (gauges[name] ?? 0) + value;
  return { path, state: worst, gauges, ...Object.fromEntries(['restarts', 'handled', 'rejected', 'in_flight'].map((name) => [name, sum(name)])),
    depth: fullest.depth, capacity: fullest.capacity, peak: Math.max(...actors.map((actor) => actor.peak)), oldest_age: Math.max(...actors.map((actor) => actor.oldest_age)),
    last_error: failed.length ? failed.at(-1).last_error : null, members: actors };
}

function makeActorRow(key) {
  const child = key.startsWith('child ');
  const element = el('tr', child ? { class: 'child' } : {});
  const name = element.appendChild(el('th', { scope: 'row' }));
  const state = el('span', { class: 'pill' });
  element.append(el('td', {}, state));
  const mailbox = bar();
  const text = el('span');
  element.append(el('td', { class: 'box' }, el('div', { class: 'mailbox' }, mailbox.element, text)));
  const rest = cells(element, ['lag', 'in_flight', 'handled', 'rate', 'rejected', 'restarts']);
  for (const [key, label] of [['lag', 'Lag'], ['in_flight', 'In flight'], ['handled', 'Handled'], ['rate', 'Per second'], ['rejected', 'Rejected'], ['restarts', 'Restarts']]) rest[key].dataset.name = label;
  const reports = element.appendChild(el('td', { 'data-name': 'Reports' }));
  const error = element.appendChild(el('td', { 'data-name': 'Last error' }));
  return { element, name, state, mailbox, text, reports, error, ...rest };
}

function drawActors(tree, at) {
  const actors = flatten(tree);
  const seconds = (at - handled.at) / 1000;
  const counts = new Map(actors.map((actor) => [actor.path, actor.handled]));
  if (seconds > 0.5) {
    const rates = new Map(actors.map((actor) => [actor.path, handled.counts.has(actor.path) ? Math.max(0, actor.handled - handled.counts.get(actor.path)) / seconds : 0]));
    handled = { at, counts, rates };
  }
  const wanted = new Map();
  for (const node of tree.children) {
    const members = flatten(node);
    if (members.length === 1 && node.actor) {
      wanted.set(node.path, node.actor);
      continue;
    }
    if (!members.length) continue;
    wanted.set(node.path, together(node.path, members));
    if (unfolded.has(node.path)) {
      const order = [...members].sort((a, b) => troubled(b) - troubled(a) || b.depth - a.depth || handled.rates.get(b.path) - handled.rates.get(a.path));
      for (const actor of order.slice(0, CHILDREN)) wanted.set(`child ${actor.path}`, actor);
    }
  }
  const rows = [...wanted.keys()];
  keep(byId('tree').tBodies[0], actorRows, rows, makeActorRow);
  for (const [key, actor] of wanted) {
    const row = actorRows.get(key);
    if (actor.members) drawFold(row, actor);
    else write(row.name, actor.path);
    write(row.state, actor.state.replaceAll('_', ' '));
    dress(row.state, `pill ${TONES[actor.state] ?? ''}`);
    row.mailbox.set(actor.depth, actor.capacity, actor.peak);
    write(row.text, `${number(actor.depth)} of ${number(actor.capacity)}${actor.members ? ' in the fullest' : ''}, peak ${number(actor.peak)}`);
    const rate = (actor.members ?? [actor]).reduce((total, member) => total + (handled.rates.get(member.path) ?? 0), 0);
    fillCell(row.lag, actor.oldest_age ? duration(actor.oldest_age) : '0', actor.oldest_age > 10, !actor.oldest_age);
    fillCell(row.in_flight, number(actor.in_flight), false, !actor.in_flight);
    fillCell(row.handled, number(actor.handled), false, !actor.handled);
    fillCell(row.rate, number(rate), false, !rate);
    fillCell(row.rejected, number(actor.rejected), actor.rejected > 0, !actor.rejected);
    fillCell(row.restarts, number(actor.restarts), actor.restarts > 0, !actor.restarts);
    const reports = Object.entries(actor.gauges ?? {}).map(([name, value]) => `${name.replaceAll('_', ' ')} ${number(value)}`);
    write(row.reports, reports.join(', ') || '–');
    dress(row.reports, reports.length ? '' : 'zero');
    write(row.error, actor.last_error ?? '–');
    dress(row.error, actor.last_error ? 'bad' : 'zero');
  }
  const bad = actors.filter((actor) => actor.state !== 'running').length;
  write(byId('actors-sum'), `${number(actors.length)} actors, ${bad ? `${number(bad)} not running` : 'all running'}`);
}

function drawFold(row, group) {
  if (!row.fold) {
    row.fold = el('button', { type: 'button', class: 'fold' });
    row.fold.addEventListener('click', () => {
      if (!unfolded.delete(group.path)) unfolded.add(group.path);
      if (latest.tree) drawActors(latest.tree, latest.at);
    });
    row.name.replaceChildren(row.fold);
  }
  write(row.fold, `${group.path} × ${number(group.members.length)}`);
  row.fold.setAttribute('aria-expanded', String(unfolded.has(group.path)));
}

// -- asking -----------------------------------------------------------------------------------------------------------

const moments = [];
const history = [];
const latest = { tree: null, at: 0 };
let [timer, turn, paused] = [0, 0, false];

async function ask(path) {
  const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS) });
  return { status: response.status, text: await response.text() };
}

function readReadiness({ status, text }) {
  const { error } = JSON.parse(text);
  return { ready: status === 200, message: error?.message ?? '', reasons: error?.details ?? [] };
}

function drawReadiness(ready) {
  const state = byId('state');
  write(state, ready.ready ? 'Ready' : ready.reasons.length ? 'Not ready' : 'Draining');
  dress(state, `pill ${ready.ready ? 'good' : ready.reasons.length ? 'bad' : 'warn'}`);
  const box = byId('reasons');
  const text = ready.reasons.map(({ field, message }) => `${field}: ${message}`).join('\n');
  if (box.dataset.text !== text) {
    box.dataset.text = text;
    box.replaceChildren(...ready.reasons.map(({ field, message }) => el('p', {}, el('code', {}, field), ` ${message}`)));
  }
  box.hidden = !ready.reasons.length;
  document.title = `${ready.ready ? '' : '● '}Operations · LogStitch`;
}

function drawNumbers(now, ready) {
  const moment = moments.at(-1);
  const then = moments.find((earlier) => now - earlier.at <= WINDOW_MS);
  const recent = interval(moment, then === moment ? moments[0] : then);
  for (const tile of TILES) {
    const [value, unit] = tile.now(recent);
    write(tile.value, value);
    write(tile.unit, unit);
    write(tile.besideText, tile.beside(history, recent));
    tile.spark.draw(history, now, tile.least);
  }
  drawRoutes(recent);
  drawDatabase(moment, recent, ready);
  const started = one(moment.read, 'process_start_time_seconds');
  write(byId('process'), started ? `up ${duration(Math.max(0, now / 1000 - started))}` : '');
}

async function poll() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  const wantsTree = !latest.tree || flatten(latest.tree).length < MANY_ACTORS || turn % 4 === 0;
  turn++;
  try {
    const [metrics, ready, actors] = await Promise.all([ask('metrics'), ask('health/ready'), wantsTree ? ask('health/actors') : null]);
    if (metrics.status !== 200) throw new Error('no metrics');
    const now = Date.now();
    const moment = digest(readMetrics(metrics.text), now);
    const before = moments.at(-1);
    // Another process answers now: its counters begin anew.
    if (before && one(before.read, 'process_start_time_seconds') !== one(moment.read, 'process_start_time_seconds')) moments.length = 0;
    if (moments.length) history.push(interval(moment, moments.at(-1)));
    moments.push(moment);
    while (now - moments[0].at > WINDOW_MS + EVERY_MS) moments.shift();
    while (history.length && now - history[0].at > KEPT_MS) history.shift();
    const readiness = readReadiness(ready);
    drawReadiness(readiness);
    if (moments.length > 1) drawNumbers(now, readiness);
    if (actors) {
      latest.tree = JSON.parse(actors.text);
      latest.at = now;
      drawActors(latest.tree, now);
    }
    document.documentElement.classList.remove('stale');
    write(byId('age'), `as of ${new Date(now).toLocaleTimeString()}`);
    document.body.dataset.polls = turn;
  } catch (error) {
    write(byId('state'), 'Does not answer');
    dress(byId('state'), 'pill bad');
    document.documentElement.classList.add('stale');
    document.title = '● Operations · LogStitch';
  }
  timer = setTimeout(poll, moments.length > 1 ? EVERY_MS : EVERY_MS / 2);
}

byId('pause').addEventListener('click', () => {
  paused = !paused;
  byId('pause').setAttribute('aria-pressed', String(paused));
  write(byId('pause'), paused ? 'Go on' : 'Pause');
  if (!paused) poll();
});
document.addEventListener('visibilitychange', () => !document.hidden && poll());
poll();
