/**
 * The HTTP server: routes, guards, errors and an orderly end. Knows nothing of how the model came to be, nor of the command line.
 */
import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  fastify,
  LogController,
} from 'fastify';
import type { Logger } from 'pino';
import type { Pooling } from '../engine/pooling.ts';
import { HastenError } from '../platform/errors.ts';
import { Admission, type AdmissionLimits, DEFAULT_ADMISSION_LIMITS } from './admission.ts';
import { type ApiKey, ApiKeys } from './api-keys.ts';
import { CorsPolicy } from './cors.ts';
import {
  ApiError,
  BODY_LIMIT_BYTES,
  compressedBody,
  type ErrorBody,
  toApiError,
} from './errors.ts';
import { assertTrustedOrigin, isLoopbackAddress } from './host-guard.ts';
import { ClientGoneError, RequestScope } from './request-scope.ts';
import { chatCompletionsRoute } from './routes/chat-completions.ts';
import { completionsRoute } from './routes/completions.ts';
import type { Route, RouteContext } from './routes/context.ts';
import { embeddingsRoute } from './routes/embeddings.ts';
import { healthRoute } from './routes/health.ts';
import { messagesRoute } from './routes/messages.ts';
import { metricsRoute } from './routes/metrics.ts';
import { modelsRoute } from './routes/models.ts';
import { pageRoute } from './routes/page.ts';
import { responsesRoute } from './routes/responses.ts';
import { slotsRoute } from './routes/slots.ts';
import { tokensRoute } from './routes/tokens.ts';
import { ServedModel } from './served-model.ts';
import { Telemetry } from './telemetry.ts';
import type { Tracing } from './tracing.ts';

/** Time for the last words to clients whose requests were cut off. */
const CUT_OFF_MS = 500;
const SWEEP_MS = 20;
const SLOW_READER_MS = 30_000;

const PROBES: ReadonlySet<string> = new Set(['/healthz', '/readyz', '/metrics', '/dashboard/data']);
/** What is answered without a key: probes, and pages that hold nothing of their own. */
const OPEN_PATHS = /^\/(?:healthz|readyz|dashboard|page\/[\w.-]+)?$/;
/** Beyond the time that a request may take. */
const IDLE_CONNECTION_MS = 60_000;

const ROUTES: readonly Route[] = [
  modelsRoute,
  chatCompletionsRoute,
  completionsRoute,
  responsesRoute,
  messagesRoute,
  embeddingsRoute,
  tokensRoute,
  slotsRoute,
  healthRoute,
  metricsRoute,
  pageRoute,
];

export interface ServerOptions {
  readonly host: string;
  /** 0 lets the system choose. */
  readonly port: number;
  readonly logger: Logger;
  /** Who may ask; none: everybody. */
  readonly apiKeys?: readonly ApiKey[];
  /** Whether /metrics is answered without a key. */
  readonly hasOpenMetrics?: boolean;
  readonly admission?: Partial<AdmissionLimits>;
  /** Time for one request; null: no limit. */
  readonly requestTimeoutMs?: number | null;
  /** Time after which a reader that reads nothing is given up. */
  readonly slowReaderMs?: number;
  /** Origins whose pages may use the API; `*` for all. */
  readonly corsOrigins?: readonly string[];
  /** Where /slots saves sessions: each API key in a folder of its own. Default: nowhere. */
  readonly slotSavePath?: string | undefined;
  readonly tracing?: Tracing | null;
  /** How embeddings are made. Default `mean`. */
  readonly pooling?: Pooling;
  /** Certificate chain and private key, PEM. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Name of the API key, or the client's address where none is needed. */
    caller: string;
    /** For the log line. */
    figures: object | null;
  }
}

/** The address cannot be listened on. */
export class ListenError extends HastenError {
  readonly host: string;
  readonly port: number;

  constructor(host: string, port: number, reason: string, options?: ErrorOptions) {
    super('cannot_listen', `cannot listen on ${host} port ${port}: ${reason}`, options);
    this.host = host;
    this.port = port;
  }
}

