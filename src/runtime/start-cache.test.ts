import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { Plan } from '../compiler/plan.ts';
import { readStart, startKey, writeStart } from './start-cache.ts';

describe('the cache of plans and code', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'hasten-start-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const key = startKey({ model: 'a' });
  const compiled = {
    plan: { weightBytes: 5, commands: [{ label: 'x' }] } as unknown as Plan,
    kernels: [
      { name: 'k0', params: ['x', 'out'], scratchBytes: 64, code: Uint8Array.of(1, 2, 3) },
      { name: 'k1', params: [], scratchBytes: 0, code: Uint8Array.of(0xc3) },
    ],
  };
  const stored = (): string => path.join(folder, readdirSync(folder)[0]!);

  it('gives back what was stored', async () => {
    await writeStart(folder, key, compiled);
    const read = readStart(folder, key);
    assert.deepEqual(read?.plan, compiled.plan);
    assert.deepEqual(
      read?.kernels.map((k) => ({ ...k, code: [...k.code] })),
      compiled.kernels.map((k) => ({ ...k, code: [...k.code] })),
    );
  });

  it('answers null for another key, and where nothing is', async () => {
    assert.equal(readStart(folder, key), null);
    await writeStart(folder, key, compiled);
    assert.equal(readStart(folder, startKey({ model: 'b' })), null);
    assert.equal(readStart(path.join(folder, 'none'), key), null);
  });

  it('does not use a file or folder that others may write', async () => {
    await writeStart(folder, key, compiled);
    chmodSync(stored(), 0o666);
    assert.equal(readStart(folder, key), null);
    chmodSync(stored(), 0o600);
    chmodSync(folder, 0o777);
    assert.equal(readStart(folder, key), null);
    chmodSync(folder, 0o700);
    assert.notEqual(readStart(folder, key), null);
  });

  it('does not use a file that was cut off, lengthened, or renamed to another key', async () => {
    await writeStart(folder, key, compiled);
    const file = stored();
    const bytes = readFileSync(file);
    for (let length = 0; length < bytes.length; length += 7) {
      writeFileSync(file, bytes.subarray(0, length));
      assert.equal(readStart(folder, key), null, `cut to ${length}`);
    }
    writeFileSync(file, Buffer.concat([bytes, Buffer.from([0])]));
    assert.equal(readStart(folder, key), null);
    const other = startKey({ model: 'b' });
    writeFileSync(path.join(folder, `${other}.start`), bytes, { mode: 0o600 });
    assert.equal(readStart(folder, other), null);
  });

  it('does not use a file with any bit changed', async () => {
    await writeStart(folder, key, compiled);
    const file = stored();
    const bytes = readFileSync(file);
    for (let at = 0; at < bytes.length; at++) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 1 << (at % 8);
      writeFileSync(file, damaged);
      assert.equal(readStart(folder, key), null, `byte ${at}`);
    }
  });

  it('a folder that cannot be written is no error', async () => {
    const file = path.join(folder, 'file');
    writeFileSync(file, '');
    await writeStart(path.join(file, 'below'), key, compiled);
  });
});
