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
import { setImmediate } from 'node:timers/promises';
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

async function withTier(
  numBlocks: number,
  run: (tier: KvDiskTier, folder: string) => Promise<void>,
  maxStagedBytes?: number,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-tier-'));
  try {
    const maxBytes = numBlocks * BLOCK_BYTES + 5;
    const options = { folder, maxBytes, blockBytes: BLOCK_BYTES };
    using tier = new KvDiskTier({ ...options, ...(maxStagedBytes && { maxStagedBytes }) });
    await run(tier, folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Reads and writes that were begun are over. */
async function settled(tier: KvDiskTier): Promise<void> {
  while (tier.numInFlight > 0) await setImmediate();
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

test('gives back what it was given, once, and the least recently used gives way', async () => {
  await withTier(3, async (tier, folder) => {
    assert.deepEqual(readdirSync(folder), [], 'nothing is left behind, whatever ends the process');
    for (const key of [1, 2, 3]) tier.store(contentOf(key), bytesOf(key));
    await settled(tier);
    tier.store(contentOf(1), bytesOf(1));
    tier.store(contentOf(4), bytesOf(4));
    assert.equal(tier.numBlocks, 3);
    assert.equal(tier.find(2), null);
    assert.equal(tier.find(1)?.seal, 1);
    await settled(tier);
    assert.deepEqual(tier.take(1), bytesOf(1));
    assert.equal(tier.take(1), null);
    tier.forget(3);
    for (const key of [5, 6]) tier.store(contentOf(key), bytesOf(key));
    await settled(tier);
    assert.deepEqual(tier.take(4), bytesOf(4), 'free places are used before others give way');
    assert.equal(tier.fault, null);
    assert.equal(tier.numDropped, 0);
  });
});

test('what is on its way to the file can be taken, forgotten and stored anew', async () => {
  await withTier(3, async (tier) => {
    for (const key of [1, 2, 3]) tier.store(contentOf(key), bytesOf(key));
    assert.equal(tier.numInFlight, 3);
    const taken = tier.take(1)!;
    assert.deepEqual(taken, bytesOf(1));
    tier.buffers.giveBack(taken);
    tier.forget(2);
    tier.store(contentOf(3), bytesOf(30));
    assert.equal(tier.numBlocks, 0, 'all three places are still being written');
    assert.equal(tier.numDropped, 1);
    await settled(tier);
    for (const key of [4, 5, 6]) tier.store(contentOf(key), bytesOf(key));
    await settled(tier);
    for (const key of [4, 5, 6]) assert.deepEqual(tier.take(key), bytesOf(key));
    assert.equal(tier.fault, null);
  });
});

test('a disk that does not keep up costs content and no memory', async () => {
  const maxStaged = 4;
  await withTier(
    100,
    async (tier) => {
      for (let key = 1; key <= 10; key++) tier.store(contentOf(key), bytesOf(key));
      assert.deepEqual([tier.numInFlight, tier.numBlocks, tier.numDropped], [4, 4, 6]);
      await settled(tier);
      for (let key = 11; key <= 14; key++) tier.store(contentOf(key), bytesOf(key));
      await settled(tier);
      assert.deepEqual([tier.numBlocks, tier.numDropped], [8, 6]);
      const keys = [1, 2, 3, 4, 11, 12, 13, 14];
      const reading = tier.readAhead(keys);
      assert.equal(tier.numInFlight, maxStaged);
      await reading;
      for (const key of keys) assert.deepEqual(tier.take(key), bytesOf(key), 'read ahead or not');
    },
    maxStaged * BLOCK_BYTES,
  );
});

test('content read ahead is taken without the file, and changes meanwhile are respected', async () => {
  await withTier(6, async (tier, folder) => {
    for (const key of [1, 2, 3, 4]) tier.store(contentOf(key), bytesOf(key));
    assert.equal(tier.readAhead([1, 2]), null, 'still in memory');
    await settled(tier);
    assert.equal(tier.readAhead([7]), null, 'unknown');
    const reading = tier.readAhead([1, 2, 3, 4]);
    const joined = tier.readAhead([1, 2]);
    assert.equal(tier.numInFlight, 4, 'nothing is read twice');
    tier.forget(2);
    assert.deepEqual(tier.take(3), bytesOf(3));
    tier.store(contentOf(4), bytesOf(40));
    await Promise.all([reading, joined]);
    await settled(tier);
    assert.equal(tier.readAhead([1]), null);
    truncateSync(fileIn(folder), 0);
    assert.deepEqual(tier.take(1), bytesOf(1));
    assert.equal(tier.take(2), null);
    assert.equal(tier.fault, null);
    assert.equal(tier.take(4), null);
    assert.match(tier.fault!, /0 of 8192 bytes/);
  });
});

test('what was read ahead for nobody makes room', async () => {
  await withTier(
    8,
    async (tier, folder) => {
      for (const key of [1, 2, 3, 4]) {
        tier.store(contentOf(key), bytesOf(key));
        await settled(tier);
      }
      await tier.readAhead([1, 2]);
      await tier.readAhead([3, 4]);
      truncateSync(fileIn(folder), 0);
      assert.deepEqual(tier.take(3), bytesOf(3));
      assert.deepEqual(tier.take(4), bytesOf(4));
      assert.equal(tier.take(1), null);
      assert.notEqual(tier.fault, null);
    },
    2 * BLOCK_BYTES,
  );
});

test('a block that comes back with other bytes is no block, and the disk is not trusted again', async () => {
  for (const isAhead of [false, true]) {
    await withTier(4, async (tier, folder) => {
      for (const key of [1, 2]) tier.store(contentOf(key), bytesOf(key));
      await settled(tier);
      const file = openSync(fileIn(folder), 'r+');
      writeSync(file, Uint8Array.of(9), 0, 1, BLOCK_BYTES / 2);
      closeSync(file);
      if (isAhead) await tier.readAhead([1]);
      assert.equal(tier.take(1), null);
      assert.match(tier.fault!, /other bytes/);
      assert.equal(tier.find(2), null);
      tier.store(contentOf(3), bytesOf(3));
      assert.equal(tier.numBlocks, 0);
    });
  }
});

test('the file is closed when the last write is over, and not before', async () => {
  await withTier(4, async (tier, folder) => {
    for (const key of [1, 2]) tier.store(contentOf(key), bytesOf(key));
    tier[Symbol.dispose]();
    assert.notEqual(fileIn(folder), undefined);
    await settled(tier);
    while (fileIn(folder) !== undefined) await setImmediate();
    assert.equal(tier.fault, null);
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
