import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  KvSessionError,
  type KvSessionFormat,
  readKvSession,
  writeKvSession,
} from './kv-session.ts';

const FORMAT: KvSessionFormat = { fingerprint: 'a model', blockSize: 4, blockBytes: 64 };
const NUM_BLOCKS = 3;
const TOKENS = Int32Array.from({ length: 4 * NUM_BLOCKS }, (_, i) => i * i);

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-session-'));
  try {
    await run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const write = (path: string): Promise<void> =>
  writeKvSession(path, FORMAT, TOKENS, (index, into) => void into.fill(index + 1));

async function read(path: string, format = FORMAT): Promise<{ tokens: number[]; fill: number[] }> {
  const fill: number[] = [];
  const tokens = await readKvSession(path, format, (index, tokenIds, bytes) => {
    assert.equal(index, fill.length);
    assert.equal(tokenIds.length, TOKENS.length);
    assert.ok(bytes.every((byte) => byte === bytes[0]));
    fill.push(bytes[0]!);
    return true;
  });
  return { tokens: [...tokens], fill };
}

const WHOLE = { tokens: [...TOKENS], fill: [1, 2, 3] };

test('what was written is read again, as far as it is wanted, and nobody else may read the file', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.session');
    await write(path);
    assert.deepEqual(await read(path), WHOLE);
    const part = await readKvSession(path, FORMAT, (index) => index < 1);
    assert.deepEqual([...part], [...TOKENS.subarray(0, 4)]);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(folder), ['x.session']);
  }));

test('any byte that is another, and any end that comes early, is noticed', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.session');
    await write(path);
    const bytes = readFileSync(path);
    const damaged = join(folder, 'damaged');
    for (let at = 0; at < bytes.length; at++) {
      const copy = Buffer.from(bytes);
      copy[at]! ^= 0x10;
      writeFileSync(damaged, copy);
      await assert.rejects(read(damaged), KvSessionError, `byte ${at}`);
    }
    for (let length = 0; length < bytes.length; length += 7) {
      writeFileSync(damaged, bytes.subarray(0, length));
      await assert.rejects(read(damaged), KvSessionError, `${length} bytes`);
    }
    writeFileSync(damaged, Buffer.concat([bytes, Buffer.of(0)]));
    await assert.rejects(read(damaged), /its header says/);
  }));

test('files that are no session, of another model, or not there are refused by name', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.session');
    await write(path);
    await assert.rejects(
      read(path, { ...FORMAT, fingerprint: 'another' }),
      /fingerprint a model; this engine has another/,
    );
    await assert.rejects(read(path, { ...FORMAT, blockSize: 8 }), /blockSize 4/);
    await assert.rejects(read(path, { ...FORMAT, blockBytes: 65 }), /blockBytes 64/);
    await assert.rejects(read(join(folder, 'none')), KvSessionError);
    await assert.rejects(read(folder), KvSessionError);
    const other = join(folder, 'other');
    writeFileSync(other, 'GGUF and more than twelve bytes of it');
    await assert.rejects(read(other), /not a saved session/);
    // Counts that would take all memory if they were believed.
    const length = Buffer.alloc(4);
    length.writeUInt32LE(0xfffffff0);
    writeFileSync(other, Buffer.concat([Buffer.from('hastenKV'), length, Buffer.alloc(100)]));
    await assert.rejects(read(other), /a header of 4294967280 bytes in a file of 112/);
    const header = Buffer.from(
      JSON.stringify({ ...FORMAT, version: 1, numBlocks: 2 ** 40, checksums: [] }),
    );
    length.writeUInt32LE(header.length);
    writeFileSync(other, Buffer.concat([Buffer.from('hastenKV'), length, header]));
    await assert.rejects(read(other), /its header is not one of version 1/);
  }));

test('where nothing can be written the old file stays', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.session');
    await write(path);
    const failing = writeKvSession(path, FORMAT, TOKENS, (index) => {
      if (index === 2) throw new Error('the block is gone');
    });
    await assert.rejects(failing, /the block is gone/);
    assert.deepEqual(await read(path), WHOLE);
    await assert.rejects(write(join(path, 'below a file')), KvSessionError);
    assert.deepEqual(readdirSync(folder), ['x.session']);
  }));

test('a kill in the middle leaves no half file', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.session');
    const module = fileURLToPath(new URL('./kv-session.ts', import.meta.url));
    const script = `
      import { writeKvSession } from ${JSON.stringify(module)};
      const format = { fingerprint: 'a model', blockSize: 4, blockBytes: 1024 };
      let index = 0;
      await writeKvSession(process.argv[1], format, new Int32Array(400_000), () => {
        if (++index === 20) process.stdout.write('begun');
      });`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script, path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = new Promise<NodeJS.Signals | null>((resolve) =>
      child.on('close', (_, signal) => resolve(signal)),
    );
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.kill('SIGKILL');
    assert.equal(await ended, 'SIGKILL', 'it was to be killed before it was done');
    assert.ok(!readdirSync(folder).includes('x.session'));
    for (let tries = 0; tries < 50 && readdirSync(folder).length !== 1; tries++) await delay(20);
    assert.equal(readdirSync(folder).length, 1, 'what it had written so far');
    await write(path);
    assert.deepEqual(readdirSync(folder), ['x.session'], 'the next one clears up');
  }));
