/**
 * Requests as the sources need them: time limits, redirects that never carry a secret to another host,
 * retries with backoff, and errors of our own classes. Knows nothing of models or files.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AccessError, NetworkError, type NetworkFault } from './errors.ts';
import type { NetworkPolicy } from './network-policy.ts';

const MAX_REDIRECTS = 10;
const MAX_RETRY_AFTER_MS = 60_000;
const MAX_JSON_BYTES = 32 * 2 ** 20;
/** Tries in all, however much progress each one makes. */
const MAX_ATTEMPTS = 200;
const RETRYABLE_STATUS = new Set([408, 425, 429, 500, 502, 503, 504]);
const UNREACHABLE_CODES = new Set([
  'ENOTFOUND',
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'ENETDOWN',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
]);

export interface RequestOptions {
  readonly policy: NetworkPolicy;
  readonly signal?: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent to the first host only: tokens and cookies. */
  readonly secretHeaders?: Readonly<Record<string, string>>;
  /** What to say to someone who was refused, such as which token to set. */
  readonly accessHint?: string;
}

/** An answer whose body has not been read. `close` must be called when done with it. */
export interface OpenResponse {
  readonly response: Response;
  /** Reads the body; fails with a `NetworkError` when it breaks off or stalls. */
  chunks(): AsyncGenerator<Uint8Array>;
  close(): void;
}

/**
 * One GET, redirects followed. Answers with a status that means failure are thrown, 416 apart.
 *
 * @throws {NetworkError} or {AccessError}; the reason of `signal` when that fired
 */
export async function openResponse(
  address: string,
  options: RequestOptions,
): Promise<OpenResponse> {
  const shown = withoutQuery(address);
  const { policy } = options;
  const abort = new AbortController();
  const signal =
    options.signal === undefined ? abort.signal : AbortSignal.any([options.signal, abort.signal]);
  const close = (): void => abort.abort();
  const timeout = new NetworkError(
    shown,
    'unreachable',
    `no answer within ${policy.responseTimeoutMs / 1000} s`,
  );
  const timer = setTimeout(() => abort.abort(timeout), policy.responseTimeoutMs);
  try {
    const response = await fetchFollowing(new URL(address), options, signal);
    throwForStatus(response, shown, options.accessHint);
    return { response, chunks: () => bodyChunks(response, shown, options, abort), close };
  } catch (error) {
    close();
    options.signal?.throwIfAborted();
    throw asNetworkError(error, shown);
  } finally {
    clearTimeout(timer);
  }
}

/** GET of a JSON document, retried as the policy says. */
export async function getJson(address: string, options: RequestOptions): Promise<unknown> {
  return await withRetries(options.policy, options.signal, async () => {
    const opened = await openResponse(address, {
      ...options,
      headers: { accept: 'application/json', ...options.headers },
    });
    try {
      const parts: Uint8Array[] = [];
      let sizeBytes = 0;
      for await (const chunk of opened.chunks()) {
        sizeBytes += chunk.length;
        if (sizeBytes > MAX_JSON_BYTES) {
          throw new NetworkError(withoutQuery(address), 'protocol', 'the answer is over 32 MiB');
        }
        parts.push(chunk);
      }
      return JSON.parse(Buffer.concat(parts).toString('utf8'));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new NetworkError(withoutQuery(address), 'protocol', 'the answer is not JSON', {
        cause: error,
      });
    } finally {
      opened.close();
    }
  });
}

/**
 * Runs `attempt` until it succeeds, fails for good, or the tries without progress are used up.
 *
 * @param attempt calls `progressed` when it got further than the tries before, which starts the count anew
 */
