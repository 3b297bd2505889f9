/**
 * The chat page: keeps the conversation, streams answers from /v1/chat/completions, stops them and asks for others. Knows nothing of the engine.
 */
import { eventsOf, getKey, request, setKey } from './api.js';
import { showMarkdown } from './markdown.js';

const byId = (id) => document.getElementById(id);
const [messagesBox, empty, input, send, stop, status] = [
  'messages',
  'empty',
  'input',
  'send',
  'stop',
  'status',
].map(byId);

/** Fields of a request, by the id of the setting that gives them. */
const NUMBERS = {
  temperature: 'temperature',
  'top-p': 'top_p',
  'max-tokens': 'max_tokens',
  seed: 'seed',
};
const SETTINGS = ['system', ...Object.keys(NUMBERS)];

/** The conversation as the API takes it. */
let conversation = [];
let modelId = '';
/** Aborts the running answer; undefined while there is none. */
let running;

function isAtEnd() {
  return messagesBox.scrollHeight - messagesBox.scrollTop - messagesBox.clientHeight < 60;
}

function addMessage(role, text) {
  empty.remove();
  const element = document.createElement('div');
  element.className = `message ${role}`;
  const body = document.createElement('div');
  body.className = 'body';
  body.textContent = text;
  element.append(body);
  messagesBox.append(element);
  messagesBox.scrollTop = messagesBox.scrollHeight;
  return element;
}

function requestBody() {
  const system = byId('system').value.trim();
  const messages = system ? [{ role: 'system', content: system }, ...conversation] : conversation;
  const body = { model: modelId, messages, stream: true, stream_options: { include_usage: true } };
  for (const [id, field] of Object.entries(NUMBERS)) {
    if (byId(id).value !== '') body[field] = Number(byId(id).value);
  }
  return body;
}

/** Draws what has come once per frame, however fast it comes. */
function painter(body) {
  let text = '';
  let isDue = false;
  const paint = () => {
    isDue = false;
    const follow = isAtEnd();
    showMarkdown(body, text);
    if (follow) messagesBox.scrollTop = messagesBox.scrollHeight;
  };
  return {
    show(newText) {
      text = newText;
      if (isDue) return;
      isDue = true;
      requestAnimationFrame(paint);
    },
    finish: paint,
  };
}

async function answer() {
  // "New chat" begins another conversation; what is still coming then belongs to this one.
  const turns = conversation;
  for (const old of document.querySelectorAll('.regenerate')) old.remove();
  const element = addMessage('assistant', '');
  const paint = painter(element.firstChild);
  element.classList.add('waiting');
  running = new AbortController();
  setRunning(true);
  let text = '';
  let usage;
  let finishReason = '';
  let firstAt = 0;
  let failure;
  const startedAt = performance.now();
  try {
    const { signal } = running;
    const response = await request('/v1/chat/completions', { json: requestBody(), signal });
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({}));
      throw new Error(error?.message ?? `The server answers with HTTP ${response.status}.`);
    }
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      finishReason = choice?.finish_reason ?? finishReason;
      const delta = choice?.delta?.content ?? '';
      if (delta === '') continue;
      if (firstAt === 0) firstAt = performance.now();
      text += delta;
      paint.show(text);
    }
  } catch (error) {
    if (error.name === 'AbortError') finishReason = 'stopped';
    else failure = error instanceof TypeError ? 'The server does not answer.' : error.message;
  }
  paint.show(text);
  paint.finish();
  const follow = isAtEnd();
  element.classList.remove('waiting');
  if (failure !== undefined) showFailure(element, failure);
  // A question without any answer is taken back: templates want user and assistant in turns.
  if (text !== '') turns.push({ role: 'assistant', content: text });
  else takeBack(turns);
  showFigures(element, { usage, finishReason, startedAt, firstAt });
  if (text !== '') offerAnother(element);
  if (follow) messagesBox.scrollTop = messagesBox.scrollHeight;
  running = undefined;
  setRunning(false);
}

/** The last question may be sent again, or be mended. */
function takeBack(turns) {
  const { content } = turns.pop();
  if (turns !== conversation || input.value !== '') return;
  input.value = content;
  growInput();
}

function showFailure(element, message) {
  const note = document.createElement('p');
  note.className = 'failure';
  note.textContent = message;
  element.append(note);
}

function showFigures(element, { usage, finishReason, startedAt, firstAt }) {
  const parts = [];
  if (usage && usage.completion_tokens > 1) {
    const seconds = (performance.now() - firstAt) / 1000;
    parts.push(
      `${usage.completion_tokens} tokens`,
      `${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`,
      `first after ${Math.round(firstAt - startedAt)} ms`,
    );
  }
  if (finishReason === 'length') parts.push('cut at the token limit');
  if (finishReason === 'stopped') parts.push('stopped');
  if (parts.length === 0) return;
  const figures = document.createElement('span');
  figures.className = 'figures quiet';
  figures.textContent = parts.join(' · ');
  element.append(figures);
}

/** Asks the last question again. */
function offerAnother(element) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'plain regenerate';
  button.textContent = 'Regenerate';
  button.addEventListener('click', () => {
    if (running) return;
    conversation.pop();
    element.remove();
    void answer();
  });
  element.append(button);
}

function setRunning(isRunning) {
  send.hidden = isRunning;
  stop.hidden = !isRunning;
  messagesBox.setAttribute('aria-busy', String(isRunning));
  if (!isRunning) input.focus();
}

function growInput() {
  input.style.height = 'auto';
  input.style.height = `${input.scrollHeight + 2}px`;
}

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (text === '' || running) return;
  input.value = '';
  growInput();
  conversation.push({ role: 'user', content: text });
  addMessage('user', text);
  void answer();
});
stop.addEventListener('click', () => running?.abort());
input.addEventListener('input', growInput);
input.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId('composer').requestSubmit();
  }
});
byId('clear').addEventListener('click', () => {
  running?.abort();
  conversation = [];
  messagesBox.replaceChildren(empty);
  input.focus();
});
document.addEventListener('click', (event) => {
  if (!byId('settings').contains(event.target)) byId('settings').open = false;
});

byId('settings').addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  byId('settings').open = false;
  byId('settings').firstElementChild.focus();
});

for (const id of SETTINGS) {
  const element = byId(id);
  element.value = localStorage.getItem(`hasten-${id}`) ?? element.value;
  element.addEventListener('change', () => localStorage.setItem(`hasten-${id}`, element.value));
}
byId('api-key').value = getKey();
byId('api-key').addEventListener('change', (event) => {
  setKey(event.target.value);
  void showModel();
});

/** Waits for the model: the page may be opened while it loads. */
async function showModel() {
  for (;;) {
    const ready = await fetch('/readyz').catch(() => undefined);
    if (ready?.ok) break;
    const state = await ready?.json().catch(() => undefined);
    status.textContent = state?.status
      ? `The model is not ready: ${state.status}`
      : 'Waiting for the server.';
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const response = await request('/v1/models');
  if (!response.ok) {
    status.textContent = 'This server asks for an API key: enter it under Settings.';
    byId('settings').open = true;
    return;
  }
  modelId = (await response.json()).data[0].id;
  byId('model').textContent = modelId;
  status.textContent = 'Enter sends, Shift+Enter starts a new line.';
}
void showModel();
