import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import { InternalError } from '../../platform/errors.ts';
import { allocate, f32, i32, u64 } from '../../platform/native-memory.ts';
import { platformSupport } from '../../platform/support.ts';
import { Assembler, dword, eax, mem, rax, rdi, ripMem, rsi, xmm } from './assembler.ts';
import { sharedObject } from './elf.ts';
import { callerOfAddresses, loadCode, NativeCodeRefusedError } from './loader.ts';

const support = platformSupport();
const skip = support.supported ? false : support.reason;

/** Adds `value` to the 32-bit integer at the first address. */
function adder(value: number): Uint8Array {
  const a = new Assembler();
  a.add(dword(mem(rdi)), value);
  a.ret();
  return a.code();
}

describe('loader', { skip }, () => {
  it('calls functions with the addresses given, by each method', () => {
    using region = allocate(64);
    const words = u64(region.address, 4);
    const store = new Assembler();
    store.mov(mem(rdi), rdi);
    store.mov(mem(rdi, 8), rsi);
    store.ret();
    for (const method of ['memfd', 'file'] as const) {
      using code = loadCode([{ name: 'store', code: store.code() }], { methods: [method] });
      words.fill(0n);
      code.call('store', region.address, 0xfedc_ba98_7654_3210n);
      assert.deepEqual([...words], [region.address, 0xfedc_ba98_7654_3210n, 0n, 0n]);
    }
  });

  it('reads constants stored beside the code', () => {
    const a = new Assembler();
    const constant = a.label();
    a.vmovups(xmm(0), ripMem(constant));
    a.vaddps(xmm(0), xmm(0), mem(rdi));
    a.vmovups(mem(rdi), xmm(0));
    a.ret();
    a.align(16);
    a.bind(constant);
    a.data(new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
    using region = allocate(16);
    const floats = f32(region.address, 4);
    floats.set([10, 20, 30, 40]);
    using code = loadCode([{ name: 'f', code: a.code() }], { numArguments: 1 });
    code.call('f', region.address);
    assert.deepEqual([...floats], [11, 22, 33, 44]);
  });

  it('keeps many functions, and libraries of the same names, apart', () => {
    using region = allocate(4);
    const value = i32(region.address, 1);
    const functions = Array.from({ length: 300 }, (_, i) => ({ name: `f${i}`, code: adder(i) }));
    using many = loadCode(functions);
    for (let i = 0; i < 300; i++) many.call(`f${i}`, region.address, 0n);
    assert.equal(value[0], (299 * 300) / 2);
    assert.equal(new Set(functions.map((f) => many.address(f.name) % 64n)).size, 1);

    for (const methods of [['memfd'], ['file']] as const) {
      for (let round = 0; round < 3; round++) {
        // Descriptor numbers and paths are used again after each round.
        const addends = [1, 10, 100].map((n) => n * 10 ** round);
        const loaded = addends.map((n) => loadCode([{ name: 'f', code: adder(n) }], { methods }));
        value[0] = 0;
        for (const code of loaded) code.call('f', region.address, 0n);
        assert.equal(value[0], 111 * 10 ** round);
        for (const code of loaded) code.dispose();
      }
    }
  });

  it('runs in workers code that the main thread loaded', async () => {
    using region = allocate(4);
    using code = loadCode([{ name: 'add', code: adder(1) }]);
    const target = code.address('add');
    callerOfAddresses()(target, region.address, 0n);
    const workers = [1000, 2000].map(
      (n) =>
        new Worker(new URL('./loader.test-worker.ts', import.meta.url), {
          workerData: { target, table: region.address, code: adder(n) },
        }),
    );
    await Promise.all(workers.map((w) => Promise.all([once(w, 'message'), once(w, 'exit')])));
    assert.equal(i32(region.address, 1)[0], 3003);
  });

  it('closes what it opened', () => {
    const count = (): number => readdirSync('/proc/self/fd').length;
    const before = count();
    for (let i = 0; i < 20; i++) loadCode([{ name: 'f', code: adder(i) }]).dispose();
    assert.equal(count(), before);
  });

  it('cannot be used after dispose', () => {
    const code = loadCode([{ name: 'f', code: adder(1) }]);
    assert.throws(() => code.address('g'), /no function g/);
    code.dispose();
    code.dispose();
    assert.throws(() => code.call('f', 0n, 0n), /was unloaded/);
  });

  it('reports every way tried where code is refused, and leaves no file', () => {
    const folder = mkdtempSync(join(tmpdir(), 'hasten-refused-'));
    const file = join(folder, 'not-a-folder');
    writeFileSync(file, '');
    try {
      assert.throws(
        () => loadCode([{ name: 'f', code: adder(1) }], { methods: ['file'], directories: [file] }),
        (error) =>
          error instanceof NativeCodeRefusedError &&
          error.attempts.length === 1 &&
          /not-a-folder.*--target reference/.test(error.message),
      );
      loadCode([{ name: 'f', code: adder(1) }], {
        methods: ['file'],
        directories: [file, folder],
      }).dispose();
      assert.deepEqual(readdirSync(folder), ['not-a-folder']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('refuses names that cannot be symbols', () => {
    const code = adder(1);
    assert.throws(() => loadCode([]), InternalError);
    assert.throws(() => sharedObject([{ name: '', code }], 's'), /printable ASCII/);
    assert.throws(() => sharedObject([{ name: 'a b', code }], 's'), /printable ASCII/);
    const twice = [
      { name: 'f', code },
      { name: 'f', code },
    ];
    assert.throws(() => sharedObject(twice, 's'), /repeat/);
  });
});

describe('shared object', () => {
  it('is what readelf understands, where there is one', (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'hasten-elf-'));
    const path = join(folder, 'x.so');
    const a = new Assembler();
    a.mov(eax, 1);
    a.mov(rax, rdi);
    a.ret();
    writeFileSync(path, sharedObject([{ name: 'first', code: a.code() }], 'x.so'));
    try {
      const readelf = (...args: readonly string[]): string =>
        execFileSync('readelf', ['-W', ...args, path], {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'ignore'],
        });
      // -D reads symbols through the dynamic section, as there are no section headers.
      const text = readelf('-l', '-d') + readelf('-D', '-s');
      assert.match(text, /LOAD .* R E /);
      assert.match(text, /GNU_STACK .* RW /);
      assert.match(text, /soname: \[x.so\]/);
      assert.match(text, /FUNC +GLOBAL +DEFAULT .* first/);
      assert.doesNotMatch(text, /RWE|error|warning/i);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      t.skip('no readelf on this machine');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
