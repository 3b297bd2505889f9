/**
 * Speed of the decode kernels by weight format: one matrix far larger than the caches times one row, on one thread, all formats in turn in every round.
 * Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/kernels/matvec.ts [--isa avx2] [--formats q4_0,q6_k] [--megabytes 96] [--rounds 15] [--columns 4096] [--activation f32] [--no-doc]
 */
import { parseArgs } from 'node:util';
import { RowGroupPacker } from '../../src/compiler/pack.ts';
import type { KernelProgram } from '../../src/kernels/kernel-ir.ts';
import { matvecKernel } from '../../src/kernels/matvec.ts';
import { matvecF32Groups, matvecF32Kernel } from '../../src/kernels/matvec-f32.ts';
import {
  PACKED_FORMATS,
  packedBitsPerWeight,
  ROUNDED_FORMATS,
  ROW_GROUP,
  ROW_PADDING,
} from '../../src/kernels/packed-format.ts';
import { allocate, type NativeRegion, u64 } from '../../src/platform/native-memory.ts';
import { detectCpu } from '../../src/targets/x64/cpu-features.ts';
import { machineOf, type X64Isa, x64Isas } from '../../src/targets/x64/isa.ts';
import { loadCode } from '../../src/targets/x64/loader.ts';
import { lowerToX64 } from '../../src/targets/x64/lower.ts';
import { rowBytes } from '../../src/tensor/dtype.ts';
import { encodeRow } from '../../src/tensor/rows.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable, significant } from '../lib/table.ts';

const FORMATS = { ...PACKED_FORMATS, ...ROUNDED_FORMATS };
type BenchDType = keyof typeof FORMATS;

export interface MatvecRate {
  readonly isa: X64Isa;
  readonly format: BenchDType;
  readonly activation: 'q8' | 'f32';
  readonly bitsPerWeight: number;
  /** Bytes of packed weights per second. */
  readonly best: number;
  readonly median: number;
}

export interface MatvecOptions {
  readonly isa: X64Isa;
  readonly formats: readonly BenchDType[];
  readonly activation: 'q8' | 'f32';
  readonly megabytes: number;
  readonly columns: number;
  readonly rounds: number;
}

/** A format's kernel with its argument table, ready to be called with the address of a matrix. */
interface Subject {
  readonly format: BenchDType;
  readonly groupBytes: number;
  readonly numGroups: number;
  /** Fills the shared matrix with weights of the format. */
  readonly fill: () => void;
  readonly run: () => number;
}

/** @throws {UnsupportedPlatformError | NativeCodeRefusedError} where hasten cannot run native code */
function measureMatvec(options: MatvecOptions): MatvecRate[] {
  using matrix = allocate(Math.floor(options.megabytes * 2 ** 20) + 65_536, { hugePages: true });
  using small = allocate(1 << 20);
  // As f32 and as q8 these are ordinary numbers; nothing depends on which.
  small.bytes().fill(62);
  const subjects = options.formats.map((format) => makeSubject(format, options, matrix, small));
  const times = subjects.map((): number[] => []);
  for (let round = 0; round <= options.rounds; round++) {
    subjects.forEach((subject, i) => {
      subject.fill();
      const seconds = subject.run();
      if (round > 0) times[i]!.push(seconds); // The first round faults pages in.
    });
  }
  return subjects.map(({ format, groupBytes, numGroups }, i) => {
    const bytes = groupBytes * numGroups;
    const fastest = Math.min(...times[i]!);
    return {
      isa: options.isa,
      format,
      activation: options.activation,
      bitsPerWeight: packedBitsPerWeight(FORMATS[format]),
      best: bytes / fastest,
      median: bytes / median(times[i]!),
    };
  });
}

function makeSubject(
  format: BenchDType,
  options: MatvecOptions,
  matrix: NativeRegion,
  small: NativeRegion,
): Subject {
  const { columns } = options;
  const packed = FORMATS[format];
  const packer = new RowGroupPacker(format, packed, columns);
  const { groupBytes } = packer;
  const perPair = ROW_PADDING / ROW_GROUP;
  const numGroups = Math.floor((options.megabytes * 2 ** 20) / groupBytes / perPair) * perPair;
  const group = new Uint8Array(groupBytes);
  packer.packGroup(smallRows(format, columns), 0, ROW_GROUP, group, 0);
  const { program, fields } = kernelOf(format, options, numGroups);
  const code = loadCode([{ name: 'kernel', code: lowerToX64(program) }], { numArguments: 3 });
  const [table, x, out, scratch] = [0n, 4096n, 131_072n, 655_360n];
  const values: Record<string, number | bigint> = {
    ...fields,
    weight: matrix.address,
    groupStride: groupBytes,
    x: small.address + x,
    out: small.address + out,
  };
  return {
    format,
    groupBytes,
    numGroups,
    fill: () => {
      const bytes = matrix.bytes();
      for (let g = 0; g < numGroups; g++) bytes.set(group, g * groupBytes);
    },
    run: () => {
      u64(small.address + table, program.params.length).set(
        program.params.map((name) => BigInt(values[name]!)),
      );
      const begin = process.hrtime.bigint();
      code.call('kernel', small.address + table, 0n, small.address + scratch);
      return Number(process.hrtime.bigint() - begin) / 1e9;
    },
  };
}

