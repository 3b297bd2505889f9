import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { EngineClosedError } from '../engine/errors.ts';
import { DEFAULT_SAMPLING_PARAMS } from '../engine/sampling-params.ts';
import {
  EngineDiedError,
  EngineHost,
  type EngineHostOptions,
  EngineStartError,
} from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';

const TINY = fileURLToPath(new URL('../../assets/models/tiny', import.meta.url));

const setup: EngineSetup = {
  path: TINY,
  target: 'reference',
  precision: 'f32',
  threads: 1,
  planCacheFolder: null,
};
const CONNECT = { defaults: DEFAULT_SAMPLING_PARAMS, tokenText: null, eosTokenIds: [2] };
const request = { promptTokenIds: [1, 5, 6], samplingParams: { maxTokens: 200, ignoreEos: true } };

function startHost(
  changes: Partial<EngineSetup> = {},
  options: EngineHostOptions = {},
): EngineHost {
  const host = new EngineHost();
  host.open({ ...setup, ...changes }, options);
  return host;
}

describe('an engine on its own thread', () => {
  test('answers, reports stats, and ends when it is disposed of', async () => {
    const host = startHost();
    const engine = await host.connect(CONNECT);
    const { tokenIds, finish } = await engine.submit(request).collect();
    assert.equal(tokenIds.length, 200);
    assert.equal(finish.reason, 'length');
    const stats = await engine.stats();
    assert.equal(stats.numFinished.length, 1);
    assert.equal(stats.numFreeBlocks, stats.numBlocks);
    await host[Symbol.asyncDispose]();
    assert.throws(() => engine.submit(request), EngineClosedError);
  });

  test('frees the blocks of an aborted request at once', async () => {
    await using host = startHost();
    const engine = await host.connect(CONNECT);
    const handle = engine.submit(request);
    for await (const event of handle) {
      assert.equal(event.type, 'token');
      break;
    }
    assert.equal((await handle.finished).reason, 'abort');
    const stats = await engine.stats();
    assert.equal(stats.numRunning, 0);
    assert.equal(stats.numFreeBlocks, stats.numBlocks);
  });

  test('says why a model cannot be loaded, with the code of the fault', async () => {
    const host = startHost({ maxModelLen: 4000 });
    await assert.rejects(host.connect(CONNECT), (error: Error) => {
      assert.ok(error instanceof EngineStartError);
      assert.equal(error.code, 'does_not_fit');
      assert.match(error.message, /4000.*256/);
      return true;
    });
  });

  test('can be given up while it loads', async () => {
    const controller = new AbortController();
    const host = startHost({}, { signal: controller.signal });
    const connecting = host.connect(CONNECT);
    controller.abort(new RangeError('enough'));
    await assert.rejects(connecting, RangeError);
  });

  test('ends its requests and refuses further ones when its thread dies', async () => {
    const host = startHost();
    const engine = await host.connect(CONNECT);
    const handle = engine.submit(request);
    await host.kill();
    const finish = await handle.finished;
    assert.equal(finish.reason, 'error');
    assert.equal(finish.error?.code, 'engine_closed');
    assert.ok((await host.failure) instanceof EngineDiedError);
    assert.throws(() => engine.submit(request), EngineClosedError);
    await host[Symbol.asyncDispose]();
  });
});
