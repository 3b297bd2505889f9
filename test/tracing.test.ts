/** `hasten serve` with OpenTelemetry traces, against a collector that keeps what it is sent. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { runHasten } from './run-hasten.ts';
import { end, serve } from './serve-process.ts';

type Value = {
  readonly stringValue?: string;
  readonly intValue?: number | string;
  readonly doubleValue?: number;
  readonly arrayValue?: { readonly values: readonly Value[] };
};
interface Attribute {
  readonly key: string;
  readonly value: Value;
}
interface OtlpSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly Attribute[];
}
interface OtlpBody {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: readonly Attribute[] };
    readonly scopeSpans: readonly { readonly spans: readonly OtlpSpan[] }[];
  }[];
}

async function startCollector() {
  const bodies: OtlpBody[] = [];
  const paths = new Set<string>();
  const server = createServer(async (request, response) => {
    paths.add(request.url ?? '');
    bodies.push(JSON.parse(await text(request)) as OtlpBody);
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    paths,
    spans: () =>
      bodies.flatMap((body) =>
        body.resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans)),
      ),
    resource: () => bodies[0]?.resourceSpans[0]?.resource.attributes ?? [],
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

function attributesOf(attributes: readonly Attribute[]): Record<string, unknown> {
  const plain = ({ stringValue, intValue, doubleValue, arrayValue }: Value): unknown =>
    stringValue ??
    doubleValue ??
    (intValue === undefined ? arrayValue?.values.map(plain) : Number(intValue));
  return Object.fromEntries(attributes.map(({ key, value }) => [key, plain(value)]));
}

test('a request has spans of its own and of its generation, in the trace of its client', async () => {
  await using collector = await startCollector();
  const traceId = '0af7651916cd43dd8448eb211c80319c';
  const parent = 'b7ad6b7169203331';
  const { child, url } = await serve(['tiny', '--otlp-traces-endpoint', collector.url], {
    OTEL_SERVICE_NAME: 'chat-backend',
  });
  const headers = {
    'content-type': 'application/json',
    traceparent: `00-${traceId}-${parent}-01`,
  };
  const post = async (path: string, body: object) => {
    const init = { method: 'POST', headers, body: JSON.stringify(body) };
    const response = await fetch(url + path, init);
    await response.text();
    return response.status;
  };
  const messages = [{ role: 'user', content: 'Hi' }];
  const asked = { messages, max_tokens: 9, ignore_eos: true, temperature: 0.5, stream: true };
  assert.equal(await post('/v1/chat/completions', asked), 200);
  assert.equal(await post('/v1/embeddings', { input: 'some text' }), 200);
  assert.equal(await post('/v1/completions', { prompt: [] }), 400);
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
  assert.equal(await end(child, 'SIGTERM'), 0);

  assert.deepEqual([...collector.paths], ['/v1/traces']);
  assert.equal(attributesOf(collector.resource())['service.name'], 'chat-backend');
  const spans = collector.spans();
  const named = (name: string): OtlpSpan => {
    const found = spans.filter((span) => span.name === name);
    assert.equal(found.length, 1, `${found.length} spans are named ${name}`);
    return found[0]!;
  };
  const http = named('POST /v1/chat/completions');
  assert.deepEqual([http.traceId, http.parentSpanId], [traceId, parent]);
  assert.equal(attributesOf(http.attributes)['http.response.status_code'], 200);
  const chat = named('chat tiny');
  assert.deepEqual([chat.traceId, chat.parentSpanId], [traceId, http.spanId]);
  const figures = attributesOf(chat.attributes);
  assert.equal(figures['gen_ai.operation.name'], 'chat');
  assert.equal(figures['gen_ai.request.model'], 'tiny');
  assert.equal(figures['gen_ai.request.max_tokens'], 9);
  assert.equal(figures['gen_ai.request.temperature'], 0.5);
  assert.equal(figures['gen_ai.usage.output_tokens'], 9);
  assert.ok(Number(figures['gen_ai.usage.input_tokens']) > 0);
  assert.deepEqual(figures['gen_ai.response.finish_reasons'], ['length']);
  const phases = ['queue', 'prefill', 'decode'].map((name) =>
    spans.find((span) => span.name === name && span.parentSpanId === chat.spanId),
  );
  for (const [i, phase] of phases.entries()) {
    assert.ok(phase !== undefined);
    const before = phases[i - 1];
    assert.equal(
      BigInt(phase.startTimeUnixNano),
      BigInt(before?.endTimeUnixNano ?? chat.startTimeUnixNano),
    );
    assert.ok(BigInt(phase.endTimeUnixNano) <= BigInt(chat.endTimeUnixNano));
  }
  assert.equal(named('embeddings tiny').parentSpanId, named('POST /v1/embeddings').spanId);
  assert.equal(
    attributesOf(named('POST /v1/completions').attributes)['http.response.status_code'],
    400,
  );
  assert.notEqual(named('GET /healthz').traceId, traceId);
});

test('without the packages: an error that says how to install them; by environment only, a warning', async () => {
  const hook = `import { registerHooks } from 'node:module';
    registerHooks({ resolve(name, context, next) {
      if (name.startsWith('@opentelemetry/sdk')) throw new Error('not there');
      return next(name, context);
    } });`;
  const env = { NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(hook)}"` };
  const endpoint = 'http://127.0.0.1:9/v1/traces';
  const asked = await runHasten(
    ['serve', 'tiny', '--port', '0', '--otlp-traces-endpoint', endpoint],
    { env },
  );
  assert.equal(asked.code, 1);
  assert.match(asked.stderr, /npm install @opentelemetry\//);
  const { child, output } = await serve(['tiny'], {
    ...env,
    OTEL_EXPORTER_OTLP_ENDPOINT: endpoint,
  });
  assert.match(output().stderr, /npm install @opentelemetry\//);
  assert.equal(await end(child, 'SIGTERM'), 0);
});

test('an endpoint that is no URL is refused', async () => {
  const { code, stderr } = await runHasten([
    'serve',
    'tiny',
    '--otlp-traces-endpoint',
    'localhost',
  ]);
  assert.equal(code, 1);
  assert.match(stderr, /--otlp-traces-endpoint localhost: expected a URL/);
});
