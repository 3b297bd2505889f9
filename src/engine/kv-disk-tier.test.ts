import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { EngineSetupError } from './errors.ts';
import { KvDiskTier } from './kv-disk-tier.ts';
import type { SealedContent } from './kv-store.ts';

const BLOCK_BYTES = 8192;

const contentOf = (hashKey: number): SealedContent => ({
  seal: hashKey,
  parentSeal: 0,
  hashKey,
  tokenIds: Int32Array.of(hashKey),
});

const bytesOf = (hashKey: number): Uint8Array => new Uint8Array(BLOCK_BYTES).fill(hashKey);

function withTier(numBlocks: number, run: (tier: KvDiskTier, folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-tier-'));
  try {
    const maxBytes = numBlocks * BLOCK_BYTES + 5;
    using tier = new KvDiskTier({ folder, maxBytes, blockBytes: BLOCK_BYTES });
    run(tier, folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The tier's file, which has no name any more. */
function fileIn(folder: string): string {
  const links = readdirSync('/proc/self/fd').map((fd) => join('/proc/self/fd', fd));
  return links.find((link) => {
    try {
      return readlinkSync(link).startsWith(folder);
    } catch {
      return false; // The one that listed the others.
    }
  })!;
}

test('gives back what it was given, once, and the least recently used gives way', () => {
  withTier(3, (tier, folder) => {
    assert.deepEqual(readdirSync(folder), [], 'nothing is left behind, whatever ends the process');
    for (const key of [1, 2, 3]) tier.store(contentOf(key), bytesOf(key));
    tier.store(contentOf(1), bytesOf(1));
    tier.store(contentOf(4), bytesOf(4));
    assert.equal(tier.numBlocks, 3);
    assert.equal(tier.find(2), null);
    assert.equal(tier.find(1)?.seal, 1);
    const into = new Uint8Array(BLOCK_BYTES);
    assert.equal(tier.take(1, into), true);
    assert.deepEqual(into, bytesOf(1));
    assert.equal(tier.take(1, into), false);
    tier.forget(3);
    for (const key of [5, 6]) tier.store(contentOf(key), bytesOf(key));
    assert.equal(tier.take(4, into), true, 'free places are used before others give way');
    assert.deepEqual(into, bytesOf(4));
    assert.equal(tier.fault, null);
  });
});

test('a block that comes back with other bytes is no block, and the disk is not trusted again', () => {
  withTier(4, (tier, folder) => {
    for (const key of [1, 2]) tier.store(contentOf(key), bytesOf(key));
    const file = openSync(fileIn(folder), 'r+');
    writeSync(file, Uint8Array.of(9), 0, 1, BLOCK_BYTES / 2);
    closeSync(file);
    const into = new Uint8Array(BLOCK_BYTES);
    assert.equal(tier.take(1, into), false);
    assert.match(tier.fault!, /other bytes/);
    assert.equal(tier.find(2), null);
    tier.store(contentOf(3), bytesOf(3));
    assert.equal(tier.numBlocks, 0);
  });
});

test('a file that became shorter is noticed', () => {
  withTier(4, (tier, folder) => {
    tier.store(contentOf(1), bytesOf(1));
    truncateSync(fileIn(folder), 100);
    assert.equal(tier.take(1, new Uint8Array(BLOCK_BYTES)), false);
    assert.match(tier.fault!, /100 of 8192 bytes/);
  });
});

test('a folder that cannot be, and room for no block, are told before anything runs', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-tier-'));
  const file = join(folder, 'file');
  writeFileSync(file, '');
  const options = { maxBytes: BLOCK_BYTES, blockBytes: BLOCK_BYTES };
  assert.throws(() => new KvDiskTier({ ...options, folder: join(file, 'x') }), EngineSetupError);
  assert.throws(() => new KvDiskTier({ ...options, folder, maxBytes: 10 }), EngineSetupError);
  rmSync(folder, { recursive: true });
});

test('a full disk ends the use of the disk and nothing else', () => {
  const script = fileURLToPath(new URL('./testing/full-disk.ts', import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), 'hasten-tier-'));
  // No file may grow beyond 8 blocks of 512 bytes.
  const shell = `ulimit -f 8 && exec "${process.execPath}" "${script}" "${folder}" | cat`;
  const output = execFileSync('sh', ['-c', shell], { encoding: 'utf8', timeout: 60_000 });
  rmSync(folder, { recursive: true });
  const { diskFault, numRestored, isEqual, numErrors } = JSON.parse(output);
  assert.match(diskFault, /EFBIG|bytes written/);
  assert.ok(numRestored > 0, 'the disk was in use before');
  assert.equal(isEqual, true);
  assert.equal(numErrors, 0);
});
