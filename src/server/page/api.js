/** Requests to this server, with the API key where one is needed. The key is kept for this browser tab only. */

const KEY = 'hasten-api-key';

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export function getKey() {
  return sessionStorage.getItem(KEY) ?? '';
}

/** As `fetch`; a JSON body is made of `json`. */
export function request(path, { json, signal } = {}) {
  const headers = {};
  if (getKey()) headers.authorization = `Bearer ${getKey()}`;
  if (json === undefined) return fetch(path, { headers, signal });
  headers['content-type'] = 'application/json';
  return fetch(path, { method: 'POST', headers, body: JSON.stringify(json), signal });
}

/** The JSON values of a server-sent event stream, until `[DONE]`. */
export async function* eventsOf(response) {
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
