/**
 * OpenTelemetry traces by option: a span for each HTTP request, going on with the client's trace where it sends one, under it a span for each
 * generation with its time in the queue, in prefill and in decode. Attributes are those of the semantic conventions for generative AI.
 *
 * The packages are no dependencies of ours: they are loaded when traces are asked for, and the error says how to install them.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Context, Span, Tracer } from '@opentelemetry/api';
import type { BasicTracerProvider } from '@opentelemetry/sdk-trace-base';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { EngineObserver } from '../engine/engine-client.ts';
import type { EngineEvent, FinishEvent } from '../engine/events.ts';
import type { PreparedRequest } from '../engine/request.ts';
import { HastenError } from '../platform/errors.ts';

/** Traces were asked for, and cannot be had. */
export class TracingError extends HastenError {
  constructor(message: string, options?: ErrorOptions) {
    super('no_tracing', message, options);
  }
}

export interface TracingOptions {
  /** Where traces are sent, OTLP over HTTP; null: where OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT say. */
  readonly endpoint: string | null;
  readonly version: string;
}

const INSTALL = 'npm install @opentelemetry/sdk-trace-base @opentelemetry/exporter-trace-otlp-http';
const DEFAULT_PATH = '/v1/traces';

/** What clients are told apart by; other routes make no generations. */
const OPERATIONS: Readonly<Record<string, string>> = {
  '/v1/completions': 'text_completion',
  '/v1/embeddings': 'embeddings',
};

interface Packages {
  readonly api: typeof import('@opentelemetry/api');
  readonly sdk: typeof import('@opentelemetry/sdk-trace-base');
  readonly core: typeof import('@opentelemetry/core');
  readonly resources: typeof import('@opentelemetry/resources');
  readonly exporter: typeof import('@opentelemetry/exporter-trace-otlp-http');
}

async function loadPackages(): Promise<Packages> {
  try {
    const [api, sdk, core, resources, exporter] = await Promise.all([
      import('@opentelemetry/api'),
      import('@opentelemetry/sdk-trace-base'),
      import('@opentelemetry/core'),
      import('@opentelemetry/resources'),
      import('@opentelemetry/exporter-trace-otlp-http'),
    ]);
    return { api, sdk, core, resources, exporter };
  } catch (error) {
    throw new TracingError(`traces need packages that are not installed: ${INSTALL}`, {
      cause: error,
    });
  }
}

/** @throws {TracingError} if the packages are not there or the endpoint is no URL */
export async function openTracing({ endpoint, version }: TracingOptions): Promise<Tracing> {
  const packages = await loadPackages();
  const { sdk, resources, exporter } = packages;
  const url = endpoint === null ? {} : { url: tracesUrl(endpoint) };
  const service = { 'service.name': 'hasten', 'service.version': version };
  // What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before.
  const fromEnvironment = resources.detectResources({ detectors: [resources.envDetector] });
  const provider = new sdk.BasicTracerProvider({
    resource: resources
      .defaultResource()
      .merge(resources.resourceFromAttributes(service))
      .merge(fromEnvironment),
    spanProcessors: [new sdk.BatchSpanProcessor(new exporter.OTLPTraceExporter(url))],
  });
  return new Tracing(packages, provider, version);
}

/** vLLM's flag takes an address with or without the path. */
function tracesUrl(endpoint: string): string {
  const url = URL.parse(endpoint);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new TracingError(
      `--otlp-traces-endpoint ${endpoint}: expected a URL such as http://127.0.0.1:4318${DEFAULT_PATH}`,
    );
  }
  if (url.pathname === '/') url.pathname = DEFAULT_PATH;
  return url.href;
}

/** The HTTP request that a call belongs to. */
interface HttpTrace {
  readonly context: Context;
  readonly route: string;
}

interface OpenGeneration {
  readonly span: Span;
  readonly context: Context;
  readonly startMs: number;
}

export class Tracing implements EngineObserver, AsyncDisposable {
  /** Name of the served model, for spans. */
  modelName = '';
  readonly #packages: Packages;
  readonly #provider: BasicTracerProvider;
  readonly #tracer: Tracer;
  readonly #http = new AsyncLocalStorage<HttpTrace>();
  readonly #open = new Map<string, OpenGeneration>();

  constructor(packages: Packages, provider: BasicTracerProvider, version: string) {
    this.#packages = packages;
    this.#provider = provider;
    this.#tracer = provider.getTracer('hasten', version);
  }

