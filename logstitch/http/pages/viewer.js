// <logstitch-viewer token="…" base-url="https://audit.example.com" theme="auto"></logstitch-viewer>
//
// A table of audit events for a page of yours. This module is all there is to it: no dependencies, no build step, and
// it works under a strict Content-Security-Policy, since it makes no inline styles or scripts and never parses HTML
// (script-src and connect-src must name the service; nothing else is needed). It takes a browser of 2024 or later.
//
// Attributes  token     a viewer token (or a project key, on pages that only your own people see)
//             base-url  where the service is; left out, where this module came from
//             theme     light | dark | auto (the default: as the reader's system)
// Properties  token, baseUrl, theme: the same. A token that is set as a property stays out of the document.
// Methods     reload(): the first page again. show(id): open one event.
// Events      logstitch-token-expired (detail: {code, message}): the token is not taken any more. Set a new one.
// Styles      --logstitch-height (640px), --logstitch-font, --logstitch-font-mono, --logstitch-radius, and the colours
//             --logstitch-background, --logstitch-surface, --logstitch-text, --logstitch-muted, --logstitch-border,
//             --logstitch-accent, --logstitch-accent-text, --logstitch-added, --logstitch-added-background,
//             --logstitch-removed, --logstitch-removed-background. Give each colour as light-dark(…, …) for both themes.
//
// What events carry is never trusted: it becomes text and nothing else, directions are isolated, and characters that
// change how a text looks without being seen are shown by their code points.

const PAGE = 50;
const LIVE_SECONDS = 5;
const LIVE_SECONDS_MOST = 120;
const TYPING_MS = 300;
const ANSWER_MS = 20_000;
const TRIES = 3;
const DOWNLOAD_EVENTS = 10_000;
const DOWNLOAD_BYTES = 100_000_000; // what a tab can hold
const DOWNLOAD_PAUSE_MS = 45_000; // between two pieces: the service looks up a page for 30 s at most
const EMPTY_PAGES = 20; // a page may be empty although there are more; so many are asked for before that is shown
const SHOWN_CHARACTERS = 1_000;
const SHOWN_ENTRIES = 100;
const DIFF_CELLS = 90_000; // lines of one side times lines of the other
const EVENT_ID = /^evt_[0-7][0-9A-HJKMNP-TV-Z]{25}$/;
const CATEGORIES = ['auth', 'access', 'mutation', 'admin', 'security', 'system'];
const HERE = new URL('.', import.meta.url).href;

// -- JSON, exactly ----------------------------------------------------------------------------------------------------

// JavaScript's numbers are doubles; events hold integers of 64 bits. A number that would not come back as it was written
// is kept as its text behind U+0000, which no string of an event can hold.
const EXACT = '\0';
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;

function parse(text) {
  return JSON.parse(
    text.replace(TOKENS, (token) => (token[0] === '"' || String(Number(token)) === token ? token : `"\\u0000${token}"`)),
  );
}

function stringify(value, indent) {
  return JSON.stringify(value, null, indent).replace(/"\\u0000([^"]*)"/g, '$1');
}

const isObject = (value) => typeof value === 'object' && value !== null;

// Of a section or an event that may be anything, since redaction and hidden fields change shapes: an own field, or undefined.
function get(value, name) {
  return isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
}

// Any value as one line of text; undefined stays undefined.
function plain(value) {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return value[0] === EXACT ? value.slice(1) : value;
  return stringify(value);
}

// -- making elements --------------------------------------------------------------------------------------------------

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const ICONS = {
  search: 'M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9ZM10.5 10.5 14 14',
  filter: 'M2 4h12M4.5 8h7M7 12h2',
  reload: 'M13.5 8A5.5 5.5 0 1 1 11.7 3.9M12 1.5V4.5H9',
  close: 'M3.5 3.5l9 9M12.5 3.5l-9 9',
  up: 'M3.5 10 8 5.5l4.5 4.5',
  down: 'M3.5 6 8 10.5 12.5 6',
  save: 'M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11',
  copy: 'M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8Z',
};

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  for (const [key, value] of [['viewBox', '0 0 16 16'], ['aria-hidden', 'true'], ['class', 'icon']]) svg.setAttribute(key, value);
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

function button(label, onclick, { glyph, quiet, ...rest } = {}) {
  const properties = { type: 'button', class: quiet ? 'button quiet' : 'button', onclick, ...rest };
  return glyph && quiet
    ? el('button', { 'aria-label': label, title: label, ...properties }, icon(glyph))
    : el('button', properties, glyph ? icon(glyph) : null, el('span', {}, label));
}

// Controls, marks of direction and other characters without a shape. Joiners are left alone: words and emoji need them.
const UNSEEN =
  /(?:[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}])+/gu;

// A text of an event, isolated from the text around it, with what cannot be seen made visible.
function shown(text, limit = SHOWN_CHARACTERS) {
  const box = el('bdi');
  const cut = text.length > limit ? text.slice(0, limit).replace(/[\ud800-\udbff]$/, '') : text;
  let from = 0;
  let marks = 0;
  for (const match of cut.matchAll(UNSEEN)) {
    if (++marks > SHOWN_ENTRIES) break;
    const points = [...match[0]];
    const code = `U+${points[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
    box.append(cut.slice(from, match.index));
    box.append(el('span', { class: 'unseen', title: 'A character that cannot be seen' }, points.length > 1 ? `${code}×${points.length}` : code));
    from = match.index + match[0].length;
  }
  box.append(cut.slice(from).replaceAll(UNSEEN, '\u25af')); // of what is all marks, the rest has shorter ones
  if (cut.length < text.length) box.append('…');
  return box;
}

// The same, with a way to the rest of a long one.
function whole(text) {
  const box = el('span', { class: 'text' }, shown(text));
  if (text.length > SHOWN_CHARACTERS) {
    const more = button(`Show all ${count(text.length, 'character')}`, () => {
      box.replaceChildren(shown(text, Infinity));
      box.tabIndex = -1;
      box.focus();
    }, { class: 'link' });
    box.append(' ', more);
  }
  return box;
}

const count = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? '' : 's'}`;

// -- times ------------------------------------------------------------------------------------------------------------

const CLOCK = { hour: '2-digit', minute: '2-digit', second: '2-digit' };
const SHORT = new Intl.DateTimeFormat(undefined, { month: 'short', day: '2-digit', ...CLOCK });
const DATED = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: '2-digit', ...CLOCK });
const LONG = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });
const ZONE = DATED.resolvedOptions().timeZone;

function time(text, format) {
  const moment = new Date(text);
  if (typeof text !== 'string' || Number.isNaN(moment.getTime())) return el('span', { class: 'none' }, '—');
  const chosen = format ?? (moment.getFullYear() === new Date().getFullYear() ? SHORT : DATED);
  return el('time', { datetime: text, title: `${text.replace('T', ' ').replace('Z', '')} UTC` }, chosen.format(moment));
}

// The first or the last millisecond of a day of the reader's (`2026-11-23`), as the API takes it.
function boundary(day, last) {
  const [year, month, date] = day.split('-').map(Number);
  const moment = new Date(year, month - 1, date + (last ? 1 : 0));
  if (Number.isNaN(moment.getTime())) return day;
  return new Date(moment.getTime() - (last ? 1 : 0)).toISOString();
}

// -- the API ----------------------------------------------------------------------------------------------------------

class Failure extends Error {
  constructor(kind, message, { code = '', details = [], requestId = '', retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { kind, code, details, requestId, retryAfter });
  }
}

const KINDS = { 400: 'invalid', 401: 'expired', 403: 'refused', 404: 'missing', 429: 'busy', 503: 'busy' };

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const left = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', left);
      resolve();
    }, seconds * 1000);
    signal.addEventListener('abort', left, { once: true });
  });
}

// Raises what `signal` was aborted with, or a Failure.
async function send(url, token, signal, limit) {
  try {
    return await fetch(url, {
      headers: { Authorization: `Bearer ${token}` },
      signal: AbortSignal.any([signal, limit]),
      credentials: 'omit',
      referrerPolicy: 'no-referrer',
      cache: 'no-store',
      redirect: 'error',
    });
  } catch (error) {
    signal.throwIfAborted();
    throw new Failure('offline', 'The service cannot be reached.');
  }
}

