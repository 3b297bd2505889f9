import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import {
  Assembler,
  AssemblerError,
  as32,
  bcst,
  dword,
  eax,
  k1,
  type Mem,
  masked,
  mem,
  r9,
  r13,
  rax,
  rbx,
  rcx,
  ripMem,
  rsp,
  type Vec,
  xmm,
  ymm,
  zeroed,
  zmm,
} from './assembler.ts';
import { goldenInstructions } from './assembler-golden-cases.ts';

const GOLDEN = new URL('../../../test/fixtures/x64/assembler-golden.txt', import.meta.url);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const assembled = (emit: (a: Assembler) => void): string => {
  const a = new Assembler();
  emit(a);
  return hex(a.code());
};

describe('assembler', () => {
  it('agrees with GNU as on every form of every instruction', () => {
    const golden = readFileSync(GOLDEN, 'utf8').trimEnd().split('\n');
    const ours = goldenInstructions().map(({ text, bytes }) => `${hex(bytes)} ${text}`);
    assert.ok(golden.length > 7000);
    assert.equal(ours.length, golden.length, 'run make-assembler-golden.ts after changing tables');
    const different = ours.filter((line, i) => line !== golden[i]);
    assert.deepEqual(different.slice(0, 10), []);
  });

  it('prefers VEX, and takes EVEX for zmm, high registers, masks and broadcasts', () => {
    const first = (d: Vec, s: Vec | Mem): string =>
      assembled((a) => a.vaddps(d, d.width === 512 ? zmm(1) : ymm(1), s)).slice(0, 2);
    assert.equal(first(ymm(0), ymm(2)), 'c5');
    assert.equal(first(ymm(16), ymm(2)), '62');
    assert.equal(first(ymm(0), bcst(rax)), '62');
    assert.equal(first(masked(ymm(0), k1), ymm(2)), '62');
    assert.equal(first(zmm(0), zmm(2)), '62');
  });

  it('compresses EVEX displacements by the bytes of the operand', () => {
    assert.equal(
      assembled((a) => a.vmovups(zmm(0), mem(rax, 64))),
      '62f17c48104001',
    );
    assert.equal(
      assembled((a) => a.vmovups(zmm(0), mem(rax, 65))),
      '62f17c48108041000000',
    );
    assert.equal(
      assembled((a) => a.vaddps(zmm(0), zmm(1), bcst(rax, 4))),
      '62f17458584001',
    );
  });

  it('takes the shortest encoding of a 64-bit constant', () => {
    assert.equal(
      assembled((a) => a.mov(rax, 5)),
      'b805000000',
    );
    assert.equal(
      assembled((a) => a.mov(rax, -1)),
      '48c7c0ffffffff',
    );
    assert.equal(
      assembled((a) => a.mov(rax, 0xffff_ffff)),
      'b8ffffffff',
    );
    assert.equal(
      assembled((a) => a.mov(rax, 0x1_0000_0000)),
      '48b80000000001000000',
    );
    assert.equal(
      assembled((a) => a.mov(rax, 0xffff_ffff_ffff_ffffn)),
      '48b8ffffffffffffffff',
    );
  });

  it('jumps short to near labels behind, long to labels ahead', () => {
    assert.equal(
      assembled((a) => {
        const top = a.here();
        a.dec(rax);
        a.jne(top);
      }),
      '48ffc875fb',
    );
    assert.equal(
      assembled((a) => {
        const end = a.label();
        a.jmp(end);
        a.bind(end);
      }),
      'e900000000',
    );
    const far = new Assembler();
    const top = far.here();
    far.data(new Uint8Array(126));
    far.jmp(top);
    assert.equal(hex(far.code().subarray(126)), 'eb80');
    far.jmp(top);
    assert.equal(hex(far.code().subarray(128)), 'e97bffffff');
  });

  it('counts RIP-relative distances from the end of the instruction, immediate included', () => {
    const a = new Assembler();
    const constant = a.label();
    a.vmovups(xmm(0), ripMem(constant));
    a.vpermilps(xmm(0), ripMem(constant, 4), 0x1b);
    a.mov(dword(ripMem(constant)), 7);
    a.lea(rax, ripMem(constant));
    a.ret();
    a.bind(constant);
    const view = new DataView(a.code().buffer);
    // Ends of the four instructions: 8, 18, 28, 35; the constant is at 36.
    assert.equal(view.getInt32(4, true), 36 - 8);
    assert.equal(view.getInt32(13, true), 36 - 18 + 4);
    assert.equal(view.getInt32(20, true), 36 - 28);
    assert.equal(view.getInt32(31, true), 36 - 35);
  });

  it('pads with nops to the alignment', () => {
    for (const size of [1, 7, 15, 16, 17, 31]) {
      const a = new Assembler();
      a.data(new Uint8Array(size));
      a.align(32);
      assert.equal(a.length, 32);
    }
  });

  it('grows past its first buffer', () => {
    const a = new Assembler();
    for (let i = 0; i < 5000; i++) a.pause();
    assert.equal(a.code().length, 10000);
  });

  it('lists what it assembled', () => {
    const a = new Assembler({ listing: true });
    const top = a.here();
    a.vfmadd231ps(zeroed(zmm(1), k1), zmm(2), bcst(r13, 4, r9, 8));
    a.lockAdd(dword(mem(rsp)), 1);
    a.jcc('ne', top);
    assert.equal(
      a.listing(),
      [
        'L0:',
        '  0000  62926dd9b84ccd01          vfmadd231ps zmm1{k1}{z}, zmm2, dword ptr [r13+r9*8+4]{1to16}',
        '  0008  f083042401                lock add dword ptr [rsp], 1',
        '  000d  75f1                      jne L0',
      ].join('\n'),
    );
  });

  it('refuses what cannot be encoded, naming the instruction', () => {
    const refused: [(a: Assembler) => void, RegExp][] = [
      [(a) => a.vhaddps(ymm(16), ymm(0), ymm(1)), /vhaddps: has no EVEX.*vector register 16/],
      [(a) => a.vroundps(zmm(0), zmm(1), 3), /vroundps: has no EVEX.*512/],
      [(a) => a.vpdpbusdVex(ymm(0), ymm(1), bcst(rax)), /no EVEX.*broadcast/],
      [(a) => a.vaddps(ymm(0), xmm(1), ymm(2)), /do not fit; accepted: v v v\/m/],
      [(a) => a.vinsertf128(zmm(0), zmm(1), xmm(2), 1), /do not fit/],
      [(a) => a.vpaddb(zmm(0), zmm(1), bcst(rax)), /no embedded broadcast/],
      [(a) => a.vmovd(masked(xmm(0), k1), eax), /no write mask/],
      [(a) => a.vaddps(zmm(0), masked(zmm(1), k1), zmm(2)), /only the destination/],
      [(a) => a.vmovups({ ...masked(mem(rax), k1), zeroing: true }, zmm(0)), /zeroing/],
      [(a) => a.vshufps(xmm(0), xmm(1), xmm(2), 256), /immediate 256/],
      [(a) => a.add(rax, 2 ** 31), /add: immediate 2147483648 does not fit/],
      [(a) => a.mov(rax, 2 ** 64), /not a safe integer/],
      [(a) => a.mov(as32(rax), 2 ** 32), /does not fit 32 bits/],
      [(a) => a.add(rax, as32(rcx)), /widths differ/],
      [(a) => a.mov(mem(rax), 5), /needs a size/],
      [(a) => a.shl(rax, 64), /count 64: expected 0 to 63/],
      [(a) => a.shl(rax, rbx), /must be in cl/],
      [(a) => a.align(24), /power of two/],
      [() => mem(rax, 2 ** 31), /displacement/],
      [() => mem(rax, 0, rsp), /rsp cannot be an index/],
      [() => mem(rax, 0, rcx, 3), /index scale 3/],
      [() => zmm(32), /vector register 32/],
      [(a) => a.jmp(new Assembler().label()), /another assembler/],
    ];
    for (const [emit, message] of refused) {
      assert.throws(
        () => emit(new Assembler()),
        (error) => error instanceof AssemblerError && message.test(error.message),
        String(message),
      );
    }
    const unbound = new Assembler();
    unbound.jmp(unbound.label());
    assert.throws(() => unbound.code(), /never bound/);
  });
});