export async function withRetries<T>(
  policy: NetworkPolicy,
  signal: AbortSignal | undefined,
  attempt: (progressed: () => void) => Promise<T>,
): Promise<T> {
  let failures = 0;
  let everAnswered = false;
  const progressed = (): void => {
    failures = 0;
    everAnswered = true;
  };
  for (let attempts = 1; ; attempts++) {
    signal?.throwIfAborted();
    try {
      return await attempt(progressed);
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof NetworkError) || !isRetryable(error)) throw error;
      const neverThere = error.fault === 'unreachable' && !everAnswered;
      failures++;
      if (failures > (neverThere ? policy.unreachableRetries : policy.maxRetries)) throw error;
      if (attempts >= MAX_ATTEMPTS) throw error;
      if (error.status !== undefined) everAnswered = true;
      const waitMs = backoffMs(policy, failures, error.retryAfterMs);
      await sleep(waitMs, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}

function isRetryable(error: NetworkError): boolean {
  if (error.fault === 'status') {
    return (
      RETRYABLE_STATUS.has(error.status ?? 0) && (error.retryAfterMs ?? 0) <= MAX_RETRY_AFTER_MS
    );
  }
  return (
    error.fault === 'unreachable' || error.fault === 'interrupted' || error.fault === 'stalled'
  );
}

function backoffMs(
  policy: NetworkPolicy,
  failures: number,
  retryAfterMs: number | undefined,
): number {
  if (retryAfterMs !== undefined) return retryAfterMs;
  const full = Math.min(policy.backoffMaxMs, policy.backoffBaseMs * 2 ** (failures - 1));
  return full * (0.5 + Math.random() / 2); // jitter, so that many clients do not come back as one
}

async function fetchFollowing(
  start: URL,
  options: RequestOptions,
  signal: AbortSignal,
): Promise<Response> {
  let url = start;
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const headers = {
      'user-agent': 'hasten',
      'accept-encoding': 'identity', // sizes, ranges and digests are those of the plain file
      ...options.headers,
      ...(url.origin === start.origin ? options.secretHeaders : {}),
    };
    const response = await fetch(url, { headers, redirect: 'manual', signal });
    const location = response.headers.get('location');
    if (![301, 302, 303, 307, 308].includes(response.status) || location === null) return response;
    await response.body?.cancel();
    const next = URL.canParse(location, url) ? new URL(location, url) : undefined;
    if (
      next === undefined ||
      !/^https?:$/.test(next.protocol) ||
      (url.protocol === 'https:' && next.protocol !== 'https:')
    ) {
      throw new NetworkError(
        withoutQuery(url.href),
        'protocol',
        `redirects to ${next === undefined ? 'nowhere' : withoutQuery(next.href)}, which is not https`,
      );
    }
    url = next;
  }
  throw new NetworkError(
    withoutQuery(start.href),
    'protocol',
    `more than ${MAX_REDIRECTS} redirects`,
  );
}

function throwForStatus(response: Response, shown: string, accessHint: string | undefined): void {
  const { status } = response;
  if (status === 200 || status === 206 || status === 416) return;
  if (status === 401 || status === 403) {
    throw new AccessError(
      shown,
      status,
      accessHint ?? 'The server wants credentials for this file.',
    );
  }
  const retryAfterMs = parseRetryAfter(response.headers.get('retry-after'));
  const wait =
    retryAfterMs === undefined ? '' : `, asks to wait ${Math.ceil(retryAfterMs / 1000)} s`;
  throw new NetworkError(shown, 'status', `the server answered with HTTP ${status}${wait}`, {
    status,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

async function* bodyChunks(
  response: Response,
  shown: string,
  options: RequestOptions,
  abort: AbortController,
): AsyncGenerator<Uint8Array> {
  const { stallTimeoutMs } = options.policy;
  const stalled = (): void =>
    abort.abort(new NetworkError(shown, 'stalled', `no data for ${stallTimeoutMs / 1000} s`));
  let timer = setTimeout(stalled, stallTimeoutMs);
  try {
    for await (const chunk of response.body ?? []) {
      clearTimeout(timer); // a slow disk is not a slow server
      yield chunk;
      timer = setTimeout(stalled, stallTimeoutMs);
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    throw asNetworkError(error, shown);
  } finally {
    clearTimeout(timer);
  }
}

function asNetworkError(error: unknown, shown: string): unknown {
  if (error instanceof NetworkError || error instanceof AccessError) return error;
  const codes = errorCodes(error);
  const code = codes[0];
  let fault: NetworkFault = 'interrupted';
  let reason = `the connection broke${code === undefined ? '' : ` (${code})`}`;
  if (codes.some((name) => UNREACHABLE_CODES.has(name))) {
    fault = 'unreachable';
    reason = `cannot be reached (${code})`;
  } else if (codes.some((name) => /CERT|SELF_SIGNED|UNABLE_TO_|ERR_TLS/.test(name))) {
    fault = 'tls';
    reason = `its certificate is not trusted (${code}); NODE_EXTRA_CA_CERTS names a file with further authorities`;
  }
  return new NetworkError(shown, fault, reason, { cause: error });
}

/** Codes of an error and its causes, the outermost that has one first. */
function errorCodes(error: unknown): string[] {
  const codes: string[] = [];
  const visit = (value: unknown, depth: number): void => {
    if (!(value instanceof Error) || depth > 5) return;
    const { code, cause } = value as NodeJS.ErrnoException;
    if (typeof code === 'string') codes.push(code);
    visit(cause, depth + 1);
    if (value instanceof AggregateError) for (const inner of value.errors) visit(inner, depth + 1);
  };
  visit(error, 0);
  return codes;
}

function parseRetryAfter(text: string | null): number | undefined {
  if (text === null) return undefined;
  const seconds = Number(text);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** An address as it may be shown and logged: signed addresses keep their secret in the query. */
export function withoutQuery(address: string): string {
  return address.replace(/[?#].*$/s, '');
}
