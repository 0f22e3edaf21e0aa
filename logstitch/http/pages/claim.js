// The claim page: what has become of a stream, and a form that claims it for a project.
// Nothing is stored, and nothing is sent but to the service that this page came from.

const TOKEN = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;
const MASTER = /^mk_[A-Za-z0-9]{20,}$/;
const ANSWER_MS = 20_000;
const TYPING_MS = 250;
const PAGES = 20; // of 100 projects

const byId = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get('token')?.trim() ?? '';
const [key, project, form] = [byId('key'), byId('project'), byId('claim')];
const keyNote = byId('key-note').textContent;
let events = 0;
const uncertain = new Set(); // projects for which a claim was tried, and nobody knows whether it was made

class Failure extends Error {
  constructor(status, code, message, details = [], retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, details, retryAfter });
  }
}

async function ask(path, { signal, ...options } = {}) {
  const limit = AbortSignal.timeout(ANSWER_MS);
  let response;
  let body;
  try {
    response = await fetch(`api/v1/${path}`, { credentials: 'omit', referrerPolicy: 'no-referrer', cache: 'no-store', redirect: 'error', signal: signal ? AbortSignal.any([signal, limit]) : limit, ...options });
    body = await response.json();
  } catch (error) {
    signal?.throwIfAborted();
    throw new Failure(0, 'offline', 'The service cannot be reached. Check the connection, and try again.');
  }
  if (response.ok) return body;
  const { code = '', message = `The service answered ${response.status}.`, details = [] } = body?.error ?? {};
  throw new Failure(response.status, code, message, details, Number(response.headers.get('Retry-After')) || 0);
}