// The JSON of an answer; a Failure, unless that is what was asked for.
async function read(response, signal) {
  let body;
  try {
    body = await response.text();
  } catch (error) {
    signal.throwIfAborted();
    throw new Failure('offline', 'The service cannot be reached.');
  }
  try {
    body = parse(body);
  } catch (error) {
    throw new Failure('failed', 'The service answered with something that is not JSON.');
  }
  if (response.ok) return body;
  const told = get(body, 'error');
  throw new Failure(KINDS[response.status] ?? 'failed', plain(get(told, 'message')) ?? `The service answered ${response.status}.`, {
    code: plain(get(told, 'code')),
    details: Array.isArray(get(told, 'details')) ? told.details : [],
    requestId: plain(get(body, 'request_id')),
    retryAfter: Math.min(60, Math.max(0, Number(response.headers.get('Retry-After')) || 0)),
  });
}

async function ask(url, token, signal) {
  return read(await send(url, token, signal, AbortSignal.timeout(ANSWER_MS)), signal);
}

// The same again after a while where that may help.
async function patiently(attempt, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Failure) || !['busy', 'offline'].includes(error.kind) || tried === TRIES) throw error;
      await pause(error.retryAfter || tried, signal);
    }
  }
}

const askPatiently = (url, token, signal) => patiently(() => ask(url, token, signal), signal);

// -- files ------------------------------------------------------------------------------------------------------------

// By format: its type, what stands in front (by which a spreadsheet knows that the text is UTF-8), lines that are no events.
const FORMATS = {
  csv: { type: 'text/csv;charset=utf-8', head: '\ufeff', names: 1 },
  ndjson: { type: 'application/x-ndjson', head: '', names: 0 },
};
const [QUOTE, NEWLINE] = [0x22, 0x0a];

// Counts the events of an export as its bytes come, and knows where the last whole one ends.
class Lines {
  #format;
  #quoted = false; // within quotes a line of CSV goes on; JSON has no line breaks

  bytes = 0;
  whole = 0; // bytes up to the end of the last event that is whole and may be kept
  events;

  constructor(format) {
    this.#format = format;
    this.events = -FORMATS[format].names;
  }

  // Whether what has come is more than is kept.
  add(piece) {
    const end = Math.min(piece.length, DOWNLOAD_BYTES - this.bytes);
    for (let at = 0; at < end && this.events < DOWNLOAD_EVENTS; at++) {
      if (piece[at] === QUOTE) this.#quoted = !this.#quoted;
      else if (piece[at] === NEWLINE && !(this.#quoted && this.#format === 'csv')) {
        this.events++;
        this.whole = this.bytes + at + 1;
      }
    }
    this.bytes += piece.length;
    return this.bytes > DOWNLOAD_BYTES || (this.events === DOWNLOAD_EVENTS && this.bytes > this.whole);
  }
}

// An export as a file, with how many events it holds and whether there were more. `tell` hears of each piece.
async function fetchExport(url, token, format, signal, tell) {
  const { type, head } = FORMATS[format];
  let [silence, timer, reader] = [null, 0, null];
  const wait = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), ms);
  };
  const begin = async () => {
    silence = new AbortController();
    wait(ANSWER_MS);
    const response = await send(url, token, signal, silence.signal);
    return response.ok ? response.body : read(response, signal);
  };
  try {
    reader = (await patiently(begin, signal)).getReader();
    const pieces = [new TextEncoder().encode(head)];
    const lines = new Lines(format);
    let more = false;
    while (!more) {
      wait(DOWNLOAD_PAUSE_MS);
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      more = lines.add(value);
      tell(Math.max(0, lines.events));
    }
    if (!more && (lines.events < 0 || lines.whole < lines.bytes)) throw new Failure('failed', 'The answer is not whole.');
    return { file: new Blob(pieces).slice(0, pieces[0].length + lines.whole, type), events: lines.events, more };
  } finally {
    clearTimeout(timer);
    reader?.cancel().catch(() => {});
  }
}

function save(file, format, root) {
  const name = `events-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-')}.${format}`;
  const link = el('a', { href: URL.createObjectURL(file), download: name, class: 'offscreen', tabindex: '-1', 'aria-hidden': 'true' });
  root.append(link);
  link.click();
  setTimeout(() => {
    URL.revokeObjectURL(link.href);
    link.remove();
  }, 10_000);
}

async function copy(text, root) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    // No permission, or no https: the older way, from inside the shadow tree's open dialog.
    const field = el('textarea', { class: 'offscreen', readonly: true, 'aria-hidden': 'true', tabindex: '-1' });
    const before = root.activeElement;
    field.value = text;
    (root.querySelector('dialog[open]') ?? root).append(field);
    field.select();
    const done = document.execCommand('copy');
    field.remove();
    before?.focus();
    return done;
  }
}

// -- the parts of one event -------------------------------------------------------------------------------------------

function scalar(value) {
  if (typeof value === 'string' && value[0] !== EXACT) return el('span', { class: 'string' }, whole(value));
  return el('span', { class: value === null ? 'atom none' : 'atom' }, value === null ? 'null' : plain(value));
}

// JSON as a tree. What is folded is made when it is unfolded.
function tree(value, depth = 0) {
  if (!isObject(value)) return scalar(value);
  const entries = Object.entries(value);
  if (!entries.length) return el('span', { class: 'atom' }, Array.isArray(value) ? '[ ]' : '{ }');
  const list = el('ul', { class: 'tree' });
  const grow = (from) => {
    for (const [key, inner] of entries.slice(from, from + SHOWN_ENTRIES)) list.append(leaf(key, inner, depth));
    const left = entries.length - from - SHOWN_ENTRIES;
    if (left > 0) {
      const item = el('li', {}, button(`Show ${left.toLocaleString()} more`, () => {
        item.remove();
        grow(from + SHOWN_ENTRIES);
        list.children[from + SHOWN_ENTRIES].querySelector('summary, button')?.focus();
      }, { class: 'link' }));
      list.append(item);
    }
  };
  grow(0);
  return list;
}

function leaf(key, value, depth) {
  const name = el('span', { class: 'key' }, shown(key));
  if (!isObject(value) || !Object.keys(value).length) return el('li', {}, name, ' ', tree(value));
  const size = Object.keys(value).length;
  const inside = el('details', {}, el('summary', {}, name, ' ', el('span', { class: 'size' }, Array.isArray(value) ? `[${size}]` : `{${size}}`)));
  const fill = () => inside.childElementCount === 1 && inside.append(tree(value, depth + 1));
  inside.addEventListener('toggle', () => inside.open && fill());
  if (depth < 2 && size <= 12) {
    fill();
    inside.open = true;
  }
  return el('li', {}, inside);
}

// Lines that differ, by their longest common subsequence: [' ' | '-' | '+', line] in order.
function lineDiff(before, after) {
  const a = before.split('\n');
  const b = after.split('\n');
  if (a.length * b.length > DIFF_CELLS) return [...a.map((line) => ['-', line]), ...b.map((line) => ['+', line])];
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const lines = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push([' ', a[i++]]);
      j++;
    } else if (j >= b.length || (i < a.length && lengths[i + 1][j] >= lengths[i][j + 1])) lines.push(['-', a[i++]]);
    else lines.push(['+', b[j++]]);
  }
  return lines;
}

const SIGNS = { ' ': ['same', '', ''], '-': ['removed', '−', 'Before: '], '+': ['added', '+', 'After: '] };

function diffLine(sign, ...content) {
  const [name, mark, spoken] = SIGNS[sign];
  return el('div', { class: `line ${name}` }, el('span', { class: 'sign', 'aria-hidden': 'true' }, mark), el('span', { class: 'offscreen' }, spoken), el('span', { class: 'code' }, ...content));
}

