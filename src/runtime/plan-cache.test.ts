import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { nativeIsas, nativeRunner, skipNative } from '../../test/native-models.ts';
import { assertSameBits } from '../../test/same-bits.ts';
import { StepDriver } from '../../test/step-driver.ts';
import type { Plan } from '../compiler/plan.ts';
import { loadModelDescription, type ModelDescription } from '../models/load-model.ts';
import { u8 } from '../platform/native-memory.ts';
import { planRunner } from './compile-model.ts';
import { PlanCacheError } from './errors.ts';
import { packWeights } from './packed-weights.ts';
import { cachedWeights } from './plan-cache.ts';

const FIXTURE = path.join(import.meta.dirname, '../../test/fixtures/tiny-gguf/llama-q4_0.gguf');
const PROGRAM = fileURLToPath(new URL('./testing/cache-process.ts', import.meta.url));
const LIMITS = { maxTokens: 32, maxSeqs: 2, maxLogitRows: 32, maxModelLen: 64, numBlocks: 8 };
const MAX_BYTES = 2 ** 30;

const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describe('plan cache', { skip: skipNative }, () => {
  const root = mkdtempSync(path.join(tmpdir(), 'hasten-plans-'));
  const file = path.join(root, 'model.gguf');
  let numFolders = 0;
  let folder: string;
  let model: ModelDescription;
  let plan: Plan;
  /** Of the image, packed without a cache. */
  let expected: string;

  before(() => {
    copyFileSync(FIXTURE, file);
    model = loadModelDescription(file);
    const { config, weights: source } = model;
    const options = { source, config, target: 'avx2', precision: 'fast', threads: 1 } as const;
    plan = planRunner({ ...options, planCacheFolder: null }, 'avx2').plan;
    const image = new Uint8Array(plan.weightBytes);
    packWeights(plan.weights, source, (offset, piece) => image.set(piece, offset));
    expected = digestOf(image);
  });
  beforeEach(() => {
    folder = path.join(root, `${numFolders++}`, 'plans');
  });
  after(() => {
    model[Symbol.dispose]();
    rmSync(root, { recursive: true });
  });

  /** Takes the image from the cache, checks it, and says whether it was there. */
  async function take(options: { maxBytes?: number } = {}): Promise<boolean> {
    const { maxBytes = MAX_BYTES } = options;
    using image = await cachedWeights(plan, model.weights, { folder, maxBytes });
    assert.equal(digestOf(u8(image.address, plan.weightBytes)), expected);
    return image.wasCached;
  }

  async function answer(args: readonly string[], program = process.execPath) {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    return JSON.parse(await text(child.stdout));
  }

  /** The only file in the cache. */
  function onlyFile(): string {
    const names = readdirSync(folder);
    assert.equal(names.length, 1, names.join(' '));
    return path.join(folder, names[0]!);
  }

  it('packs at the first start and maps at the next', async () => {
    assert.equal(await take(), false);
    assert.equal(await take(), true);
    assert.equal(statSync(onlyFile()).mode & 0o777, 0o600);
    assert.equal(statSync(folder).mode & 0o777, 0o700);
    assert.equal(statSync(path.dirname(folder)).mode & 0o777, 0o700);
  });

  const damages: Record<string, (cached: string) => void> = {
    'cut short': (cached) => truncateSync(cached, statSync(cached).size - 1),
    grown: (cached) => truncateSync(cached, statSync(cached).size + 1),
    empty: (cached) => truncateSync(cached, 0),
    'of another kind': (cached) => {
      const bytes = readFileSync(cached);
      bytes.write('NOTHASTE', 0, 'latin1');
      writeFileSync(cached, bytes);
    },
    'of another model': (cached) => {
      const bytes = readFileSync(cached);
      bytes.write('0123456789abcdef', bytes.indexOf('"fingerprint":"') + 15, 'latin1');
      writeFileSync(cached, bytes);
    },
  };
  for (const [what, damage] of Object.entries(damages)) {
    it(`packs again in place of a file that is ${what}`, async () => {
      await take();
      damage(onlyFile());
      assert.equal(await take(), false);
      assert.equal(await take(), true);
    });
  }

  it('packs again when the model file was changed', async () => {
    await take();
    const seconds = statSync(file).mtimeMs / 1000;
    utimesSync(file, seconds, seconds + 10);
    assert.equal(await take(), false);
    assert.equal(readdirSync(folder).length, 2);
    assert.equal(await take(), true);
  });

  it('removes what was used longest ago when the limit is reached', async () => {
    mkdirSync(folder, { recursive: true });
    const old = ['a', 'b', 'c'].map((name) => path.join(folder, `${name}.weights`));
    for (const [i, name] of old.entries()) {
      writeFileSync(name, new Uint8Array(1000));
      utimesSync(name, 1e9 + i, 1e9 + i);
    }
    writeFileSync(path.join(folder, 'notes.txt'), 'not of the cache');
    await take({ maxBytes: plan.weightBytes + 1500 });
    const names = readdirSync(folder).filter((name) => name.length < 20);
    assert.deepEqual(names, ['c.weights', 'notes.txt']);
  });

  it('counts a start as a use', async () => {
    await take();
    const cached = onlyFile();
    utimesSync(cached, 1e9, 1e9);
    await take();
    assert.ok(Date.now() - statSync(cached).mtimeMs < 60_000);
  });

  it('keeps a removed file for those who have it mapped', async () => {
    using image = await cachedWeights(plan, model.weights, { folder, maxBytes: MAX_BYTES });
    rmSync(onlyFile());
    assert.equal(digestOf(u8(image.address, plan.weightBytes)), expected);
  });

  it('says so when the weights are larger than the limit', async () => {
    await assert.rejects(
      take({ maxBytes: plan.weightBytes - 1 }),
      (error) => error instanceof PlanCacheError && error.message.includes(`${plan.weightBytes}`),
    );
  });

  it('runs without the cache, with a warning, where the folder cannot be made', async () => {
    folder = path.join(file, 'plans'); // inside what is no folder: refused to everybody
    await assert.rejects(take(), PlanCacheError);
    const warned = once(process, 'warning');
    const settings = { isa: nativeIsas[0]!, precision: 'fast', threads: 1 } as const;
    using cacheless = await nativeRunner(model, { ...settings, planCacheFolder: folder }, LIMITS);
    using other = await nativeRunner(model, settings, LIMITS);
    const [warning] = await warned;
    assert.match(warning.message, /cannot be kept.*HASTEN_CACHE/);
    const [logits, wanted] = [cacheless, other].map((runner) =>
      new StepDriver(runner).logitsOfAll([5, 9, 2]),
    );
    assertSameBits(logits!, wanted!, 'packed into memory');
  });

  it('uses what is in a folder that it cannot write to, and says so where that does not help', async () => {
    await take();
    chmodSync(onlyFile(), 0o444);
    const empty = path.join(root, 'empty');
    mkdirSync(empty);
    for (const readable of [root, path.dirname(folder)]) chmodSync(readable, 0o755);
    for (const readOnly of [folder, empty]) chmodSync(readOnly, 0o555);
    const [kept, refused] = await Promise.all(
      [folder, empty].map((readOnly) => answer([PROGRAM, file, readOnly, 'unprivileged'])),
    );
    for (const readOnly of [folder, empty]) chmodSync(readOnly, 0o755);
    assert.deepEqual(kept, { wasCached: true, digest: expected });
    assert.deepEqual(refused, { error: 'PlanCacheError' });
  });

  it('leaves nothing behind when the disk is full', async () => {
    // A limit on the size of files stands for a full disk: writing fails in the middle.
    const limited = ['-c', 'ulimit -f 100; exec "$0" "$@"', process.execPath];
    const said = await answer([...limited, PROGRAM, file, folder], 'sh');
    assert.deepEqual(said, { error: 'PlanCacheError' });
    assert.deepEqual(readdirSync(folder), []);
  });

  it('gives processes that start at once the same weights', async () => {
    const answers = await Promise.all([0, 1, 2].map(() => answer([PROGRAM, file, folder])));
    for (const { digest } of answers) assert.equal(digest, expected);
    assert.equal(await take(), true);
    onlyFile();
  });

  it('takes no half-packed file for a whole one after a kill', async () => {
    const child = spawn(process.execPath, [PROGRAM, file, folder, 'hang']);
    await once(child.stdout, 'data');
    const names = readdirSync(folder);
    assert.equal(names.length, 1);
    assert.match(names[0]!, /^\..*\.tmp$/);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.deepEqual(readdirSync(folder), names);
    assert.equal(await take(), false);
    assert.match(onlyFile(), /\.weights$/, 'the rest of the killed one is gone');
  });
});