export class HttpServer implements AsyncDisposable {
  readonly served = new ServedModel();
  readonly telemetry = new Telemetry();
  readonly #app: FastifyInstance;
  readonly #options: ServerOptions;
  readonly #shutdown = new AbortController();

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#app = createApp(options, {
      served: this.served,
      telemetry: this.telemetry,
      shutdown: this.#shutdown.signal,
    });
  }

  /**
   * Begins to listen. The model may still be loading.
   * @returns the address, as a URL
   * @throws {ListenError} if the port is taken or not allowed
   */
  async listen(): Promise<string> {
    const { host, port } = this.#options;
    try {
      return await this.#app.listen({
        host,
        port,
        listenTextResolver: (url) => `listening on ${url}`,
      });
    } catch (error) {
      throw listenError(error as NodeJS.ErrnoException, host, port);
    }
  }

  /**
   * Stops listening, lets running requests finish for `graceMs`, then cuts off the rest.
   */
  async close(graceMs: number): Promise<void> {
    this.served.setState({ kind: 'closing' });
    const cutOff = new ApiError(503, 'the server is shutting down', { code: 'shutting_down' });
    const grace = setTimeout(() => this.#shutdown.abort(cutOff), graceMs);
    // Those who read nothing of what was cut off.
    const end = setTimeout(() => this.#app.server.closeAllConnections(), graceMs + CUT_OFF_MS);
    // A connection kept alive becomes idle only when its last answer is out.
    const sweep = setInterval(() => this.#app.server.closeIdleConnections(), SWEEP_MS);
    try {
      await this.#app.close();
    } finally {
      clearTimeout(grace);
      clearTimeout(end);
      clearInterval(sweep);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close(0);
  }
}

interface AppParts {
  readonly served: ServedModel;
  readonly telemetry: Telemetry;
  /** Aborts when the server stops waiting for running requests. */
  readonly shutdown: AbortSignal;
}

function createApp(options: ServerOptions, parts: AppParts): FastifyInstance {
  const { served, telemetry } = parts;
  const { requestTimeoutMs = null } = options;
  const app = fastify({
    ...(options.tls !== undefined && { https: options.tls }),
    // Only connections on which nothing moves for longer than a request may take: those who never read a whole answer.
    connectionTimeout: requestTimeoutMs === null ? 0 : requestTimeoutMs + IDLE_CONNECTION_MS,
    genReqId: ({ headers }) => {
      const given = String(headers['x-request-id'] ?? '');
      return /^[\w.:-]{1,128}$/.test(given) ? given : randomUUID();
    },
    loggerInstance: options.logger as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT_BYTES,
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    clientErrorHandler: answerUnparsable,
    frameworkErrors: (error, _request, reply) => sendError(reply, toApiError(error)),
  });
  // JSON only: a page elsewhere can send text/plain without asking, but not this.
  app.removeContentTypeParser('text/plain');
  const methodsAt = rememberRoutes(app);
  const isLoopbackServer = isLoopbackAddress(options.host);
  const cors = new CorsPolicy(options.corsOrigins ?? []);
  const keys = new ApiKeys(options.apiKeys ?? []);
  options.tracing?.watch(app);
  app.decorateRequest('caller', '');
  app.decorateRequest('figures', null);
  app.addHook('onRequest', async (request, reply) => {
    const { host, origin, 'sec-fetch-site': fetchSite } = request.headers;
    const { 'content-encoding': encoding = 'identity' } = request.headers;
    reply.header('x-request-id', request.id);
    if (cors.allows(origin)) {
      reply.headers(cors.headers(String(origin)));
      if (isPreflight(request)) {
        const asked = request.headers['access-control-request-headers'];
        return reply
          .code(204)
          .headers(cors.preflightHeaders(String(origin), asked))
          .send();
      }
    } else {
      assertTrustedOrigin({ host, origin, fetchSite: String(fetchSite ?? '') }, isLoopbackServer);
    }
    request.caller = request.ip;
    const path = pathOf(request);
    const isOpen =
      OPEN_PATHS.test(path) || (path === '/metrics' && options.hasOpenMetrics === true);
    if (keys.isRequired && !isOpen) request.caller = keys.nameOf(request.headers);
    if (encoding !== 'identity') throw compressedBody(encoding);
    return undefined;
  });
  app.addHook('onResponse', async (request, reply) => {
    const durationMs = Math.round(reply.elapsedTime);
    const handler = request.routeOptions.url ?? 'none';
    telemetry.metrics.answered(request.method, handler, reply.statusCode);
    // Probes ask every few seconds.
    const level = PROBES.has(pathOf(request)) ? 'debug' : 'info';
    const who = keys.isRequired ? { key: request.caller } : {};
    const figures = { status: reply.statusCode, durationMs, ...who, ...request.figures };
    request.log[level](figures, `${request.method} ${request.url}`);
  });
  app.addHook('onRequestAbort', async (request) => {
    request.log.info(`${request.method} ${request.url}: the client closed the connection`);
  });
  app.setErrorHandler((error, request, reply) => {
    if (error instanceof ClientGoneError) return reply.hijack();
    const apiError = toApiError(error);
    if (apiError.status >= 500)
      request.log.error({ err: apiError.cause ?? error }, apiError.message);
    return sendError(reply, apiError);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = pathOf(request);
    const allowed = methodsAt(path);
    if (allowed.length === 0) {
      const meant = likelyPaths(path).find((other) => methodsAt(other).length > 0);
      const question = meant === undefined ? '' : `; did you mean ${meant}?`;
      const message = `there is nothing at ${path}${question}`;
      return sendError(reply, new ApiError(404, message, { code: 'not_found' }));
    }
    const message = `${request.method} is not accepted at ${path}, expected ${allowed.join(' or ')}`;
    reply.header('allow', allowed.join(', '));
    return sendError(reply, new ApiError(405, message, { code: 'method_not_allowed' }));
  });
  const enter = entrance(options, parts);
  const { pooling = 'mean', slotSavePath } = options;
  const sessionFolder: RouteContext['sessionFolder'] = ({ caller }) => {
    if (slotSavePath === undefined) return null;
    // A hyphen before it: no name of a key is one of a file, nor `..`.
    return keys.isRequired ? join(slotSavePath, `-${encodeURIComponent(caller)}`) : slotSavePath;
  };
  for (const route of ROUTES) route(app, { served, telemetry, enter, pooling, sessionFolder });
  return app;
}

function entrance(options: ServerOptions, parts: AppParts): RouteContext['enter'] {
  const { served, telemetry, shutdown } = parts;
  const admission = new Admission({
    limits: { ...DEFAULT_ADMISSION_LIMITS, ...options.admission },
    maxRunning: () => (served.state.kind === 'ready' ? served.state.model.limits.maxSeqs : 0),
    typicalRequestMs: () => telemetry.typicalRequestMs,
    onRejected: (reason) => telemetry.metrics.rejected(reason),
  });
  return (request, reply, numAnswers) =>
    new RequestScope(reply.raw, {
      shutdown,
      timeoutMs: options.requestTimeoutMs ?? null,
      slowReaderMs: options.slowReaderMs ?? SLOW_READER_MS,
      release: admission.admit(request.caller, numAnswers),
    });
}

function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? '/';
}

/** What other servers call a path of ours. */
const PATHS_OF_OTHERS: Readonly<Record<string, string>> = {
  '/health': '/readyz',
  '/ping': '/healthz',
  '/completion': '/v1/completions',
  '/api/chat': '/v1/chat/completions',
  '/api/generate': '/v1/completions',
  '/api/embed': '/v1/embeddings',
  '/api/tags': '/v1/models',
};

/** Where someone may have wanted to go who has left out /v1, given it twice, or ended in a slash. Not all of them are there. */
function likelyPaths(path: string): string[] {
  const plain = path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');
  const other = PATHS_OF_OTHERS[plain];
  return [...(other ? [other] : []), plain, `/v1${plain.replace(/^(\/v1)+(?=\/|$)/, '')}`];
}

/** A browser asks whether it may ask. */
function isPreflight(request: FastifyRequest): boolean {
  return request.method === 'OPTIONS' && 'access-control-request-method' in request.headers;
}

/** Which methods a path takes, for an answer to the wrong one. A route's URL is a path, or a prefix ending in `*`. */
function rememberRoutes(app: FastifyInstance): (path: string) => string[] {
  const routes: { method: string; url: string }[] = [];
  app.addHook('onRoute', ({ method, url }) => {
    for (const one of [method].flat()) routes.push({ method: one, url });
  });
  return (path) =>
    routes
      .filter(({ url }) => (url.endsWith('*') ? path.startsWith(url.slice(0, -1)) : path === url))
      .map(({ method }) => method);
}

function sendError(reply: FastifyReply, error: ApiError): FastifyReply {
  return reply
    .code(error.status)
    .headers(error.headers)
    .send(error.toBody() satisfies ErrorBody);
}

/** What is no HTTP at all is answered on the bare socket. */
function answerUnparsable(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const isTooLarge = error.code === 'HPE_HEADER_OVERFLOW';
  const isTimeout = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
  const status = isTooLarge ? 431 : isTimeout ? 408 : 400;
  const reason = isTooLarge
    ? 'Request Header Fields Too Large'
    : isTimeout
      ? 'Request Timeout'
      : 'Bad Request';
  const message = isTimeout
    ? 'the request took too long to arrive'
    : 'this is not well-formed HTTP';
  const body = JSON.stringify(new ApiError(status, message, { code: 'bad_http' }).toBody());
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}

function listenError(error: NodeJS.ErrnoException, host: string, port: number): Error {
  switch (error.code) {
    case 'EADDRINUSE':
      return new ListenError(host, port, 'another program uses this port; choose one with --port', {
        cause: error,
      });
    case 'EACCES':
      return new ListenError(host, port, 'not allowed; ports below 1024 are often reserved', {
        cause: error,
      });
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new ListenError(host, port, 'this machine has no such address', { cause: error });
    default:
      return error;
  }
}
