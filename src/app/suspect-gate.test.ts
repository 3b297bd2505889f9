import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { EngineClient } from '../engine/engine-client.ts';
import { type FinishReason, unservedFinish } from '../engine/events.ts';
import type { ClientMessage, EnginePort, ServerMessage } from '../engine/protocol.ts';
import type { PreparedRequest } from '../engine/request.ts';
import { CRASHED_ENGINE_CODE, SuspectGate } from './suspect-gate.ts';

const LIMITS = {
  maxTokens: 8,
  maxSeqs: 8,
  maxLogitRows: 8,
  maxModelLen: 64,
  blockSize: 4,
  numBlocks: 64,
  vocabSize: 100,
  hiddenSize: 8,
};

/** An engine that does what the test says. */
class ScriptedEngine implements EnginePort {
  readonly running = new Map<string, PreparedRequest>();
  readonly #onMessage: ((message: unknown) => void)[] = [];
  readonly #onClose: ((message: unknown) => void)[] = [];

  postMessage(message: ClientMessage | ServerMessage): void {
    if (message.type === 'submit') this.running.set(message.request.requestId, message.request);
    if (message.type === 'abort') this.finish(message.requestId, 'abort');
  }
  on(event: 'message' | 'close', listener: (message: unknown) => void): void {
    (event === 'message' ? this.#onMessage : this.#onClose).push(listener);
  }
  close(): void {
    for (const listener of this.#onClose) listener(undefined);
  }
  send(message: ServerMessage): void {
    for (const listener of this.#onMessage) listener(message);
  }
  token(requestId: string, tokenId: number): void {
    this.send({ type: 'events', events: [{ type: 'token', requestId, tokenId, text: '' }] });
  }
  finish(requestId: string, reason: FinishReason = 'length'): void {
    const request = this.running.get(requestId);
    assert.ok(request, requestId);
    this.running.delete(requestId);
    const event = { ...unservedFinish(request, 'abort'), reason };
    this.send({ type: 'events', events: [event] });
  }
  get ids(): string[] {
    return [...this.running.keys()];
  }
}

/** A client behind a gate, and a way to let its engine die and give it another. */
async function gated() {
  const gate = new SuspectGate();
  let engine = new ScriptedEngine();
  const connected = EngineClient.connect(gate.connect(engine), { onDisconnect: () => {} });
  engine.send({ type: 'ready', limits: LIMITS });
  const client = await connected;
  const submit = (requestId: string) =>
    client.submit({ requestId, promptTokenIds: [1], samplingParams: { maxTokens: 9 } });
  const crash = async () => {
    engine.close();
    engine = new ScriptedEngine();
    const attached = client.attach(gate.connect(engine));
    engine.send({ type: 'ready', limits: LIMITS });
    await attached;
    await setImmediate();
    return engine;
  };
  return { gate, client, submit, crash, engine: () => engine };
}

describe('requests of an engine that died', () => {
  test('run again together after the first crash, from their tokens so far', async () => {
    const { submit, crash, engine } = await gated();
    for (const id of ['a', 'b', 'c']) submit(id);
    await setImmediate();
    engine().token('b', 42);
    const second = await crash();
    assert.deepEqual(second.ids, ['a', 'b', 'c']);
    assert.deepEqual([...second.running.get('b')!.outputTokenIds], [42]);
  });

  test('run singly after the second, and only the one that dies alone is refused', async () => {
    const { gate, submit, crash, engine } = await gated();
    const handles = ['a', 'poison', 'c'].map(submit);
    await setImmediate();
    await crash();
    const third = await crash();
    assert.deepEqual(third.ids, ['a']);
    assert.equal(gate.numIsolated, 3);
    const late = submit('late');
    await setImmediate();
    assert.deepEqual(third.ids, ['a'], 'nothing runs beside a suspect');
    third.finish('a');
    assert.deepEqual(third.ids, ['poison']);
    const fourth = await crash();
    const refused = await handles[1]!.finished;
    assert.equal(refused.reason, 'error');
    assert.equal(refused.error?.code, CRASHED_ENGINE_CODE);
    assert.deepEqual(fourth.ids, ['c']);
    fourth.finish('c');
    assert.deepEqual(fourth.ids, ['late']);
    fourth.finish('late');
    assert.deepEqual(
      await Promise.all(
        [handles[0]!, handles[2]!, late].map(async (h) => (await h.finished).reason),
      ),
      ['length', 'length', 'length'],
    );
    assert.equal(engine().ids.length, 0);
  });

  test('a single one is tried twice', async () => {
    const { submit, crash } = await gated();
    const handle = submit('only');
    await setImmediate();
    assert.deepEqual((await crash()).ids, ['only']);
    assert.deepEqual((await crash()).ids, []);
    assert.equal((await handle.finished).error?.code, CRASHED_ENGINE_CODE);
  });

  test('those that came after the first crash are no suspects of it', async () => {
    const { submit, crash, engine } = await gated();
    submit('old');
    await setImmediate();
    await crash();
    engine().finish('old');
    submit('new');
    await setImmediate();
    assert.deepEqual((await crash()).ids, ['new']);
  });

  test('held ones can be aborted', async () => {
    const { submit, crash, engine } = await gated();
    const [, b] = ['a', 'b'].map(submit);
    await setImmediate();
    await crash();
    await crash();
    b!.abort();
    assert.equal((await b!.finished).reason, 'abort');
    engine().finish('a');
    assert.deepEqual(engine().ids, []);
  });
});