const plural = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? '' : 's'}`;

// -- the stream -------------------------------------------------------------------------------------------------------

const STATES = {
  active: ['Active', 'good', 'It can be claimed, and still takes events.'],
  claimed: ['Claimed', 'warn', 'Somebody has claimed this stream. Its events are in their project now; it cannot be claimed again.'],
  expired: ['Expired', 'bad', 'Nobody claimed this stream within its seven days. Its events have been removed.'],
  unknown: ['Unknown', 'bad', 'There is no stream of this token. One comes into being with its first event: if your application has just begun, try again in a moment.'],
  malformed: ['Not a token', 'bad', 'The address of this page has no token of a stream in it. Open the link that your application printed, whole.'],
  failed: ['Not available', 'bad', ''],
};

function show(state, explain = '') {
  const [label, tone, text] = STATES[state];
  const badge = byId('badge');
  badge.textContent = label;
  badge.className = `badge ${tone}`;
  byId('explain').textContent = explain || text;
  byId('stream').setAttribute('aria-busy', 'false');
  byId('stream').dataset.state = state;
  form.hidden = byId('command').hidden = state !== 'active';
  byId('again').hidden = !['unknown', 'failed'].includes(state);
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const RELATIVE = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto' });

function relative(moment) {
  const seconds = (moment - Date.now()) / 1000;
  const [unit, size] = [['day', 86_400], ['hour', 3600], ['minute', 60]].find(([, size]) => Math.abs(seconds) >= size) ?? ['second', 1];
  return RELATIVE.format(Math.round(seconds / size), unit);
}

function fact(name, text, moment) {
  const [box, term, value] = ['div', 'dt', 'dd'].map((tag) => document.createElement(tag));
  term.textContent = name;
  if (moment) {
    const [time, beside] = ['time', 'small'].map((tag) => document.createElement(tag));
    time.dateTime = text;
    time.title = `${text.replace('T', ' ').replace('Z', '')} UTC`;
    time.textContent = MOMENT.format(moment);
    beside.textContent = relative(moment);
    value.append(time, beside);
  } else value.textContent = text;
  box.append(term, value);
  return box;
}

function showFacts(info) {
  const facts = [fact('Events', Number(info.event_count ?? 0).toLocaleString())];
  const ends = info.status === 'claimed' ? ['Claimed', info.claimed_at] : [info.status === 'expired' ? 'Expired' : 'Expires', info.expires_at];
  for (const [name, text] of [['First event', info.created_at], ['Last event', info.last_event_at], ends]) {
    const moment = new Date(text);
    if (typeof text === 'string' && !Number.isNaN(moment.getTime())) facts.push(fact(name, text, moment));
  }
  byId('facts').replaceChildren(...facts);
  byId('facts').hidden = false;
}

async function look() {
  byId('again').hidden = byId('facts').hidden = true;
  if (!TOKEN.test(token)) {
    show('malformed');
    return;
  }
  byId('badge').textContent = 'Looking…';
  byId('badge').className = 'badge';
  byId('stream').setAttribute('aria-busy', 'true');
  try {
    const info = await ask(`streams/${token.toLowerCase()}/info`);
    events = Number(info.event_count) || 0;
    showFacts(info);
    show(['active', 'claimed', 'expired'].includes(info.status) ? info.status : 'failed');
    byId('submit').textContent = `Claim ${plural(events, 'event')}`;
  } catch (error) {
    if (error.code === 'stream_not_found') show('unknown');
    else if (error.code === 'validation_error') show('malformed');
    else show('failed', error.code === 'not_found' ? 'This service does not take streams.' : error.message);
  }
}

// -- the key and its projects -----------------------------------------------------------------------------------------

let typing = 0;
let listing = new AbortController();
let listed = ''; // the key whose projects are shown

function tell(field, text, bad) {
  const note = byId(`${field.id}-note`);
  note.textContent = text;
  note.classList.toggle('bad', bad);
  field.setAttribute('aria-invalid', String(bad));
}

function option(value, text) {
  const made = document.createElement('option');
  made.value = value;
  made.textContent = text;
  return made;
}

function noProjects(text) {
  listed = '';
  project.replaceChildren(option('', text));
  project.disabled = true;
  showCommand();
}

async function list() {
  listing.abort();
  listing = new AbortController();
  const { signal } = listing;
  const value = key.value.trim();
  byId('failure').textContent = '';
  if (!MASTER.test(value)) {
    noProjects('Give the master key first');
    if (value.startsWith('pk_')) tell(key, 'This is a project key. Claiming takes a master key (mk_…).', true);
    else tell(key, keyNote, false);
    return;
  }
  if (listed === value) return;
  noProjects('Looking for projects…');
  try {
    const found = [];
    for (let page = 0, cursor = ''; page < PAGES; page++) {
      const body = await ask(`projects?limit=100${cursor && `&cursor=${encodeURIComponent(cursor)}`}`, { signal, headers: { Authorization: `Bearer ${value}` } });
      found.push(...body.projects);
      if (!body.has_more) break;
      cursor = body.cursor;
    }
    signal.throwIfAborted();
    tell(key, keyNote, false);
    if (!found.length) {
      noProjects('This organization has no project');
      return;
    }
    const names = found.map(({ id, name }) => option(id, found.some((other) => other.name === name && other.id !== id) ? `${name} (${id.slice(0, 8)})` : name));
    project.replaceChildren(...(names.length > 1 ? [option('', 'Choose a project')] : []), ...names);
    project.disabled = false;
    listed = value;
    showCommand();
  } catch (error) {
    if (signal.aborted) return;
    noProjects('No projects');
    refuseKey(error);
  }
}

function refuseKey(error) {
  const texts = { key_revoked: 'This key was revoked.', forbidden: 'This key may not claim: it takes a master key (mk_…).' };
  tell(key, error.status === 401 || error.status === 403 ? texts[error.code] ?? 'This key is not known here.' : error.message, true);
}

key.addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(list, TYPING_MS);
});
project.addEventListener('change', () => {
  project.setAttribute('aria-invalid', 'false');
  showCommand();
});

// -- claiming ---------------------------------------------------------------------------------------------------------

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  clearTimeout(typing);
  const fail = (text, field) => {
    byId('failure').textContent = text;
    field?.setAttribute('aria-invalid', 'true');
    field?.focus();
  };
  byId('failure').textContent = '';
  await list();
  if (!listed) {
    if (!MASTER.test(key.value.trim()) && !key.value.trim().startsWith('pk_')) tell(key, 'Give a master key of your organization: it begins with mk_.', true);
    key.focus();
    return;
  }
  if (!project.value) {
    fail('Choose the project that the events shall belong to.', project);
    return;
  }
  const button = byId('submit');
  button.disabled = true;
  button.textContent = 'Claiming…';
  const name = project.selectedOptions[0].textContent;
  try {
    const body = await ask('streams/claim', {
      method: 'POST',
      headers: { Authorization: `Bearer ${listed}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ token: token.toLowerCase(), project_id: project.value }),
    });
    finish(body, name);
  } catch (error) {
    if (error.code === 'stream_already_claimed') {
      show('claimed', uncertain.size ? `It is claimed, perhaps by the try before, which had no certain answer. Look at the newest events of the project ${[...uncertain].join(' or ')}: a claim is recorded there as logstitch.stream.claimed. If there is none, somebody else has claimed it. It cannot be claimed again.` : '');
    } else if (error.code === 'stream_expired') show('expired');
    else if (error.code === 'stream_not_found') show('unknown');
    else if (error.status === 401 || error.status === 403) refuseKey(error);
    else {
      if (error.status === 0 || error.status >= 500) uncertain.add(name);
      const details = error.details.map((detail) => `${detail.field}: ${detail.message}`).join('; ');
      fail([error.message, details, error.status === 503 ? `Nothing was lost; try again${error.retryAfter ? ` in ${plural(error.retryAfter, 'second')}` : ''}.` : ''].filter(Boolean).join(' '));
    }
  } finally {
    button.disabled = false;
    button.textContent = `Claim ${plural(events, 'event')}`;
  }
});

function finish({ events_migrated: migrated, duplicates }, name) {
  key.value = '';
  noProjects('');
  show('claimed', `Done: ${plural(migrated, 'event')} ${migrated === 1 ? 'is' : 'are'} in the project ${name} now.${duplicates ? ` ${plural(duplicates, 'event')} it had already.` : ''} Give your application a key of that project; this stream takes no more events.`);
  byId('badge').className = 'badge good';
  byId('facts').hidden = true;
  byId('title').textContent = 'Stream claimed';
  byId('lead').hidden = true;
  byId('title').tabIndex = -1;
  byId('title').focus();
}

// -- the same from a terminal -----------------------------------------------------------------------------------------

function showCommand() {
  const body = JSON.stringify({ token: token.toLowerCase(), project_id: project.value || '<project id>' });
  byId('curl').textContent = `curl -X POST '${new URL('api/v1/streams/claim', location.href).href}' \\
  -H "Authorization: Bearer $LOGSTITCH_MASTER_KEY" \\
  -H 'Content-Type: application/json' \\
  -d '${body}'`;
}

byId('copy').addEventListener('click', async () => {
  const done = byId('copied');
  try {
    await navigator.clipboard.writeText(byId('curl').textContent);
    done.textContent = byId('copy').textContent = 'Copied';
  } catch (error) {
    getSelection().selectAllChildren(byId('curl'));
    done.textContent = byId('copy').textContent = 'Selected';
  }
  setTimeout(() => {
    byId('copy').textContent = 'Copy';
    done.textContent = '';
  }, 3000);
});

byId('again').addEventListener('click', look);
showCommand();
look();
