/**
 * What comes before a load: is anyone there, which model is served, and a few requests that are not counted. A target that answers none of
 * them is reported at once instead of as a hundred failures.
 */
import http from 'node:http';
import https from 'node:https';
import { errorMessage } from './completion-stream.ts';
import { TargetError } from './errors.ts';
import { type ClientTimeouts, CompletionClient } from './http-client.ts';
import type { PromptMaker } from './prompt-maker.ts';
import { pathOf, type RequestShape, requestBody } from './request-body.ts';
import { endpointUrl, type Target } from './target.ts';
import type { Conversation } from './workload.ts';

const MAX_BODY_BYTES = 2 ** 20;

/**
 * The names of the models that the target serves.
 * @throws {TargetError} if it cannot be reached, refuses, or lists none
 */
export async function servedModels(target: Target, timeoutMs: number): Promise<string[]> {
  const { status, body } = await getJson(target, '/v1/models', timeoutMs);
  const where = `GET ${endpointUrl(target, '/v1/models')}`;
  if (status !== 200) {
    throw new TargetError(`${where}: HTTP ${status}: ${errorMessage(body) ?? 'no reason given'}`);
  }
  const { data } = (body ?? {}) as { data?: { id?: unknown }[] };
  const names = Array.isArray(data) ? data.map(({ id }) => id) : [];
  const found = names.filter((name) => typeof name === 'string');
  if (found.length === 0) {
    throw new TargetError(`${where} lists no model; name one with --model`);
  }
  return found;
}

async function getJson(
  target: Target,
  path: string,
  timeoutMs: number,
): Promise<{ status: number; body: unknown }> {
  const url = endpointUrl(target, path);
  const get = url.protocol === 'https:' ? https.get : http.get;
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; body: unknown }>();
  const request = get(url, { headers: target.headers, timeout: timeoutMs, agent: false });
  request.on('timeout', () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)));
  request.on('error', (error) => {
    const reason = error.message || (error as NodeJS.ErrnoException).code;
    reject(
      new TargetError(`nothing answers at ${target.baseUrl.origin}: ${reason}`, { cause: error }),
    );
  });
  request.on('response', (response) => {
    const parts: Buffer[] = [];
    let numBytes = 0;
    response.on('data', (part: Buffer) => {
      numBytes += part.length;
      if (numBytes <= MAX_BODY_BYTES) parts.push(part);
      else request.destroy(new Error(`an answer of more than ${MAX_BODY_BYTES} bytes`));
    });
    response.on('error', (error) => request.destroy(error));
    response.on('end', () => {
      resolve({ status: response.statusCode ?? 0, body: tryJson(Buffer.concat(parts)) });
    });
  });
  return promise;
}

function tryJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

export interface WarmUp {
  readonly target: Target;
  readonly shape: RequestShape;
  readonly maker: PromptMaker;
  readonly timeouts: ClientTimeouts;
  readonly count: number;
  readonly signal: AbortSignal;
}

/**
 * Sends the first turn of a conversation `count` times, one after the other.
 *
 * @param conversation with prompts of its own, so that no counted request finds its prompt in a cache
 * @throws {TargetError} with the reason, if one is not answered
 */
export async function warmUp(
  conversation: Conversation,
  { target, shape, maker, timeouts, count, signal }: WarmUp,
): Promise<void> {
  using client = new CompletionClient(target, timeouts);
  const body = requestBody(shape, maker, { conversation, turn: 0, answers: [] });
  for (let i = 0; i < count; i++) {
    const path = pathOf(shape.endpoint);
    const { outcome } = await client.send(path, body, {}, signal, false);
    signal.throwIfAborted();
    if (outcome.kind === 'finished') continue;
    const status = outcome.status === null ? '' : `HTTP ${outcome.status}: `;
    throw new TargetError(
      `POST ${endpointUrl(target, path)}: a first request came to nothing: ${status}${outcome.message}`,
    );
  }
}
