import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { NativeMemoryError } from './native-error.ts';
import { allocate, f16, f32, i32, mapFile, u8, u64 } from './native-memory.ts';
import { platformSupport } from './support.ts';

const support = platformSupport();
const skip = support.supported ? false : support.reason;

describe('native memory', { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'hasten-memory-'));
  after(() => rmSync(folder, { recursive: true }));

  it('is zeroed, aligned, and one memory under several views', () => {
    for (const hugePages of [false, true]) {
      using region = allocate(100_000, { hugePages });
      assert.equal(region.address % (hugePages ? 2n ** 21n : 4096n), 0n);
      assert.ok(region.bytes().every((b) => b === 0));
      const floats = f32(region.address, 4);
      floats[1] = 1.5;
      assert.equal(i32(region.address, 4)[1], 0x3fc00000);
      assert.equal(f16(region.address, 4)[3], 1.9375);
      assert.equal(u64(region.address, 1)[0], 0x3fc00000n << 32n);
      assert.equal(region.bytes(4, 4)[3], 0x3f);
      const last = region.bytes(99_999, 1);
      last[0] = 7;
      assert.equal(u8(region.address + 99_999n, 1)[0], 7);
    }
  });

  it('does not take memory that is not touched', () => {
    using region = allocate(2 ** 40);
    const before = process.memoryUsage.rss();
    region.bytes(2 ** 39, 4096).fill(1);
    assert.ok(process.memoryUsage.rss() - before < 2 ** 28);
    assert.equal(region.bytes(2 ** 39 + 4095, 1)[0], 1);
    assert.equal(region.advise('dontNeed'), true);
    assert.equal(region.bytes(2 ** 39, 1)[0], 0);
  });

  it('says how much was refused', () => {
    for (const size of [0, -1, 1.5, Number.NaN]) {
      assert.throws(() => allocate(size), NativeMemoryError);
    }
    assert.throws(
      () => allocate(2 ** 52),
      (error) =>
        error instanceof NativeMemoryError &&
        error.sizeBytes === 2 ** 52 &&
        /4503599627370496 bytes: ENOMEM/.test(error.message),
    );
  });

  it('refuses views outside the region, unaligned, or after free', () => {
    const region = allocate(64);
    assert.throws(() => region.bytes(60, 5), /bytes 60 to 65 lie outside a region of 64/);
    assert.throws(() => region.bytes(-1, 1), NativeMemoryError);
    assert.throws(() => f32(region.address + 2n, 1), /not aligned to 4/);
    assert.equal(f32(region.address, 0).length, 0);
    region.free();
    region.free();
    assert.equal(region.isFreed, true);
    assert.throws(() => region.bytes(), /was freed/);
  });

  it('maps a file from any byte, and keeps the old file when it is replaced', () => {
    const path = join(folder, 'data');
    const data = Uint8Array.from({ length: 10_000 }, (_, i) => i * 7);
    writeFileSync(path, data);
    for (const sharing of ['shared', 'private'] as const) {
      using whole = mapFile(path, { sharing, populate: true });
      assert.deepEqual(whole.bytes(), data);
      assert.equal(whole.advise('willNeed', 5000), true);
      using part = mapFile(path, { sharing, offset: 4999, length: 3000 });
      assert.deepEqual(part.bytes(), data.slice(4999, 7999));
      assert.equal(part.byteLength, 3000);
      writeFileSync(
        `${path}.new`,
        data.map((x) => x ^ 255),
      );
      using held = mapFile(path);
      const before = held.bytes(123, 1)[0];
      renameSync(`${path}.new`, path);
      assert.equal(held.bytes(123, 1)[0], before);
      writeFileSync(path, data);
    }
  });

  it('refuses to map past the end, nothing, or what is not there', () => {
    const path = join(folder, 'short');
    writeFileSync(path, 'abc');
    assert.throws(() => mapFile(path, { offset: 1, length: 3 }), /3 bytes from 1 of a file of 3/);
    assert.throws(() => mapFile(path, { offset: 3 }), NativeMemoryError);
    writeFileSync(path, '');
    assert.throws(() => mapFile(path), NativeMemoryError);
    assert.throws(() => mapFile(join(folder, 'missing')), { code: 'ENOENT' });
  });

  it('hides the experimental warning of node:ffi and no other', () => {
    const script = `
      import { allocate } from ${JSON.stringify(new URL('native-memory.ts', import.meta.url).href)};
      allocate(1).free();
      process.emitWarning('FYI: still here', 'ExperimentalWarning');`;
    const { stderr, status } = spawnSync(
      process.execPath,
      ['--input-type=module-typescript', '-e', script],
      { encoding: 'utf8' },
    );
    assert.equal(status, 0, stderr);
    assert.match(stderr, /still here/);
    assert.doesNotMatch(stderr, /FFI/);
  });
});

describe('platform support', () => {
  const reasonUnder = (...flags: readonly string[]): string => {
    const script = `
      import { platformSupport } from ${JSON.stringify(new URL('support.ts', import.meta.url).href)};
      import { allocate } from ${JSON.stringify(new URL('native-memory.ts', import.meta.url).href)};
      const support = platformSupport();
      if (support.supported) throw new Error('supported');
      try { allocate(1); } catch (error) { console.log(error.code, support.reason); }`;
    const args = [...flags, '--input-type=module-typescript', '-e', script];
    const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    return stdout || stderr;
  };

  it('says why node:ffi cannot be used', { skip }, () => {
    assert.match(
      reasonUnder('--no-experimental-ffi'),
      /^unsupported_platform Node v\S+ has no node:ffi/,
    );
    assert.match(
      reasonUnder('--permission', '--allow-fs-read=*'),
      /^unsupported_platform Node was started with --permission/,
    );
  });
});
