// The demonstration page: it hands the pasted token to the element, and keeps it nowhere else.
import './viewer.js';

const byId = (id) => document.getElementById(id);
const viewer = document.querySelector('logstitch-viewer');
const note = byId('token-note');
const [quiet, origin] = [note.textContent, new URL('.', location.href).href.replace(/\/$/, '')];

function say(text, bad) {
  note.textContent = text;
  note.classList.toggle('bad', bad);
  byId('token').setAttribute('aria-invalid', String(bad));
}

byId('access').addEventListener('submit', (event) => {
  event.preventDefault();
  const token = byId('token').value.trim();
  if (!token) {
    say('Paste a viewer token (vt_…) or a project key (pk_…) first.', true);
    byId('token').focus();
    return;
  }
  say(quiet, false);
  viewer.token = token;
});

viewer.addEventListener('logstitch-token-expired', () => {
  say('The service does not take this token any more. Paste another one.', true);
  byId('token').value = '';
  byId('token').focus();
});

byId('theme').addEventListener('change', (event) => {
  document.documentElement.dataset.theme = viewer.theme = event.target.value;
});

byId('example').textContent = `<script type="module" src="${origin}/viewer.js"></script>
<logstitch-viewer base-url="${origin}"></logstitch-viewer>
<script type="module">
  const viewer = document.querySelector('logstitch-viewer');
  const renew = async () => { viewer.token = (await (await fetch('/my-backend/viewer-token')).json()).token; };
  viewer.addEventListener('logstitch-token-expired', renew);
  renew();
</script>`;
