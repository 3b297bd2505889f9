/**
 * What this x86-64 processor can do, asked of the processor itself by an emitted CPUID kernel, with
 * the operating system's consent (XCR0) taken into account. Knows instruction sets and caches,
 * not which kernels want them; how many cores there are is platform/topology.ts.
 *
 * Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
 */
import { allocate, u32 } from '../../platform/native-memory.ts';
import { Assembler, dword, eax, ebx, ecx, edx, mem, rbx, rdi } from './assembler.ts';
import { loadCode } from './loader.ts';

export interface CpuFeatures {
  /** `GenuineIntel`, `AuthenticAMD` … */
  readonly vendor: string;
  /** Marketing name, such as `AMD EPYC 9B14`. */
  readonly brand: string;
  readonly family: number;
  readonly model: number;

  readonly avx: boolean;
  readonly avx2: boolean;
  readonly fma: boolean;
  readonly f16c: boolean;
  readonly bmi2: boolean;
  /** 256-bit dot products under VEX. */
  readonly avxvnni: boolean;
  readonly avx512f: boolean;
  readonly avx512bw: boolean;
  readonly avx512vl: boolean;
  readonly avx512dq: boolean;
  readonly avx512vnni: boolean;
  readonly avx512vbmi: boolean;
  readonly avx512bf16: boolean;

  /** Whether the operating system saves ymm, and zmm and mask registers. */
  readonly osAvx: boolean;
  readonly osAvx512: boolean;

  /** Bytes of data cache that one core sees; 0 where the processor does not say. */
  readonly cacheBytes: { readonly l1d: number; readonly l2: number; readonly l3: number };
}

/** eax, ebx, ecx, edx after CPUID. */
export type CpuidRegisters = readonly [number, number, number, number];
/** Executes CPUID for a leaf and subleaf. */
export type Cpuid = (leaf: number, subleaf?: number) => CpuidRegisters;

/** Table of u32: leaf, subleaf, then eax ebx ecx edx; filled in place. */
function cpuidKernel(): Uint8Array {
  const a = new Assembler();
  a.push(rbx); // CPUID overwrites rbx, which belongs to the caller.
  a.mov(eax, dword(mem(rdi)));
  a.mov(ecx, dword(mem(rdi, 4)));
  a.cpuid();
  [eax, ebx, ecx, edx].forEach((r, i) => {
    a.mov(mem(rdi, 8 + 4 * i), r);
  });
  a.pop(rbx);
  a.ret();
  return a.code();
}

/** Stores the low 32 bits of XCR0 at [rdi]; only where CPUID reports OSXSAVE. */
function xcr0Kernel(): Uint8Array {
  const a = new Assembler();
  a.xor(ecx, ecx);
  a.xgetbv();
  a.mov(mem(rdi), eax);
  a.ret();
  return a.code();
}

const text = (...registers: readonly number[]): string =>
  Buffer.from(Uint32Array.from(registers).buffer).toString('latin1').split('\0')[0]!.trim();

function cacheSizes(cpuid: Cpuid, leaf: number): CpuFeatures['cacheBytes'] {
  const sizes = { l1d: 0, l2: 0, l3: 0 };
  for (let i = 0; i < 16; i++) {
    const [a, b, c] = cpuid(leaf, i);
    const type = a & 31; // 0 none, 1 data, 2 instruction, 3 unified
    if (type === 0) break;
    if (type === 2) continue;
    const ways = (b >>> 22) + 1;
    const partitions = ((b >>> 12) & 0x3ff) + 1;
    const lineBytes = (b & 0xfff) + 1;
    const bytes = ways * partitions * lineBytes * (c + 1);
    const level = (a >>> 5) & 7;
    if (level === 1) sizes.l1d = bytes;
    else if (level === 2) sizes.l2 = bytes;
    else if (level === 3) sizes.l3 = bytes;
  }
  return sizes;
}

/**
 * Reads features out of CPUID answers.
 * @param xcr0 called only if the processor has XGETBV enabled
 */
export function parseCpuid(cpuid: Cpuid, xcr0: () => number): CpuFeatures {
  const [maxLeaf, vendorB, vendorC, vendorD] = cpuid(0);
  const maxExtended = cpuid(0x80000000)[0] >>> 0;
  const [signature, , c1] = cpuid(1);
  const [maxSubleaf7, b7, c7] = maxLeaf >= 7 ? cpuid(7) : [0, 0, 0, 0];
  const [a7sub1] = maxLeaf >= 7 && maxSubleaf7 >= 1 ? cpuid(7, 1) : [0];
  const bit = (register: number, n: number): boolean => ((register >>> n) & 1) === 1;

  const state = bit(c1, 27) ? xcr0() : 0;
  const osAvx = (state & 0x6) === 0x6; // xmm, ymm
  const osAvx512 = osAvx && (state & 0xe0) === 0xe0; // masks, upper zmm0-15, zmm16-31
  const avx = osAvx && bit(c1, 28);
  const avx512f = osAvx512 && bit(b7, 16);

  const vendor = text(vendorB, vendorD, vendorC);
  const brand =
    maxExtended >= 0x80000004
      ? text(...cpuid(0x80000002), ...cpuid(0x80000003), ...cpuid(0x80000004))
      : '';
  const baseFamily = (signature >>> 8) & 15;
  const baseModel = (signature >>> 4) & 15;
  const extended = baseFamily === 15 || baseFamily === 6;
  // Intel describes its caches in leaf 4, AMD and Hygon in 8000001D with the same fields.
  const hasAmdCaches = maxExtended >= 0x8000001d && /AMD|Hygon/.test(vendor);
  const cacheBytes = hasAmdCaches
    ? cacheSizes(cpuid, 0x8000001d)
    : maxLeaf >= 4
      ? cacheSizes(cpuid, 4)
      : { l1d: 0, l2: 0, l3: 0 };

  return {
    vendor,
    brand,
    family: baseFamily === 15 ? 15 + ((signature >>> 20) & 255) : baseFamily,
    model: extended ? baseModel | (((signature >>> 16) & 15) << 4) : baseModel,
    avx,
    avx2: avx && bit(b7, 5),
    fma: avx && bit(c1, 12),
    f16c: avx && bit(c1, 29),
    bmi2: bit(b7, 8),
    avxvnni: avx && bit(a7sub1, 4),
    avx512f,
    avx512bw: avx512f && bit(b7, 30),
    avx512vl: avx512f && bit(b7, 31),
    avx512dq: avx512f && bit(b7, 17),
    avx512vnni: avx512f && bit(c7, 11),
    avx512vbmi: avx512f && bit(c7, 1),
    avx512bf16: avx512f && bit(a7sub1, 5),
    osAvx,
    osAvx512,
    cacheBytes,
  };
}

let detected: CpuFeatures | undefined;

/**
 * The features of the processor this runs on; asked once per thread.
 * @throws {UnsupportedPlatformError | NativeCodeRefusedError} where no code can be loaded
 */
export function detectCpu(): CpuFeatures {
  if (detected !== undefined) return detected;
  using code = loadCode(
    [
      { name: 'cpuid', code: cpuidKernel() },
      { name: 'xcr0', code: xcr0Kernel() },
    ],
    { numArguments: 1 },
  );
  using region = allocate(64);
  const table = u32(region.address, 6);
  detected = parseCpuid(
    (leaf, subleaf = 0) => {
      table[0] = leaf;
      table[1] = subleaf;
      code.call('cpuid', region.address);
      return [table[2]!, table[3]!, table[4]!, table[5]!];
    },
    () => {
      code.call('xcr0', region.address);
      return table[0]!;
    },
  );
  return detected;
}