  /** Lets every request of the server have its span. */
  watch(app: FastifyInstance): void {
    const { api, core } = this.#packages;
    const traces = new WeakMap<FastifyRequest, HttpTrace>();
    const propagator = new core.W3CTraceContextPropagator();
    app.addHook('onRequest', (request, reply, done) => {
      const route = request.routeOptions.url ?? 'none';
      const parent = propagator.extract(
        api.ROOT_CONTEXT,
        request.headers,
        api.defaultTextMapGetter,
      );
      const attributes = {
        'http.request.method': request.method,
        'http.route': route,
        'url.path': request.url.split('?', 1)[0] ?? '/',
      };
      const name = `${request.method} ${route}`;
      const span = this.#tracer.startSpan(name, { kind: api.SpanKind.SERVER, attributes }, parent);
      // Comes also when the client has gone.
      reply.raw.once('close', () => {
        const { statusCode } = reply.raw;
        span.setAttribute('http.response.status_code', statusCode);
        if (statusCode >= 500) span.setStatus({ code: api.SpanStatusCode.ERROR });
        span.end();
      });
      traces.set(request, { context: api.trace.setSpan(parent, span), route });
      done();
    });
    // Only here: reading the body leaves the asynchronous context of the hooks before.
    app.addHook('preHandler', (request, _reply, done) => {
      const trace = traces.get(request);
      if (trace === undefined) done();
      else this.#http.run(trace, done);
    });
  }

  submitted({ requestId, samplingParams, pooling }: PreparedRequest): void {
    const { api } = this.#packages;
    const http = this.#http.getStore();
    const operation = pooling !== null ? 'embeddings' : (OPERATIONS[http?.route ?? ''] ?? 'chat');
    const { maxTokens, temperature, topP, topK, seed } = samplingParams;
    const startMs = Date.now();
    const parent = http?.context ?? api.ROOT_CONTEXT;
    const span = this.#tracer.startSpan(
      `${operation} ${this.modelName}`.trimEnd(),
      {
        startTime: startMs,
        attributes: {
          'gen_ai.operation.name': operation,
          'gen_ai.provider.name': 'hasten',
          'gen_ai.request.model': this.modelName,
          'gen_ai.request.id': requestId,
          ...(pooling === null && {
            'gen_ai.request.max_tokens': maxTokens,
            'gen_ai.request.temperature': temperature,
            'gen_ai.request.top_p': topP,
            'gen_ai.request.top_k': topK,
            'gen_ai.request.seed': seed,
          }),
        },
      },
      parent,
    );
    this.#open.set(requestId, { span, context: api.trace.setSpan(parent, span), startMs });
  }

  delivered(event: EngineEvent): void {
    if (event.type !== 'finish') return;
    const open = this.#open.get(event.requestId);
    if (open === undefined) return;
    this.#open.delete(event.requestId);
    this.#finish(open, event);
  }

  #finish({ span, context, startMs }: OpenGeneration, event: FinishEvent): void {
    const { reason, usage, timings, error } = event;
    const { queueMs, promptMs, ttftMs, outputMs, totalMs } = timings;
    let fromMs = startMs;
    for (const [name, ms] of [
      ['queue', queueMs],
      ['prefill', promptMs],
      ['decode', outputMs],
    ] as const) {
      if (ms === null) break;
      this.#tracer.startSpan(name, { startTime: fromMs }, context).end(fromMs + ms);
      fromMs += ms;
    }
    span.setAttributes({
      'gen_ai.response.model': this.modelName,
      'gen_ai.response.finish_reasons': [reason],
      'gen_ai.usage.input_tokens': usage.promptTokens,
      'gen_ai.usage.output_tokens': usage.completionTokens,
      'gen_ai.usage.cache_read.input_tokens': usage.cachedTokens,
      'gen_ai.latency.e2e': totalMs / 1000,
    });
    if (queueMs !== null) span.setAttribute('gen_ai.latency.time_in_queue', queueMs / 1000);
    if (ttftMs !== null) span.setAttribute('gen_ai.latency.time_to_first_token', ttftMs / 1000);
    if (error !== undefined) {
      span.setAttribute('error.type', error.code);
      const { ERROR } = this.#packages.api.SpanStatusCode;
      span.setStatus({ code: ERROR, message: error.message });
    }
    span.end(Math.max(fromMs, startMs + totalMs));
  }

  /** Sends what is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#provider.shutdown();
  }
}

/** Both see everything. */
export function bothObservers(first: EngineObserver, second: EngineObserver): EngineObserver {
  return {
    submitted: (request) => {
      first.submitted(request);
      second.submitted(request);
    },
    delivered: (event) => {
      first.delivered(event);
      second.delivered(event);
    },
  };
}