function side(sign, value, before, after) {
  if (value === undefined) return diffLine(sign, el('span', { class: 'none' }, 'not set'));
  if (isObject(value)) return diffLine(sign, whole(stringify(value, 2)));
  // Two texts: only what differs between their common beginning and end is marked.
  if ([before, after].every((text) => typeof text === 'string' && text[0] !== EXACT && text.length <= SHOWN_CHARACTERS)) {
    const [a, b] = [[...before], [...after]];
    let head = 0;
    while (head < Math.min(a.length, b.length) && a[head] === b[head]) head++;
    let tail = 0;
    while (tail < Math.min(a.length, b.length) - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const own = sign === '-' ? a : b;
    if (head + tail > 2 && own.length > head + tail) {
      const middle = el(sign === '-' ? 'del' : 'ins', {}, shown(own.slice(head, own.length - tail).join('')));
      return diffLine(sign, shown(own.slice(0, head).join('')), middle, shown(own.slice(own.length - tail).join('')));
    }
  }
  return diffLine(sign, scalar(value));
}

function change(item) {
  if (!isObject(item)) return el('div', { class: 'change' }, scalar(item ?? null));
  const [before, after] = [get(item, 'before'), get(item, 'after')];
  const title = el('h4', { class: 'field' }, shown(plain(get(item, 'field')) ?? '(hidden)'));
  if (!isObject(before) || !isObject(after)) {
    return el('div', { class: 'change' }, title, el('div', { class: 'diff' }, side('-', before, before, after), side('+', after, before, after)));
  }
  const diff = el('div', { class: 'diff' });
  // Without the commas that end lines: one that only became the last but one would count as changed.
  const [was, is] = [before, after].map((value) => stringify(value, 2).replace(/,$/gm, ''));
  const lines = lineDiff(was, is);
  for (let at = 0; at < lines.length; at++) {
    let end = at;
    while (end < lines.length && lines[end][0] === ' ') end++;
    if (end - at > 6) {
      for (const [sign, line] of lines.slice(at, at + 2)) diff.append(diffLine(sign, shown(line)));
      diff.append(el('div', { class: 'line skipped' }, `${end - at - 4} unchanged lines`));
      at = end - 2;
    }
    if (diff.childElementCount > 400) {
      diff.append(el('div', { class: 'line skipped' }, 'The rest is too long to show; copy the event as JSON.'));
      break;
    }
    diff.append(diffLine(lines[at][0], shown(lines[at][1])));
  }
  return el('div', { class: 'change' }, title, diff);
}

// -- the element ------------------------------------------------------------------------------------------------------

const FILTERS = [
  { name: 'category', label: 'Category', choices: CATEGORIES },
  { name: 'action', label: 'Action', hint: 'user.* matches any', most: 128 },
  { name: 'actor_id', label: 'Actor ID', most: 256 },
  { name: 'target_type', label: 'Target type', most: 128 },
  { name: 'target_id', label: 'Target ID', most: 256 },
  { name: 'start_date', label: 'From', day: true },
  { name: 'end_date', label: 'To', day: true },
];

class LogStitchViewer extends HTMLElement {
  static observedAttributes = ['token', 'base-url'];

  #root = this.attachShadow({ mode: 'open' });
  #token = '';
  #parts = {};
  #inputs = {};
  #events = []; // newest first
  #rows = new Map(); // by id
  #pending = new Map(); // events that live tail has found and nobody has asked for yet
  #gap = false; // there are more of them than one page
  #cursor = null;
  #phase = 'idle'; // idle, loading, ready, more, failed
  #work = new AbortController(); // of the list
  #export = null; // of the download
  #due = 0;
  #typing = 0;
  #live = { on: false, timer: 0, failures: 0, asking: false };
  #open = null; // the event in the drawer
  #from = null; // where focus goes when it closes
  #seen = null;

  constructor() {
    super();
    this.#root.adoptedStyleSheets = [sheet()];
    this.#root.append(this.#frame());
    this.#seen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.#more(), {
      root: this.#parts.scroller,
      rootMargin: '400px',
    });
  }

  get token() {
    return this.#token;
  }

  set token(value) {
    this.#token = String(value ?? '').trim();
    this.#soon();
  }

  get baseUrl() {
    return this.getAttribute('base-url') || HERE;
  }

  set baseUrl(value) {
    this.setAttribute('base-url', value);
  }

  get theme() {
    const theme = this.getAttribute('theme');
    return theme === 'light' || theme === 'dark' ? theme : 'auto';
  }

  set theme(value) {
    this.setAttribute('theme', value);
  }

  connectedCallback() {
    for (const name of ['token', 'baseUrl', 'theme']) {
      // Set before this class was there: then it is a plain property that hides the real one.
      if (Object.hasOwn(this, name)) {
        const value = this[name];
        delete this[name];
        this[name] = value;
      }
    }
    document.addEventListener('visibilitychange', this.#visibility);
    this.#soon();
  }

  disconnectedCallback() {
    document.removeEventListener('visibilitychange', this.#visibility);
    this.#stop();
    this.#goLive(false);
    this.#export?.abort();
    clearTimeout(this.#typing);
  }

  attributeChangedCallback(name, before, value) {
    if (before === value) return;
    if (name === 'token') this.token = value;
    else this.#soon();
  }

  /** The first page again, with the filters as they are. */
  reload() {
    this.#soon();
  }

  /** Opens one event, whether it is in the list or not. Answers when it is open, or why it cannot be. */
  async show(id) {
    const event = this.#events.find((known) => known.id === id) ?? (await this.#find(id, this.#work.signal));
    this.#openDrawer(event);
  }

  // -- frame ----------------------------------------------------------------------------------------------------------

  #frame() {
    const parts = this.#parts;
    const search = el('input', { type: 'search', id: 'search', maxlength: '512', placeholder: 'Search events', 'aria-label': 'Search events', autocomplete: 'off', spellcheck: 'false' });
    this.#inputs.search = search;
    parts.filtersButton = button('Filters', () => this.#toggleFilters(), { glyph: 'filter', 'aria-expanded': 'false', 'aria-controls': 'filters', part: 'filters-button' });
    parts.filterCount = el('span', { class: 'badge', hidden: true });
    parts.filtersButton.append(parts.filterCount);
    parts.liveButton = button('Live', () => this.#goLive(!this.#live.on), { 'aria-pressed': 'false', title: `Look for new events every ${LIVE_SECONDS} seconds`, class: 'button live' });
    parts.liveButton.prepend(el('span', { class: 'dot', 'aria-hidden': 'true' }));
    const bar = el('div', { class: 'bar', role: 'search', 'aria-label': 'Events' },
      el('div', { class: 'search' }, icon('search'), search),
      parts.filtersButton,
      parts.liveButton,
      button('Reload', () => this.#load(), { glyph: 'reload', quiet: true }));

    parts.filters = el('div', { class: 'filters', id: 'filters', hidden: true });
    for (const filter of FILTERS) {
      const id = `filter-${filter.name}`;
      const input = filter.choices
        ? el('select', { id }, el('option', { value: '' }, 'Any'), filter.choices.map((choice) => el('option', { value: choice }, choice)))
        : el('input', { id, type: filter.day ? 'date' : 'text', placeholder: filter.hint, maxlength: filter.most, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' });
      this.#inputs[filter.name] = input;
      parts.filters.append(el('div', { class: 'filter' }, el('label', { for: id }, filter.label), input));
    }
    for (const [name, input] of Object.entries(this.#inputs)) {
      const typed = input.type === 'text' || name === 'search';
      input.addEventListener('input', () => this.#changed(typed ? TYPING_MS : 0));
      if (typed) input.addEventListener('keydown', (event) => event.key === 'Enter' && !event.isComposing && this.#changed(0));
    }
    parts.chips = el('div', { class: 'chips', role: 'group', 'aria-label': 'Active filters', hidden: true });

    const head = (name, label) => el('div', { role: 'columnheader', class: `cell ${name}` }, label);
    parts.body = el('div', { role: 'rowgroup', class: 'rows', onkeydown: (event) => this.#rowKey(event), onclick: (event) => this.#rowClick(event), onfocusin: (event) => this.#rove(event.target.closest('.row')) });
    parts.grid = el('div', { role: 'grid', class: 'grid', 'aria-label': 'Events, newest first', 'aria-rowcount': '-1', 'aria-readonly': 'true' },
      el('div', { role: 'rowgroup', class: 'head' },
        el('div', { role: 'row', class: 'headers', 'aria-rowindex': '1' },
          head('when', 'Time'), head('what', 'Action'), head('who', 'Actor'), head('which', 'Target'), head('kind', 'Category'), head('where', 'IP address'))),
      parts.body);
    parts.note = el('div', { class: 'note' });
    parts.end = el('div', { class: 'end' });
    parts.scroller = el('div', { class: 'scroller', part: 'table' }, parts.grid, parts.note, parts.end);
    parts.fresh = el('button', { type: 'button', class: 'fresh', hidden: true, onclick: () => this.#takePending(true) });

    parts.count = el('span', { class: 'count' });
    parts.progress = el('span', { class: 'progress', hidden: true });
    parts.csv = button('CSV', () => this.#download('csv'), { glyph: 'save', 'aria-label': 'Download what is filtered as CSV', class: 'button small' });
    parts.ndjson = button('NDJSON', () => this.#download('ndjson'), { glyph: 'save', 'aria-label': 'Download what is filtered as NDJSON', class: 'button small' });
    parts.status = el('div', { role: 'status', class: 'offscreen' });
    parts.drawer = el('dialog', { class: 'drawer', 'aria-labelledby': 'drawer-title', part: 'drawer',
      onclick: (event) => event.target === parts.drawer && parts.drawer.close(),
      onclose: () => this.#closed(), onkeydown: (event) => this.#drawerKey(event) });
    return el('div', { class: 'frame' }, bar, parts.filters, parts.chips,
      el('div', { class: 'main' }, parts.scroller, parts.fresh),
      el('div', { class: 'foot' }, parts.count, parts.progress, el('span', { class: 'downloads' }, parts.csv, parts.ndjson)),
      parts.status, parts.drawer);
  }

  #say(text) {
    this.#parts.status.textContent = text;
  }

  // -- filters --------------------------------------------------------------------------------------------------------

  #toggleFilters(open = this.#parts.filters.hidden) {
    this.#parts.filters.hidden = !open;
    this.#parts.filtersButton.setAttribute('aria-expanded', String(open));
  }

  #changed(wait) {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.#load(), wait);
  }

  #query() {
    const query = {};
    for (const [name, input] of Object.entries(this.#inputs)) {
      const value = input.value.trim();
      if (value) query[name] = value;
    }
    return query;
  }

  // Whether one event is looked up, by its id.
  #single() {
    return EVENT_ID.test(this.#query().search ?? '');
  }

  #filterBy(name, value) {
    this.#inputs[name].value = value;
    this.#parts.drawer.close();
    this.#load();
    this.#parts.chips.querySelector('button')?.focus();
  }

  #showChips(query) {
    const parts = this.#parts;
    const active = FILTERS.filter((filter) => query[filter.name]);
    parts.filterCount.textContent = active.length;
    parts.filterCount.hidden = !active.length;
    const clear = (names) => () => {
      for (const name of names) this.#inputs[name].value = '';
      this.#load();
      (parts.chips.querySelector('button') ?? parts.filtersButton).focus();
    };
    parts.chips.hidden = !active.length;
    parts.chips.replaceChildren(...active.map((filter) =>
      el('button', { type: 'button', class: 'chip', onclick: clear([filter.name]), title: 'Remove this filter' },
        el('span', { class: 'offscreen' }, 'Remove the filter'), el('span', { class: 'name' }, filter.label), el('span', { class: 'value' }, shown(query[filter.name], 60)), icon('close'))));
    if (active.length > 1) parts.chips.append(button('Clear all', clear(active.map((filter) => filter.name)), { class: 'link' }));
  }

  #url(path = '', query = {}) {
    let base;
    try {
      base = new URL(this.baseUrl, document.baseURI);
    } catch (error) {
      throw new Failure('failed', 'The attribute base-url is not an address.');
    }
    if (!/^https?:$/.test(base.protocol)) throw new Failure('failed', 'The attribute base-url is not an http address.');
    const url = new URL(`${base.origin}${base.pathname.replace(/\/+$/, '')}/api/v1/events${path}`);
    for (const [name, value] of Object.entries(query)) {
      const { day } = FILTERS.find((filter) => filter.name === name) ?? {};
      url.searchParams.set(name, day ? boundary(value, name === 'end_date') : value);
    }
    return url.href;
  }

  // -- loading --------------------------------------------------------------------------------------------------------

  // Several attributes that change together are one reload.
  #soon() {
    if (!this.isConnected) return;
    const due = ++this.#due;
    queueMicrotask(() => due === this.#due && this.isConnected && this.#load());
  }

  #stop() {
    this.#work.abort();
    this.#work = new AbortController();
    return this.#work.signal;
  }

  async #load() {
    clearTimeout(this.#typing);
    const signal = this.#stop();
    const query = this.#query();
    this.#export?.abort();
    this.#parts.drawer.close();
    this.#showChips(query);
    this.#clear();
    if (!this.#token) {
      this.#phase = 'idle';
      this.#note('Waiting for access', 'Events appear here as soon as this page has a token.');
      return;
    }
    this.#phase = 'loading';
    this.#skeleton();
    this.#say('Loading events');
    try {
      if (this.#single()) await this.#one(query.search, signal);
      else await this.#page(query, signal);
      if (!this.#live.timer) this.#planPoll();
    } catch (error) {
      this.#fail(error, signal);
    }
  }

  async #one(id, signal) {
    let found = [];
    try {
      found = [await this.#find(id, signal)];
    } catch (error) {
      if (error.kind !== 'missing') throw error;
    }
    signal.throwIfAborted();
    this.#cursor = null;
    this.#append(found);
  }

  async #find(id, signal) {
    const event = await askPatiently(this.#url(`/${encodeURIComponent(id)}`), this.#token, signal);
    delete event.request_id; // of the answer
    return event;
  }

  async #page(query, signal) {
    for (let asked = 0; ; asked++) {
      const cursor = this.#cursor ? { cursor: this.#cursor } : {};
      const body = await askPatiently(this.#url('', { ...query, limit: PAGE, ...cursor }), this.#token, signal);
      signal.throwIfAborted();
      this.#cursor = get(body, 'has_more') ? body.cursor : null;
      const events = Array.isArray(get(body, 'events')) ? body.events : [];
      if (events.length || !this.#cursor || asked === EMPTY_PAGES) {
        this.#append(events);
        return;
      }
    }
  }

  async #more() {
    if (this.#phase !== 'ready' || !this.#cursor) return;
    this.#phase = 'more';
    this.#parts.end.replaceChildren(el('span', { class: 'soft' }, 'Loading more…'));
    const { signal } = this.#work;
    try {
      await this.#page(this.#query(), signal);
    } catch (error) {
      this.#fail(error, signal);
    }
  }

  #fail(error, signal) {
    if (signal.aborted) return;
    const failure = error instanceof Failure ? error : new Failure('failed', 'Something in this view failed.');
    const whole = this.#phase !== 'more';
    this.#phase = 'failed';
    this.#parts.grid.removeAttribute('aria-busy');
    if (failure.kind === 'expired') {
      this.#expired(failure);
      return;
    }
    const again = button('Try again', () => {
      if (whole) {
        this.#load();
      } else {
        this.#phase = 'ready';
        this.#more();
      }
    });
    if (!whole) {
      this.#say(failure.message);
      this.#parts.end.replaceChildren(el('span', { class: 'soft' }, 'More events could not be loaded. '), again);
      return;
    }
    const titles = { invalid: 'This search cannot be run', refused: 'No access to these events', busy: 'The service is busy', offline: 'The service cannot be reached' };
    const lines = failure.details.slice(0, 5).map((detail) => {
      const name = plain(get(detail, 'field')) ?? '';
      return `${FILTERS.find((filter) => filter.name === name)?.label ?? name}: ${plain(get(detail, 'message')) ?? ''}`;
    });
    const texts = { busy: 'It did not answer in time. Nothing is lost.', offline: 'Check the connection, and try again.' };
    this.#note(titles[failure.kind] ?? 'Events could not be loaded', lines.length ? lines : texts[failure.kind] ?? failure.message, {
      bad: true, requestId: failure.requestId, action: ['invalid', 'refused'].includes(failure.kind) ? null : again });
  }

  #expired(failure) {
    this.#goLive(false);
    this.#parts.drawer.close();
    this.#clear();
    const titles = { key_revoked: 'Access was withdrawn', invalid_api_key: 'This token is not known' };
    this.#note(titles[failure.code] ?? 'Access has expired', 'Reload the page that shows this view, or ask for access again.', { bad: true });
    this.dispatchEvent(new CustomEvent('logstitch-token-expired', { bubbles: true, composed: true, detail: { code: failure.code, message: failure.message } }));
  }

  // -- what is shown --------------------------------------------------------------------------------------------------

  #clear() {
    this.#events = [];
    this.#rows.clear();
    this.#pending.clear();
    this.#gap = false;
    this.#cursor = null;
    const parts = this.#parts;
    parts.body.replaceChildren();
    parts.note.replaceChildren();
    parts.end.replaceChildren();
    parts.grid.removeAttribute('aria-busy');
    parts.scroller.scrollTop = 0;
    this.#seen.unobserve(parts.end);
    this.#showFresh();
    this.#foot();
  }

  #skeleton() {
    this.#parts.grid.setAttribute('aria-busy', 'true');
    this.#parts.note.replaceChildren(el('div', { class: 'skeleton', 'aria-hidden': 'true' },
      Array.from({ length: 9 }, (_, at) => el('div', { class: `bone b${at % 3}` }, el('span'), el('span'), el('span')))));
  }

  #note(title, lines, { bad = false, action = null, requestId = '' } = {}) {
    this.#say(`${title}. ${[lines].flat().join(' ')}`);
    this.#parts.note.replaceChildren(el('div', { class: bad ? 'message bad' : 'message' }, el('strong', {}, title),
      [lines].flat().map((line) => el('p', {}, shown(line, 300))), action, requestId ? el('p', { class: 'small' }, shown(requestId, 60)) : null));
    this.#foot();
  }

  #append(events) {
    const parts = this.#parts;
    const fresh = events.filter((event) => isObject(event) && typeof event.id === 'string' && !this.#rows.has(event.id));
    const rows = document.createDocumentFragment();
    for (const event of fresh) {
      this.#events.push(event);
      rows.append(this.#row(event, this.#events.length));
    }
    parts.body.append(rows);
    this.#settle();
    if (this.#events.length) {
      const sum = count(this.#events.length, 'event');
      this.#say(this.#cursor ? `${sum} loaded, there are more` : sum);
    }
  }

  // After rows have come: the states of everything that follows from them.
  #settle() {
    const parts = this.#parts;
    this.#phase = 'ready';
    parts.grid.removeAttribute('aria-busy');
    parts.grid.setAttribute('aria-rowcount', this.#cursor ? '-1' : String(this.#events.length + 1));
    parts.note.replaceChildren();
    parts.end.replaceChildren();
    this.#seen.unobserve(parts.end);
    if (this.#cursor) {
      parts.end.append(button('Load more', () => this.#more()));
      this.#seen.observe(parts.end); // observing anew asks at once whether it can be seen
    } else if (!this.#events.length) {
      const filtered = Object.keys(this.#query()).length > 0;
      this.#note(filtered ? 'No events match' : 'No events yet', filtered ? 'Try other words, or fewer filters.' : 'They appear here as soon as the first one is recorded.');
    } else {
      parts.end.append(el('span', { class: 'soft' }, 'No older events'));
    }
    if (this.#events.length && !parts.body.querySelector('.row[tabindex="0"]')) parts.body.firstElementChild.tabIndex = 0;
    this.#foot();
  }

  #foot() {
    const parts = this.#parts;
    const here = this.#events.length;
    parts.count.replaceChildren(here ? `${count(here, 'event')}${this.#cursor ? ' so far' : ''}` : '', here ? el('span', { class: 'zone' }, ` · times in ${ZONE}`) : '');
    parts.csv.disabled = parts.ndjson.disabled = !here || this.#export !== null;
    parts.csv.hidden = this.#single();
  }

  #row(event, index) {
    const cell = (name, ...content) => el('div', { role: 'gridcell', class: `cell ${name}` }, ...content);
    const [actor, target] = [get(event, 'actor'), get(event, 'target')];
    const action = plain(get(event, 'action')) ?? '(hidden)';
    const category = plain(get(event, 'category'));
    const row = el('div', { role: 'row', class: 'row', tabindex: '-1', 'aria-rowindex': index + 1 },
      cell('when', time(get(event, 'occurred_at'))),
      cell('what', el('button', { type: 'button', tabindex: '-1', class: 'action', 'aria-haspopup': 'dialog' }, shown(action, 128))),
      cell('who', ...party(actor, 'email')),
      cell('which', ...party(target, 'type')),
      cell('kind', category ? el('span', { class: `category ${CATEGORIES.includes(category) ? category : ''}` }, shown(category, 32)) : ''),
      cell('where', shown(plain(get(get(event, 'context'), 'ip_address')) ?? '', 64)));
    row.viewed = event;
    this.#rows.set(event.id, row);
    return row;
  }

  // -- rows by keyboard and pointer -----------------------------------------------------------------------------------

  #rove(row) {
    if (!row) return;
    this.#parts.body.querySelectorAll('.row[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    row.tabIndex = 0;
  }

  #rowKey(event) {
    const row = event.target.closest('.row');
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = this.#parts.body.children;
    const at = row.ariaRowIndex - 2;
    const page = Math.max(1, Math.floor(this.#parts.scroller.clientHeight / row.offsetHeight) - 2);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const next = rows[Math.max(0, Math.min(rows.length - 1, to))];
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: 'nearest' });
      if (to >= rows.length - 1) this.#more();
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.#openDrawer(row.viewed, row);
    }
  }

  #rowClick(event) {
    const row = event.target.closest('.row');
    if (row && !String(document.getSelection())) this.#openDrawer(row.viewed, row);
  }

  // -- drawer ---------------------------------------------------------------------------------------------------------

  #openDrawer(event, from = null) {
    const { drawer } = this.#parts;
    this.#from = from ?? this.#rows.get(event.id) ?? this.#root.activeElement;
    this.#open = event;
    drawer.replaceChildren(...this.#details(event));
    if (!drawer.open) drawer.showModal();
    drawer.querySelector('.close').focus();
  }

  #closed() {
    this.#open = null;
    this.#parts.drawer.replaceChildren();
    const row = this.#from;
    this.#from = null;
    if (row?.isConnected) {
      row.focus({ preventScroll: true });
      row.scrollIntoView({ block: 'nearest' });
    }
  }

  #step(by) {
    const at = this.#events.indexOf(this.#open);
    const next = this.#events[at + by];
    if (at < 0 || !next) return;
    this.#openDrawer(next);
    this.#rove(this.#from);
    if (at + by >= this.#events.length - 2) this.#more();
  }

  #drawerKey(event) {
    const { drawer } = this.#parts;
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step && event.altKey) {
      event.preventDefault();
      this.#step(step);
    } else if (event.key === 'Tab') {
      // A modal dialog keeps focus off the page, but lets it out to the browser's own buttons: here it goes round.
      const stops = [...drawer.querySelectorAll('button, summary, [tabindex="0"]')].filter((stop) => !stop.disabled && stop.checkVisibility());
      const [first, last] = [stops[0], stops.at(-1)];
      if (this.#root.activeElement === (event.shiftKey ? first : last)) {
        event.preventDefault();
        (event.shiftKey ? last : first).focus();
      }
    }
  }

  #details(event) {
    const at = this.#events.indexOf(event);
    const fields = (...pairs) => el('dl', { class: 'fields' }, pairs.filter(([, value]) => value !== undefined && value !== null).map(([name, value, filter]) => {
      const narrow = filter && value !== '' ? button('Only these', () => this.#filterBy(filter, value), { class: 'link only', title: `Only events with this ${name.toLowerCase()}`, 'aria-label': `Only these: events with this ${name.toLowerCase()}` }) : null;
      return el('div', {}, el('dt', {}, name), el('dd', {}, typeof value === 'string' ? whole(value) : value, narrow));
    }));
    const section = (title, ...content) => el('section', {}, el('h3', {}, title), ...content);
    const person = (title, value, prefix) => {
      if (value === undefined) return null;
      if (!isObject(value)) return section(title, scalar(value));
      return section(title, fields(['Name', plain(get(value, 'name'))], ['Email', plain(get(value, 'email'))], ['Type', plain(get(value, 'type')), prefix === 'target' ? 'target_type' : null], ['ID', plain(get(value, 'id')), `${prefix}_id`]));
    };
    const [context, changes, metadata, redactions] = ['context', 'changes', 'metadata', 'redactions'].map((name) => get(event, name));
    const known = { ip_address: 'IP address', location: 'Location', session_id: 'Session', user_agent: 'User agent' };
    const done = el('span', { class: 'soft', role: 'status' });
    const copyButton = button('Copy as JSON', async () => {
      const copied = await copy(stringify(event, 2), this.#root);
      done.textContent = copied ? 'Copied' : 'This browser does not allow copying.';
      setTimeout(() => (done.textContent = ''), 4000);
    }, { glyph: 'copy' });
    return [
      el('header', {},
        el('div', { class: 'title' }, el('h2', { id: 'drawer-title' }, shown(plain(get(event, 'action')) ?? '(hidden)', 128)), el('p', {}, time(get(event, 'occurred_at'), LONG))),
        button('Newer event (Alt+↑)', () => this.#step(-1), { glyph: 'up', quiet: true, disabled: at < 1 }),
        button('Older event (Alt+↓)', () => this.#step(1), { glyph: 'down', quiet: true, disabled: at < 0 || at === this.#events.length - 1 }),
        button('Close', () => this.#parts.drawer.close(), { glyph: 'close', quiet: true, class: 'button quiet close' })),
      el('div', { class: 'content', tabindex: '0', role: 'group', 'aria-label': 'Event' },
        changes === undefined ? null : section('Changes', Array.isArray(changes) ? (changes.length ? changes.map(change) : el('p', { class: 'soft' }, 'None')) : scalar(changes)),
        person('Actor', get(event, 'actor'), 'actor'),
        person('Target', get(event, 'target'), 'target'),
        context === undefined ? null : section('Context', isObject(context) ? fields(...Object.entries(known).map(([name, label]) => [label, plain(get(context, name))])) : scalar(context)),
        metadata === undefined ? null : section('Metadata', tree(metadata)),
        Array.isArray(redactions) && redactions.length ? section('Redacted', fields(...redactions.map((one) => [plain(get(one, 'field')) ?? '', Array.isArray(get(one, 'rules')) ? one.rules.map(plain).join(', ') : '']))) : null,
        section('Event', fields(['Category', plain(get(event, 'category')), 'category'], ['Action', plain(get(event, 'action')), 'action'], ['Tenant', plain(get(event, 'tenant_id'))], ['Occurred', plain(get(event, 'occurred_at'))],
          ['Received', plain(get(event, 'received_at'))], ['ID', plain(get(event, 'id'))], ['Idempotency key', plain(get(event, 'idempotency_key'))], ['Content hash', plain(get(event, 'content_hash'))]))),
      el('footer', {}, copyButton, done),
    ];
  }

  // -- live tail ------------------------------------------------------------------------------------------------------

  #visibility = () => {
    if (document.hidden) {
      clearTimeout(this.#live.timer);
      this.#live.timer = 0;
    } else if (this.#live.on && !this.#live.timer) {
      this.#poll();
    }
  };

  #goLive(on) {
    const live = this.#live;
    if (live.on === on) return;
    live.on = on;
    live.failures = 0;
    this.#parts.liveButton.setAttribute('aria-pressed', String(on));
    this.#parts.liveButton.classList.remove('troubled');
    clearTimeout(live.timer);
    live.timer = 0;
    this.#say(on ? 'Live: new events are announced' : 'Live is off');
    if (on) this.#poll();
  }

  #planPoll(seconds = LIVE_SECONDS) {
    const live = this.#live;
    clearTimeout(live.timer);
    live.timer = live.on && !document.hidden ? setTimeout(() => this.#poll(), seconds * 1000) : 0;
  }

  async #poll() {
    const live = this.#live;
    live.timer = 0;
    if (!live.on || live.asking || document.hidden) return;
    const { signal } = this.#work;
    const query = this.#query();
    if (!['ready', 'more'].includes(this.#phase) || this.#single()) {
      this.#planPoll();
      return;
    }
    live.asking = true;
    let wait = LIVE_SECONDS;
    try {
      const body = await ask(this.#url('', { ...query, limit: 100 }), this.#token, signal);
      signal.throwIfAborted();
      live.failures = 0;
      this.#parts.liveButton.classList.remove('troubled');
      this.#found(Array.isArray(get(body, 'events')) ? body.events : [], Boolean(get(body, 'has_more')));
    } catch (error) {
      if (!signal.aborted) {
        if (error.kind === 'expired') {
          live.asking = false;
          this.#stop();
          this.#phase = 'failed';
          this.#expired(error);
          return;
        }
        wait = Math.max(error.retryAfter ?? 0, Math.min(LIVE_SECONDS_MOST, LIVE_SECONDS * 2 ** ++live.failures));
        this.#parts.liveButton.classList.add('troubled');
        if (live.failures === 1) this.#say('Live: the service does not answer; still trying');
      }
    }
    live.asking = false;
    this.#planPoll(wait);
  }

  #found(events, hasMore) {
    const oldest = this.#events.at(-1);
    const fresh = events.filter((event) => isObject(event) && typeof event.id === 'string' && !this.#rows.has(event.id)
      && !(this.#cursor && oldest && newer(oldest, event))); // older ones come by paging
    const before = this.#pending.size;
    for (const event of fresh) this.#pending.set(event.id, event);
    this.#gap ||= hasMore && fresh.length === events.length && this.#events.length > 0;
    if (this.#pending.size === before && !this.#gap) return;
    const { body, scroller, drawer } = this.#parts;
    // A list that nobody is reading or pointing at may grow by itself; any other must not move under the reader.
    const idle = scroller.scrollTop === 0 && !drawer.open && !body.matches(':hover') && !body.contains(this.#root.activeElement);
    if (!this.#gap && (idle || !this.#events.length)) this.#takePending(false);
    else {
      this.#showFresh();
      if (this.#pending.size > before) this.#say(`${this.#freshText()} above the list`);
    }
  }

  #freshText() {
    return this.#gap ? 'Many new events' : count(this.#pending.size, 'new event');
  }

  #showFresh() {
    const { fresh } = this.#parts;
    fresh.hidden = !this.#pending.size && !this.#gap;
    fresh.textContent = fresh.hidden ? '' : `↑ ${this.#freshText()}`;
  }

  #takePending(asked) {
    const parts = this.#parts;
    if (this.#gap) {
      this.#load();
      this.#inputs.search.focus();
      return;
    }
    const top = [...this.#pending.values()].sort((a, b) => (newer(a, b) ? -1 : 1));
    this.#pending.clear();
    for (const event of top) {
      let [low, high] = [0, this.#events.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (newer(event, this.#events[middle])) high = middle;
        else low = middle + 1;
      }
      const row = this.#row(event, 0);
      row.classList.add('arrived');
      parts.body.insertBefore(row, this.#rows.get(this.#events[low]?.id) ?? null);
      this.#events.splice(low, 0, event);
    }
    [...parts.body.children].forEach((row, at) => row.setAttribute('aria-rowindex', at + 2));
    const phase = this.#phase;
    this.#settle();
    if (phase === 'more') this.#phase = phase; // a page is on its way
    this.#showFresh();
    this.#say(count(top.length, 'new event'));
    if (asked) {
      parts.scroller.scrollTop = 0;
      this.#rows.get(top[0]?.id)?.focus({ preventScroll: true });
    }
  }

  // -- download -------------------------------------------------------------------------------------------------------

  async #download(format) {
    if (this.#export) return;
    const { progress } = this.#parts;
    const work = (this.#export = new AbortController());
    const query = this.#query();
    const bar = el('progress', { max: DOWNLOAD_EVENTS, 'aria-label': 'Download' });
    const told = el('span');
    const say = (text, ...more) => {
      progress.replaceChildren(el('span', {}, text), ...more);
      progress.hidden = false;
      this.#say(text);
    };
    progress.replaceChildren(bar, told, button('Cancel', () => work.abort(), { class: 'link' }));
    progress.hidden = false;
    this.#foot();
    try {
      let saved;
      if (this.#single()) { // which the export cannot be asked for
        saved = { file: new Blob(this.#events.map((event) => `${stringify(event)}\n`), { type: FORMATS[format].type }), events: this.#events.length };
      } else {
        const url = this.#url('/export', { ...query, format, limit: DOWNLOAD_EVENTS + 1 }); // one more tells that there are more
        saved = await fetchExport(url, this.#token, format, work.signal, (events) => {
          bar.value = events;
          told.textContent = count(events, 'event');
        });
      }
      work.signal.throwIfAborted();
      save(saved.file, format, this.#root);
      say(saved.more ? `The newest ${count(saved.events, 'event')} saved; narrow the filters for older ones` : `${count(saved.events, 'event')} saved`);
    } catch (error) {
      if (work.signal.aborted) say('Download cancelled');
      else if (error.kind === 'expired') {
        progress.hidden = true;
        this.#stop();
        this.#phase = 'failed';
        this.#expired(error);
      } else say('The download failed', ' ', button('Try again', () => this.#download(format), { class: 'link' }));
    } finally {
      this.#export = null;
      this.#foot();
      setTimeout(() => this.#export === null && (progress.hidden = true), 8000);
    }
  }
}

// The list's order: by time, then by id, the newest first.
function newer(a, b) {
  return a.occurred_at !== b.occurred_at ? a.occurred_at > b.occurred_at : a.id > b.id;
}

// An actor or a target in a row: its name, and beside it what tells namesakes apart.
function party(section, second) {
  if (section === undefined) return [el('span', { class: 'none' }, '—')];
  if (!isObject(section)) return [shown(plain(section) ?? '', 128)];
  const name = plain(get(section, 'name')) ?? plain(get(section, 'id')) ?? '—';
  const beside = plain(get(section, second)) ?? (get(section, 'name') === undefined ? undefined : plain(get(section, 'id')));
  return [el('span', { class: 'primary' }, shown(name, 128)), beside === undefined ? '' : el('span', { class: 'secondary' }, shown(beside, 128))];
}

// -- styles -----------------------------------------------------------------------------------------------------------

const STYLES = `
:host { display: block; block-size: var(--logstitch-height, 640px); color-scheme: light dark; }
:host([hidden]) { display: none; }
:host([theme="light"]) { color-scheme: light; }
:host([theme="dark"]) { color-scheme: dark; }
[hidden] { display: none !important; }
*, ::before, ::after { box-sizing: border-box; }
.frame {
  --paper: var(--logstitch-background, light-dark(#fff, #14181e));
  --tint: var(--logstitch-surface, light-dark(#f6f8fa, #1b2129));
  --ink: var(--logstitch-text, light-dark(#1c2430, #e4e8ee));
  --soft: var(--logstitch-muted, light-dark(#566273, #a0abb9));
  --line: var(--logstitch-border, light-dark(#dfe4ea, #2d3540));
  --accent: var(--logstitch-accent, light-dark(#0a58ca, #7db4ff));
  --on-accent: var(--logstitch-accent-text, light-dark(#fff, #0c1524));
  --plus: var(--logstitch-added, light-dark(#0d5226, #8fe0ab));
  --plus-paper: var(--logstitch-added-background, light-dark(#e7f5ec, #14291d));
  --minus: var(--logstitch-removed, light-dark(#8a2114, #ffb0a4));
  --minus-paper: var(--logstitch-removed-background, light-dark(#fdeeec, #331c1a));
  --mono: var(--logstitch-font-mono, ui-monospace, "SFMono-Regular", "Cascadia Mono", "Segoe UI Mono", "DejaVu Sans Mono", monospace);
  --round: var(--logstitch-radius, 8px);
  container: viewer / inline-size;
  display: flex; flex-direction: column; block-size: 100%; overflow: hidden; position: relative;
  border: 1px solid var(--line); border-radius: var(--round); background: var(--paper); color: var(--ink);
  font: 14px/1.45 var(--logstitch-font, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif);
  text-align: start; -webkit-text-size-adjust: 100%;
}
button, input, select { font: inherit; color: inherit; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.offscreen { position: absolute; inline-size: 1px; block-size: 1px; margin: -1px; padding: 0; border: 0; overflow: hidden; clip-path: inset(50%); white-space: pre; }
.icon { inline-size: 1rem; block-size: 1rem; flex: none; fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; }
.soft, .none { color: var(--soft); }
.none { font-style: italic; }
.unseen { margin-inline: 1px; padding: 0 3px; border: 1px solid var(--line); border-radius: 3px; background: var(--tint); color: var(--soft); font: 600 .75em/1.2 var(--mono); white-space: nowrap; }

.button { display: inline-flex; align-items: center; justify-content: center; gap: 6px; min-block-size: 34px; padding: 0 12px; border: 1px solid var(--line); border-radius: 6px; background: var(--paper); cursor: pointer; white-space: nowrap; }
.button:hover:not(:disabled) { background: var(--tint); }
.button:disabled { color: var(--soft); opacity: .55; cursor: default; }
.button.quiet { inline-size: 34px; padding: 0; border-color: transparent; background: none; flex: none; }
.button.small { min-block-size: 28px; padding: 0 8px; font-size: 12px; }
.button.small .icon { inline-size: 13px; block-size: 13px; }
.link { min-block-size: 24px; padding: 0 2px; border: 0; background: none; color: var(--accent); cursor: pointer; font-size: 12.5px; text-underline-offset: 2px; }
.link:hover { text-decoration: underline; }
.badge { min-inline-size: 18px; padding: 0 5px; border-radius: 9px; background: var(--accent); color: var(--on-accent); font-size: 11px; line-height: 18px; font-weight: 600; text-align: center; }
.live .dot { inline-size: 8px; block-size: 8px; border-radius: 50%; border: 1.5px solid var(--soft); }
.live[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); }
.live[aria-pressed="true"] .dot { border-color: var(--accent); background: var(--accent); animation: pulse 2s infinite; }
.live.troubled .dot { border-color: var(--minus); background: var(--minus); animation: none; }
@keyframes pulse { 50% { opacity: .35; } }

.bar { display: flex; gap: 8px; padding: 10px 12px; border-block-end: 1px solid var(--line); }
.search { position: relative; flex: 1; min-inline-size: 0; }
.search .icon { position: absolute; inset-inline-start: 10px; inset-block-start: 9px; color: var(--soft); }
input, select { inline-size: 100%; min-block-size: 34px; padding: 0 10px; border: 1px solid light-dark(#8a94a3, #5b6675); border-radius: 6px; background: var(--paper); }
.search input { padding-inline-start: 32px; }
::placeholder { color: var(--soft); opacity: 1; }
.filters { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px 10px; padding: 10px 12px 12px; border-block-end: 1px solid var(--line); background: var(--tint); }
.filter label { display: block; margin-block-end: 3px; color: var(--soft); font-size: 12px; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; padding: 8px 12px; border-block-end: 1px solid var(--line); }
.chip { display: inline-flex; align-items: center; gap: 6px; min-inline-size: 0; max-inline-size: 100%; min-block-size: 26px; padding: 0 8px; border: 1px solid var(--line); border-radius: 13px; background: var(--tint); cursor: pointer; font-size: 12.5px; }
.chip .name { color: var(--soft); flex: none; }
.chip .value { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.chip .icon { inline-size: 10px; block-size: 10px; color: var(--soft); }
.chip:hover { border-color: var(--soft); }

.main { position: relative; flex: 1; min-block-size: 0; }
.scroller { block-size: 100%; overflow: hidden auto; overscroll-behavior: contain; scrollbar-width: thin; scrollbar-color: var(--soft) transparent; }
.head { position: sticky; inset-block-start: 0; z-index: 1; background: var(--tint); border-block-end: 1px solid var(--line); }
.headers, .row { display: grid; grid-template-columns: 10.25rem minmax(0, 1.35fr) minmax(0, 1.35fr) minmax(0, 1.2fr) 6.5rem; gap: 0 16px; align-items: center; padding: 0 14px; }
.headers { min-block-size: 32px; color: var(--soft); font-size: 12px; font-weight: 600; }
.row { min-block-size: 40px; border-block-end: 1px solid var(--line); cursor: pointer; content-visibility: auto; contain-intrinsic-block-size: auto 40px; }
.row:hover { background: var(--tint); }
.row:focus { outline: 2px solid var(--accent); outline-offset: -2px; background: var(--tint); }
.row.arrived { animation: arrive 2.5s; }
@keyframes arrive { from { background: color-mix(in srgb, var(--accent) 18%, transparent); } }
.cell { min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.cell.where { display: none; }
.row .when { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.row .where { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.action { max-inline-size: 100%; min-block-size: 24px; padding: 0; border: 0; background: none; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font: 500 13px/1.45 var(--mono); cursor: pointer; vertical-align: middle; }
.secondary { margin-inline-start: 8px; color: var(--soft); font-size: 13px; }
.category { color: var(--soft); font-size: 13px; }
.category::before { content: ""; display: inline-block; inline-size: 7px; block-size: 7px; margin-inline-end: 7px; border-radius: 50%; background: var(--soft); vertical-align: 1px; }
.category.auth::before { background: #2f7de1; }
.category.access::before { background: #1d9a8a; }
.category.mutation::before { background: #c98a12; }
.category.admin::before { background: #8a5cf0; }
.category.security::before { background: #d6452f; }
.category.system::before { background: #7b8794; }
.fresh { position: absolute; inset-block-start: 42px; inset-inline-start: 50%; z-index: 2; translate: -50% 0; padding: 6px 14px; border: 0; border-radius: 16px; background: var(--accent); color: var(--on-accent); font-size: 13px; font-weight: 600; box-shadow: 0 2px 10px rgb(0 0 0 / .25); cursor: pointer; white-space: nowrap; }
.end { display: flex; align-items: center; justify-content: center; gap: 10px; min-block-size: 52px; padding: 8px 14px; font-size: 13px; }
.end:empty { display: none; }
.message { display: grid; justify-items: center; gap: 6px; max-inline-size: 30rem; margin: 0 auto; padding: 72px 24px; text-align: center; }
.message strong { font-size: 15px; font-weight: 600; }
.message p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
.message .button { margin-block-start: 10px; }
.message .small { font: 11.5px/1.4 var(--mono); }
.bone { display: grid; grid-template-columns: 8rem 1fr 1fr; gap: 24px; align-items: center; block-size: 40px; padding: 0 14px; border-block-end: 1px solid var(--line); }
.bone span { block-size: 10px; border-radius: 5px; background: var(--line); animation: pulse 1.6s infinite; }
.bone.b1 span { inline-size: 70%; } .bone.b2 span { inline-size: 85%; }
.foot { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; min-block-size: 44px; padding: 6px 14px; border-block-start: 1px solid var(--line); color: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.downloads { display: flex; gap: 6px; margin-inline-start: auto; color: var(--ink); }
.progress { display: inline-flex; align-items: center; gap: 8px; }
progress { inline-size: 90px; accent-color: var(--accent); }

.drawer { position: fixed; inset: 0 0 0 auto; inline-size: min(520px, 100vw); block-size: 100dvh; max-inline-size: none; max-block-size: none; margin: 0; padding: 0; border: 0; border-inline-start: 1px solid var(--line); background: var(--paper); color: var(--ink); box-shadow: 0 0 40px rgb(0 0 0 / .25); overscroll-behavior: contain; }
.drawer[open] { display: flex; flex-direction: column; animation: slide .16s ease-out; }
@keyframes slide { from { transform: translateX(24px); opacity: 0; } }
.drawer::backdrop { background: rgb(10 14 20 / .38); }
.drawer header { display: flex; align-items: flex-start; gap: 2px; padding: 14px 10px 12px 20px; border-block-end: 1px solid var(--line); }
.drawer .title { flex: 1; min-inline-size: 0; padding-inline-end: 8px; }
.drawer h2 { margin: 0; font: 600 15px/1.5 var(--mono); overflow-wrap: anywhere; }
.drawer header p { margin: 2px 0 0; color: var(--soft); font-size: 13px; }
.drawer .content { flex: 1; overflow: auto; padding: 4px 20px 24px; outline-offset: -2px; overscroll-behavior: contain; }
.drawer footer { display: flex; align-items: center; gap: 12px; padding: 10px 20px; border-block-start: 1px solid var(--line); }
.drawer h3 { margin: 20px 0 8px; color: var(--soft); font-size: 12px; font-weight: 600; letter-spacing: .02em; }
.fields { margin: 0; }
.fields > div { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: 12px; padding: 3px 0; align-items: baseline; }
.fields dt { color: var(--soft); overflow-wrap: anywhere; }
.fields dd { margin: 0; overflow-wrap: anywhere; }
.only { margin-inline-start: 8px; padding: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.change + .change { margin-block-start: 14px; }
.field { margin: 0 0 5px; font: 600 13px/1.4 var(--mono); overflow-wrap: anywhere; }
.diff { overflow: hidden; border: 1px solid var(--line); border-radius: 6px; font: 12.5px/1.55 var(--mono); }
.line { display: grid; grid-template-columns: 22px minmax(0, 1fr); padding: 2px 8px 2px 0; }
.line .code { white-space: pre-wrap; overflow-wrap: anywhere; grid-column: 2; }
.sign { text-align: center; user-select: none; }
.removed { background: var(--minus-paper); color: var(--minus); }
.added { background: var(--plus-paper); color: var(--plus); }
.removed .none, .added .none, .removed .unseen, .added .unseen { color: inherit; }
.removed .link, .added .link { color: inherit; text-decoration: underline; }
.skipped { display: block; padding: 2px 22px; color: var(--soft); background: var(--tint); }
del, ins { border-radius: 2px; background: color-mix(in srgb, currentColor 16%, transparent); text-decoration: none; font-weight: 600; }
del { text-decoration: line-through; text-decoration-thickness: 1px; }
.tree { margin: 0; padding: 0; list-style: none; font: 12.5px/1.6 var(--mono); }
.tree .tree { margin-inline-start: 7px; padding-inline-start: 14px; border-inline-start: 1px solid var(--line); }
.tree li { overflow-wrap: anywhere; padding: 1px 0; }
.tree > li > .key { padding-inline-end: 6px; }
.key { color: var(--soft); }
.atom { color: var(--accent); }
.atom.none { color: var(--soft); font-style: normal; }
.size { color: var(--soft); }
summary { cursor: pointer; min-block-size: 22px; }

@container viewer (min-width: 1060px) {
  .headers, .row { grid-template-columns: 10.25rem minmax(0, 1.35fr) minmax(0, 1.45fr) minmax(0, 1.2fr) 6.5rem 8.5rem; }
  .cell.where { display: block; }
}
@container viewer (max-width: 680px) {
  .head { position: absolute; clip-path: inset(50%); inline-size: 1px; block-size: 1px; overflow: hidden; }
  .row { grid-template: "what when" auto "who kind" auto "which which" auto / minmax(0, 1fr) auto; gap: 1px 12px; padding: 9px 14px; contain-intrinsic-block-size: auto 82px; }
  .row .what { grid-area: what; } .row .when { grid-area: when; font-size: 12px; } .row .who { grid-area: who; } .row .kind { grid-area: kind; } .row .which { grid-area: which; color: var(--soft); font-size: 13px; }
  .row .which:has(.none) { display: none; }
  .row .which::before { content: "on "; }
  .filters { grid-template-columns: 1fr 1fr; max-block-size: 45%; overflow: auto; }
  .fields > div { grid-template-columns: 6.5rem minmax(0, 1fr); }
  .bar .button:not(.live) span:not(.badge) { position: absolute; clip-path: inset(50%); }
  .zone { display: none; }
  .fresh { inset-block-start: 10px; }
  input, select { font-size: 16px; }
}
@media (pointer: coarse) { .button, input, select { min-block-size: 40px; } .button.quiet { inline-size: 40px; } .search .icon { inset-block-start: 12px; } }
@media (prefers-reduced-motion: reduce) { *, ::before, ::after { animation: none !important; } }
@media (forced-colors: active) { .removed .sign, .added .sign { forced-color-adjust: none; } .category::before, .live .dot { forced-color-adjust: none; } }
`;

let shared;
function sheet() {
  if (!shared) {
    shared = new CSSStyleSheet();
    shared.replaceSync(STYLES);
  }
  return shared;
}

if (!customElements.get('logstitch-viewer')) customElements.define('logstitch-viewer', LogStitchViewer);

export { LogStitchViewer };
