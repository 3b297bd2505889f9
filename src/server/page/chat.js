/**
 * The chat page: keeps the conversation, streams answers from /v1/chat/completions, stops them. Model text reaches the page as text nodes
 * only, never as markup. Knows nothing of the engine.
 */

const byId = (id) => document.getElementById(id);
const [messagesBox, input, send, stop, status] = [
  'messages',
  'input',
  'send',
  'stop',
  'status',
].map(byId);

/** The conversation as the API takes it. */
let conversation = [];
let modelId = '';
/** Aborts the running answer; undefined while there is none. */
let running;

/** Shows text with fenced code blocks set apart. */
function showText(element, text) {
  const nodes = text.split(/```[^\n`]*\n?/).flatMap((part, index) => {
    if (part === '') return [];
    if (index % 2 === 0) return [document.createTextNode(part)];
    const block = document.createElement('pre');
    block.textContent = part.replace(/\n$/, '');
    return [block];
  });
  element.replaceChildren(...nodes);
}

function addMessage(role, text) {
  byId('empty')?.remove();
  const element = document.createElement('div');
  element.className = `message ${role}`;
  showText(element, text);
  messagesBox.append(element);
  messagesBox.scrollTop = messagesBox.scrollHeight;
  return element;
}

/** The JSON values of a server-sent event stream, until `[DONE]`. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: ')) continue;
      const data = line.slice(6);
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

function requestBody() {
  const system = byId('system').value.trim();
  const messages = system ? [{ role: 'system', content: system }, ...conversation] : conversation;
  const body = { model: modelId, messages, stream: true, stream_options: { include_usage: true } };
  for (const [id, field] of [
    ['temperature', 'temperature'],
    ['max-tokens', 'max_tokens'],
    ['seed', 'seed'],
  ]) {
    if (byId(id).value !== '') body[field] = Number(byId(id).value);
  }
  return JSON.stringify(body);
}

async function answer() {
  const element = addMessage('assistant', '');
  element.classList.add('waiting');
  running = new AbortController();
  setRunning(true);
  let text = '';
  let usage;
  let finishReason = '';
  let firstAt = 0;
  const startedAt = performance.now();
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: requestBody(),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      finishReason = choice?.finish_reason ?? finishReason;
      const delta = choice?.delta?.content ?? '';
      if (delta === '') continue;
      if (firstAt === 0) firstAt = performance.now();
      text += delta;
      const isAtEnd =
        messagesBox.scrollHeight - messagesBox.scrollTop - messagesBox.clientHeight < 60;
      showText(element, text);
      if (isAtEnd) messagesBox.scrollTop = messagesBox.scrollHeight;
    }
  } catch (error) {
    if (error.name !== 'AbortError') {
      element.classList.add('failed');
      showText(element, `${text}${text ? '\n\n' : ''}${error.message}`);
    } else finishReason = 'stopped';
  }
  element.classList.remove('waiting');
  // A question without any answer is taken back: templates want user and assistant in turns.
  if (text === '') conversation.pop();
  else conversation.push({ role: 'assistant', content: text });
  showFigures(element, { usage, finishReason, startedAt, firstAt });
  running = undefined;
  setRunning(false);
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

function setRunning(isRunning) {
  send.hidden = isRunning;
  stop.hidden = !isRunning;
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
  messagesBox.replaceChildren();
  input.focus();
});

/** Waits for the model: the page may be opened while it loads. */
async function showModel() {
  for (;;) {
    const ready = await fetch('/readyz').catch(() => undefined);
    if (ready?.ok) break;
    const state = await ready?.json().catch(() => undefined);
    status.textContent = state?.status
      ? `The model is loading: ${state.status}`
      : 'Waiting for the server.';
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const models = await (await fetch('/v1/models')).json();
  modelId = models.data[0].id;
  byId('model').textContent = modelId;
  status.textContent = 'Enter sends, Shift+Enter starts a new line.';
}
void showModel();
