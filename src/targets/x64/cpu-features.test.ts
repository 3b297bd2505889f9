import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { platformSupport } from '../../platform/support.ts';
import { type CpuidRegisters, detectCpu, parseCpuid } from './cpu-features.ts';

const support = platformSupport();
const skip = support.supported ? false : support.reason;

/** The registers that spell a string. */
const words = (text: string): number[] => [
  ...new Uint32Array(Uint8Array.from(text, (c) => c.charCodeAt(0)).buffer),
];
const bits = (...ns: readonly number[]): number => ns.reduce((x, n) => x | (1 << n), 0);

/** Alder Lake without AVX-512, as far as the parser looks. */
const ALDER_LAKE: Record<string, CpuidRegisters> = {
  // 'GenuineIntel' is in ebx, edx, ecx.
  '0': [0x20, 0x756e6547, 0x6c65746e, 0x49656e69],
  '1': [0x00090675, 0, bits(12, 27, 28, 29), 0],
  '4': [bits(0, 5), (11 << 22) | 63, 63, 0], // 48 KiB data, level 1
  '4:1': [bits(1, 5), (7 << 22) | 63, 63, 0], // instructions
  '4:2': [(2 << 5) | 3, (9 << 22) | 63, 2047, 0], // 1.25 MiB, level 2
  '4:3': [(3 << 5) | 3, (11 << 22) | 63, 32767, 0], // 24 MiB, level 3
  '7': [1, bits(5, 8), 0, 0],
  '7:1': [bits(4), 0, 0, 0],
  '2147483648': [-0x7ffffff8, 0, 0, 0],
};
/** The same with AVX-512, VNNI and BF16. */
const WITH_AVX512: Record<string, CpuidRegisters> = {
  ...ALDER_LAKE,
  '7': [1, bits(5, 8, 16, 17, 30, 31), bits(1, 11), 0],
  '7:1': [bits(4, 5), 0, 0, 0],
};

const answering =
  (table: Record<string, CpuidRegisters>) =>
  (leaf: number, subleaf = 0): CpuidRegisters =>
    table[subleaf === 0 ? String(leaf) : `${leaf}:${subleaf}`] ?? [0, 0, 0, 0];

describe('cpu features', () => {
  it('reads vendor, model, caches and features of a processor without AVX-512', () => {
    const cpu = parseCpuid(answering(ALDER_LAKE), () => 0x7);
    assert.equal(cpu.vendor, 'GenuineIntel');
    assert.equal(cpu.family, 6);
    assert.equal(cpu.model, 0x97);
    assert.deepEqual(cpu.cacheBytes, { l1d: 48 * 1024, l2: 1280 * 1024, l3: 24 * 2 ** 20 });
    const { avx2, fma, f16c, bmi2, avxvnni, avx512f } = cpu;
    assert.deepEqual(
      { avx2, fma, f16c, bmi2, avxvnni, avx512f },
      { avx2: true, fma: true, f16c: true, bmi2: true, avxvnni: true, avx512f: false },
    );
  });

  it('believes the operating system, not only the processor', () => {
    const cpuid = answering(WITH_AVX512);
    const all = parseCpuid(cpuid, () => 0xe7);
    assert.ok(all.avx512f && all.avx512bw && all.avx512vl && all.avx512dq);
    assert.ok(all.avx512vnni && all.avx512vbmi && all.avx512bf16 && all.osAvx512);
    const noZmm = parseCpuid(cpuid, () => 0x7);
    assert.ok(noZmm.avx2 && noZmm.avxvnni && !noZmm.avx512f && !noZmm.avx512vnni);
    const noYmm = parseCpuid(cpuid, () => 0x3);
    assert.ok(!noYmm.avx && !noYmm.avx2 && !noYmm.fma && !noYmm.avx512f);
    const noXsave = { ...WITH_AVX512, '1': [0x00090675, 0, bits(12, 28, 29), 0] as const };
    const old = parseCpuid(answering(noXsave), () => assert.fail('XGETBV would fault'));
    assert.equal(old.avx2, false);
  });

  it('says nothing of leaves that an old processor does not have', () => {
    const [b, d, c] = words('AuthenticAMD') as [number, number, number];
    const old: Record<string, CpuidRegisters> = {
      '0': [1, b, c, d],
      '1': [0x00000f10, 0, 0, 0],
      '7': [0, -1, -1, -1],
    };
    const cpu = parseCpuid(answering(old), () => 0);
    assert.equal(cpu.vendor, 'AuthenticAMD');
    assert.equal(cpu.brand, '');
    assert.equal(cpu.family, 15);
    assert.equal(cpu.bmi2, false);
    assert.deepEqual(cpu.cacheBytes, { l1d: 0, l2: 0, l3: 0 });
  });

  it('agrees with what Linux says of this machine', { skip }, () => {
    const info = readFileSync('/proc/cpuinfo', 'utf8');
    const flags = new Set(/^flags\s*:\s*(.*)$/m.exec(info)![1]!.split(' '));
    const cpu = detectCpu();
    assert.equal(cpu.vendor, /^vendor_id\s*:\s*(.*)$/m.exec(info)![1]);
    assert.equal(cpu.brand, /^model name\s*:\s*(.*)$/m.exec(info)![1]!.trim());
    assert.equal(String(cpu.model), /^model\s*:\s*(.*)$/m.exec(info)![1]);
    const names = {
      avx: 'avx',
      avx2: 'avx2',
      fma: 'fma',
      f16c: 'f16c',
      bmi2: 'bmi2',
      avxvnni: 'avx_vnni',
      avx512f: 'avx512f',
      avx512bw: 'avx512bw',
      avx512vl: 'avx512vl',
      avx512dq: 'avx512dq',
      avx512vnni: 'avx512_vnni',
      avx512vbmi: 'avx512vbmi',
      avx512bf16: 'avx512_bf16',
    } as const;
    for (const [ours, theirs] of Object.entries(names) as [keyof typeof names, string][]) {
      assert.equal(cpu[ours], flags.has(theirs), ours);
    }
    assert.ok(cpu.cacheBytes.l1d >= 16 * 1024);
  });
});
