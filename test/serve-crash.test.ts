/** `hasten serve` while its engine is killed: what clients see of it. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { end, type Serving, serve } from './serve-process.ts';

interface Chunk {
  readonly choices: readonly { readonly text: string; readonly finish_reason: string | null }[];
  readonly error?: { readonly code: string };
}

/** The chunks of a streamed completion as they come, then `[DONE]` where it came. */
async function* streamed(url: string, body: object): AsyncGenerator<Chunk | '[DONE]'> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ stream: true, ...body }),
  });
  assert.equal(response.status, 200);
  let rest = '';
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const events = (rest + text).split('\n\n');
    rest = events.pop()!;
    for (const event of events) {
      const data = event.replace(/^data: /, '');
      yield data === '[DONE]' ? data : (JSON.parse(data) as Chunk);
    }
  }
}

async function becomesUnready(url: string): Promise<boolean> {
  for (let i = 0; i < 500; i++) {
    if ((await fetch(`${url}/readyz`)).status === 503) return true;
    await setTimeout(5);
  }
  return false;
}

/** A prompt that the model goes on from for long, greedily. */
const bodyOf = (i: number) => ({
  prompt: `Stream number ${i}: `,
  max_tokens: 200,
  temperature: 0,
  ignore_eos: true,
});

describe('hasten serve, its engine killed', () => {
  let serving: Serving;
  before(async () => {
    serving = await serve(['tiny', '--target', 'reference', '--precision', 'f32']);
  });
  after(async () => {
    assert.equal(await end(serving.child, 'SIGTERM'), 0);
  });

  test('in the middle of 16 greedy streams: all finish with the same text as undisturbed', async () => {
    const { url, enginePid } = serving;
    const run = (onChunk: () => void) =>
      Promise.all(
        Array.from({ length: 16 }, async (_, i) => {
          let text = '';
          let isDone = false;
          for await (const chunk of streamed(url, bodyOf(i))) {
            onChunk();
            if (chunk === '[DONE]') isDone = true;
            else text += chunk.choices[0]?.text ?? '';
          }
          assert.ok(isDone);
          return text;
        }),
      );
    const undisturbed = await run(() => {});
    let numChunks = 0;
    let unready: Promise<boolean> | undefined;
    const disturbed = await run(() => {
      if (++numChunks !== 16 * 50) return;
      process.kill(enginePid(), 'SIGKILL');
      unready = becomesUnready(url);
    });
    assert.deepEqual(disturbed, undisturbed);
    assert.ok(await unready);
    assert.equal((await fetch(`${url}/readyz`)).status, 200);
    assert.equal((await fetch(`${url}/healthz`)).status, 200);
    assert.match(
      serving.output().stderr,
      /ended by SIGKILL.*the engine died.*the engine runs again/s,
    );
  });

  test('twice under one request: that is refused with an error, and the server goes on', async () => {
    const { url, enginePid } = serving;
    const killed = new Set<number>();
    let failure: string | undefined;
    let isDone = false;
    for await (const chunk of streamed(url, bodyOf(0))) {
      if (chunk === '[DONE]') isDone = true;
      else if (chunk.error) failure = chunk.error.code;
      else if (!killed.has(enginePid())) {
        killed.add(enginePid());
        process.kill(enginePid(), 'SIGKILL');
      }
    }
    assert.equal(killed.size, 2);
    assert.equal(failure, 'engine_crashed');
    assert.equal(isDone, false);
    const answer = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(bodyOf(1)),
    });
    assert.equal(answer.status, 200);
  });
});
