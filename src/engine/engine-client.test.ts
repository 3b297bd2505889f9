import assert from 'node:assert/strict';
import test from 'node:test';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { Engine } from './engine.ts';
import { EngineClient, type EngineClientOptions } from './engine-client.ts';
import { EngineCore } from './engine-core.ts';
import { EngineServer } from './engine-server.ts';
import { EngineClosedError, RequestError } from './errors.ts';
import type { ServerMessage } from './protocol.ts';
import type { EngineRequest } from './request.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { MockRunner, type MockRunnerOptions } from './testing/mock-runner.ts';

/** A server at one end of a channel; returns the other end. */
function serve(runnerOptions: MockRunnerOptions = {}): {
  port: MessagePort;
  kill: () => void;
  closed: Promise<void>;
} {
  const { port1, port2 } = new MessageChannel();
  const runner = new MockRunner(runnerOptions);
  const core = new EngineCore({ runner, tokenizer: byteTokenizer, eosTokenIds: [0, 1] });
  const server = new EngineServer(core, runner.limits, port1);
  return { port: port2, kill: () => port1.close(), closed: server.closed };
}

const requests = (count: number, maxTokens: number): EngineRequest[] =>
  Array.from({ length: count }, (_, i) => ({
    requestId: `request ${i}`,
    promptTokenIds: [i + 2, 3, 4, 5, 6],
    samplingParams: { maxTokens, seed: i, temperature: i % 3, ignoreEos: true, stop: '12é' },
  }));

async function expectedOf(list: EngineRequest[]): Promise<unknown[]> {
  const engine = new Engine({
    runner: new MockRunner(),
    tokenizer: byteTokenizer,
    eosTokenIds: [],
  });
  return Promise.all(
    list.map(async (request) => {
      const { tokenIds, text } = await engine.submit(request).collect();
      return { tokenIds, text };
    }),
  );
}

async function within(list: EngineRequest[], client: EngineClient): Promise<unknown[]> {
  return Promise.all(
    list.map(async (request) => {
      const { tokenIds, text } = await client.submit(request).collect();
      return { tokenIds, text };
    }),
  );
}

test('over a port requests give what they give on the own thread, one message a step', async () => {
  const { port, closed } = serve();
  let numMessages = 0;
  port.on('message', (message: ServerMessage) => {
    if (message.type === 'events') numMessages++;
  });
  const client = await EngineClient.connect(port);
  assert.equal(client.limits.vocabSize, 40);
  const list = requests(6, 20);
  assert.deepEqual(await within(list, client), await expectedOf(list));
  const stats = await client.stats();
  assert.equal(stats.numFreeBlocks, stats.numBlocks);
  assert.ok(numMessages <= stats.numSteps, `${numMessages} messages, ${stats.numSteps} steps`);
  await client.close();
  await closed;
});

test('an engine that dies in the middle of streams is replaced and no reader notices', async () => {
  const list = requests(6, 40);
  const expected = await expectedOf(list);
  let current = serve();
  let numDeaths = 0;
  const onDisconnect = (): void => {
    numDeaths++;
    current = serve();
    client.attach(current.port);
  };
  const options: EngineClientOptions = { onDisconnect };
  const client = await EngineClient.connect(current.port, options);
  const results = Promise.all(
    list.map(async (request, i) => {
      const tokenIds: number[] = [];
      let text = '';
      for await (const event of client.submit(request)) {
        text += event.text;
        if (event.type === 'token') tokenIds.push(event.tokenId);
        if (i === 0 && (tokenIds.length === 9 || tokenIds.length === 25)) current.kill();
      }
      return { tokenIds, text };
    }),
  );
  assert.deepEqual(await results, expected);
  assert.ok(numDeaths >= 2, `${numDeaths} deaths`);
  await client.close();
});

test('requests made while there is no engine wait for the next one', async () => {
  const first = serve();
  const gone = Promise.withResolvers<void>();
  const client = await EngineClient.connect(first.port, { onDisconnect: gone.resolve });
  first.kill();
  await gone.promise;
  await assert.rejects(client.stats(), EngineClosedError);
  const list = requests(3, 10);
  const results = within(list.slice(0, 2), client);
  const unwanted = client.submit(list[2]!);
  unwanted.abort();
  assert.equal((await unwanted.finished).reason, 'abort');
  assert.equal(client.openRequests.length, 2);
  await client.attach(serve().port);
  assert.deepEqual(await results, await expectedOf(list.slice(0, 2)));
  await client.close();
});

test('without a replacement every open request ends with an error', async () => {
  const { port, kill } = serve();
  const client = await EngineClient.connect(port);
  const handles = requests(3, 100).map((request) => client.submit(request));
  for await (const event of handles[0]!) {
    if (event.type === 'token') kill();
    else assert.equal(event.error?.code, 'engine_closed');
  }
  for (const handle of handles) assert.equal((await handle.finished).reason, 'error');
});

test('a reader that leaves frees its sequence, and the others go on', async () => {
  const { port } = serve();
  const client = await EngineClient.connect(port);
  const [left, stays] = requests(2, 60).map((request) => client.submit(request));
  for await (const event of left!) if (event.type === 'token') break;
  assert.equal((await left!.finished).reason, 'abort');
  assert.equal((await stays!.finished).reason, 'length');
  const stats = await client.stats();
  assert.equal(stats.numFreeBlocks, stats.numBlocks);
  assert.equal(stats.numFinished.abort, 1);
  await client.close();
});

test('shutdown ends or drains what runs, and later requests are refused', async () => {
  for (const drain of [false, true]) {
    const { port, closed } = serve();
    const client = await EngineClient.connect(port);
    const handle = client.submit(requests(1, 30)[0]!);
    await client.close({ drain });
    assert.equal((await handle.finished).reason, drain ? 'length' : 'abort');
    assert.throws(() => client.submit(requests(1, 30)[0]!), EngineClosedError);
    await closed;
  }
});

test('a request that arrives while the engine drains ends with an error', async () => {
  const { port, closed } = serve();
  const client = await EngineClient.connect(port);
  const running = client.submit(requests(1, 30)[0]!);
  port.postMessage({ type: 'shutdown', drain: true });
  const late = client.submit({ promptTokenIds: [3] });
  assert.equal((await late.finished).error?.code, 'engine_closed');
  assert.equal((await running.finished).reason, 'length');
  await closed;
});

test('wrong requests are refused before they are sent; those sent all the same end with an error', async () => {
  const { port } = serve();
  const events: ServerMessage[] = [];
  port.on('message', (message: ServerMessage) => events.push(message));
  const client = await EngineClient.connect(port);
  assert.throws(() => client.submit({ promptTokenIds: [99] }), RequestError);
  const [twice] = requests(1, 5);
  const handle = client.submit(twice!);
  assert.throws(() => client.submit(twice!), /already in use/);
  await handle.finished;
  const bad = { ...handle.request, requestId: 'bad', promptTokenIds: Int32Array.of(99) };
  port.postMessage({ type: 'submit', request: bad });
  await client.stats();
  const last = events.filter((message) => message.type === 'events').at(-1)!;
  assert.deepEqual(
    last.events.map((event) => event.type === 'finish' && [event.reason, event.error?.code]),
    [['error', 'invalid_request']],
  );
  await client.close();
});

test('an engine that goes away before it is ready rejects the connection', async () => {
  const { port1, port2 } = new MessageChannel();
  const connecting = EngineClient.connect(port2);
  port1.close();
  await assert.rejects(connecting, EngineClosedError);
});