function kernelOf(
  format: BenchDType,
  { isa, columns, activation }: MatvecOptions,
  numGroups: number,
): { program: KernelProgram; fields: Record<string, number> } {
  const machine = machineOf(isa);
  const packed = FORMATS[format];
  const shape = { bias: false, residual: false };
  if (activation === 'f32') {
    const numUnits = numGroups / matvecF32Groups(machine, packed);
    return {
      program: matvecF32Kernel(machine, { ...shape, format: packed }),
      fields: { numUnits, unitsPerChunk: numUnits, inputs: columns },
    };
  }
  if (packed.kind === 'float') throw new RangeError(`${format}: no kernel for q8 activations`);
  return {
    program: matvecKernel(machine, { ...shape, format: packed }),
    fields: { numGroups, groupsPerChunk: numGroups, numBlocks: columns / 32 },
  };
}

/** Stored rows of one row group; those of quantized formats of small bytes, so that every scale is finite wherever it stands. */
function smallRows(format: BenchDType, columns: number): Uint8Array {
  const rows = new Uint8Array(ROW_GROUP * rowBytes(format, columns));
  let state = 1;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  if (FORMATS[format].kind === 'float') {
    const values = Float32Array.from({ length: ROW_GROUP * columns }, () => random() - 0.5);
    encodeRow(format, values, values.length, rows);
  } else for (let i = 0; i < rows.length; i++) rows[i] = Math.floor(random() * 60);
  return rows;
}

/** A row per format: bytes per second by instruction set, and the share of those of Q4_0. */
function formatMatvec(rates: readonly MatvecRate[]): string {
  const isas = [...new Set(rates.map(({ isa }) => isa))];
  const formats = [...new Set(rates.map(({ format }) => format))];
  return markdownTable(
    ['format', 'bits per weight', ...isas.flatMap((isa) => [`${isa} GB/s (median)`, 'of Q4_0'])],
    formats.map((format) => {
      const own = rates.filter((rate) => rate.format === format);
      const cells = isas.flatMap((isa) => {
        const rate = own.find((x) => x.isa === isa)!;
        const base = rates.find((x) => x.format === 'q4_0' && x.isa === isa);
        return [
          `${significant(rate.best / 1e9)} (${significant(rate.median / 1e9)})`,
          base === undefined ? '–' : `${(rate.median / base.median).toFixed(2)}x`,
        ];
      });
      return [format, significant(own[0]!.bitsPerWeight, 4), ...cells];
    }),
  );
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      isa: { type: 'string' },
      formats: { type: 'string' },
      activation: { type: 'string', default: 'q8' },
      megabytes: { type: 'string', default: '96' },
      columns: { type: 'string', default: '4096' },
      rounds: { type: 'string', default: '15' },
      'no-doc': { type: 'boolean', default: false },
    },
  });
  const isas = x64Isas(detectCpu()).filter((isa) => !values.isa || isa === values.isa);
  const activation = values.activation === 'f32' ? 'f32' : 'q8';
  const formats = (values.formats?.split(',') ?? Object.keys(FORMATS)) as BenchDType[];
  const rates = isas.flatMap((isa) =>
    measureMatvec({
      isa,
      activation,
      formats: formats.filter((x) => activation === 'f32' || FORMATS[x].kind !== 'float'),
      megabytes: Number(values.megabytes),
      columns: Number(values.columns),
      rounds: Number(values.rounds),
    }),
  );
  const text = [
    `### Decode kernels by weight format, ${activation} activations`,
    `\`${shownCommand('bench/kernels/matvec.ts')}\``,
    `${values.megabytes} MiB of packed weights times one row, on one thread, formats in turn in each of ${values.rounds} rounds: bytes of packed weights per second, the best round and the median, and the medians' share of Q4_0's.`,
    formatMatvec(rates),
  ].join('\n\n');
  console.log(text);
  console.log(JSON.stringify({ benchmark: 'matvec', rates }));
  if (!values['no-doc']) {
    writeSection(activation === 'q8' ? 'kernels/matvec' : `kernels/matvec#${activation}`, text);
  }
}
