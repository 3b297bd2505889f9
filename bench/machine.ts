/**
 * Describes this machine and measures what it can do at best: read bandwidth, 8-bit dot products and f32 multiply-adds on one thread and on
 * all cores, with kernels emitted by hasten itself. Speeds of models are shown beside these.
 *
 *   node bench/machine.ts [--json] [--quick]
 */
import { release } from 'node:os';
import { parseArgs } from 'node:util';
import { allocate } from '../src/platform/native-memory.ts';
import { cpuTopology, memoryInfo } from '../src/platform/topology.ts';
import { type CpuFeatures, detectCpu } from '../src/targets/x64/cpu-features.ts';
import { machineOf, type X64Isa, x64Isas } from '../src/targets/x64/isa.ts';
import { markdownTable, significant } from './lib/table.ts';
import { measureRate, type Rate } from './machine/measure-peak.ts';
import {
  fmaKernel,
  int8Kernel,
  type PeakKernel,
  READ_PATTERNS,
  type ReadPattern,
  readKernel,
} from './machine/peak-kernels.ts';

export interface IsaPeaks {
  readonly isa: X64Isa;
  /** Operations per second (a multiply-add is two) by number of threads. */
  readonly int8: Readonly<Record<number, Rate>>;
  readonly f32: Readonly<Record<number, Rate>>;
}

export interface MachineReport {
  readonly cpu: string;
  readonly vendor: string;
  readonly cores: number;
  readonly logicalCpus: number;
  readonly features: readonly string[];
  readonly cacheBytes: CpuFeatures['cacheBytes'];
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  /** ISO 8601, day only. */
  readonly date: string;
  /** Bytes per second by number of threads. */
  readonly readBandwidth: Readonly<Record<number, Rate>>;
  /** The way of reading that reached it. */
  readonly readPattern: Readonly<Record<number, ReadPattern>>;
  readonly isas: readonly IsaPeaks[];
}

const FEATURE_NAMES = [
  'avx2',
  'fma',
  'f16c',
  'avxvnni',
  'avx512f',
  'avx512bw',
  'avx512vnni',
  'avx512vbmi',
  'avx512bf16',
] as const satisfies readonly (keyof CpuFeatures)[];

export interface MachineOptions {
  /** Numbers of threads to measure; default 1 and every core. */
  readonly threads?: readonly number[];
  /** Fewer rounds and less memory: for a check that it works, not for figures. */
  readonly isQuick?: boolean;
}

/** @throws {UnsupportedPlatformError | NativeCodeRefusedError} where hasten cannot run native code */
export async function describeMachine(options: MachineOptions = {}): Promise<MachineReport> {
  const topology = cpuTopology();
  const cpu = detectCpu();
  const threads = options.threads ?? [...new Set([1, topology.usableCores])];
  const isas = x64Isas(cpu);
  const bytesPerThread = (options.isQuick ? 64 : 384) << 20;
  const computeOptions = { rounds: options.isQuick ? 3 : 60, iterations: 20_000 };

  const readBandwidth: Record<number, Rate> = {};
  const readPattern: Record<number, ReadPattern> = {};
  for (const numThreads of threads) {
    using memory = allocate(numThreads * bytesPerThread + 4096, { hugePages: true });
    for (let at = 0; at < memory.byteLength; at += 1 << 28) {
      memory.bytes(at, Math.min(1 << 28, memory.byteLength - at)).fill(1);
    }
    for (const pattern of READ_PATTERNS) {
      const kernel = readKernel(machineOf(isas[0]!), bytesPerThread, pattern);
      const rate = await measureRate(kernel, {
        numThreads,
        rounds: options.isQuick ? 3 : 12,
        iterations: bytesPerThread / kernel.workPerIteration,
        data: { address: memory.address, bytesPerThread },
      });
      if (rate.best <= (readBandwidth[numThreads]?.best ?? 0)) continue;
      readBandwidth[numThreads] = rate;
      readPattern[numThreads] = pattern;
    }
  }
  const rates = async (peak: PeakKernel): Promise<Record<number, Rate>> => {
    const byThreads: Record<number, Rate> = {};
    for (const numThreads of threads) {
      byThreads[numThreads] = await measureRate(peak, { numThreads, ...computeOptions });
    }
    return byThreads;
  };
  const peaks: IsaPeaks[] = [];
  for (const isa of isas) {
    const machine = machineOf(isa);
    peaks.push({
      isa,
      int8: await rates(int8Kernel(machine)),
      f32: await rates(fmaKernel(machine)),
    });
  }
  return {
    cpu: cpu.brand,
    vendor: cpu.vendor,
    cores: topology.cores.length,
    logicalCpus: topology.logicalCpus.length,
    features: FEATURE_NAMES.filter((name) => cpu[name]),
    cacheBytes: cpu.cacheBytes,
    memoryBytes: memoryInfo().totalBytes,
    kernel: release(),
    node: process.versions.node,
    date: new Date().toISOString().slice(0, 10),
    readBandwidth,
    readPattern,
    isas: peaks,
  };
}

/**
 * Two measurements of one machine as one: the better best, the mean of the medians. Others may have been busy during one of them.
 * @param again of the same machine and threads as `first`
 */
export function mergeMachines(first: MachineReport, again: MachineReport): MachineReport {
  const merge = (a: IsaPeaks['int8'], b: IsaPeaks['int8']): Record<number, Rate> =>
    Object.fromEntries(
      Object.entries(a).map(([threads, rate]) => {
        const other = b[Number(threads)] ?? rate;
        const best = Math.max(rate.best, other.best);
        return [threads, { best, median: (rate.median + other.median) / 2 }];
      }),
    );
  return {
    ...first,
    readBandwidth: merge(first.readBandwidth, again.readBandwidth),
    isas: first.isas.map(({ isa, int8, f32 }) => {
      const other = again.isas.find((level) => level.isa === isa);
      return { isa, int8: merge(int8, other?.int8 ?? int8), f32: merge(f32, other?.f32 ?? f32) };
    }),
  };
}

/** The report as Markdown. */
export function formatMachine(report: MachineReport): string {
  const { cacheBytes } = report;
  const kib = (bytes: number): string =>
    bytes >= 1 << 20 ? `${bytes / (1 << 20)} MiB` : `${bytes / 1024} KiB`;
  const lines = [
    `- ${report.cpu}, ${report.cores} cores (${report.logicalCpus} logical), L1d ${kib(cacheBytes.l1d)}, L2 ${kib(cacheBytes.l2)}, L3 ${kib(cacheBytes.l3)}`,
    `- ${report.features.join(' ')}`,
    `- ${(report.memoryBytes / 2 ** 30).toFixed(1)} GiB memory, Linux ${report.kernel}, Node ${report.node}, ${report.date}`,
  ];
  const threads = Object.keys(report.readBandwidth).map(Number);
  const cell = (rate: Rate | undefined): string =>
    rate === undefined
      ? '–'
      : `${significant(rate.best / 1e9)} (${significant(rate.median / 1e9)})`;
  const row = (name: string, rates: Readonly<Record<number, Rate>>): string[] => [
    name,
    ...threads.map((n) => cell(rates[n])),
  ];
  const table = markdownTable(
    ['best (median) of many short rounds', ...threads.map((n) => `${n} thread${n > 1 ? 's' : ''}`)],
    [
      row('memory read, GB/s', report.readBandwidth),
      ...report.isas.flatMap(({ isa, int8, f32 }) => [
        row(`int8 dot products, ${isa}, GOPS`, int8),
        row(`f32 multiply-adds, ${isa}, GFLOP/s`, f32),
      ]),
    ],
  );
  return `${lines.join('\n')}\n\n${table}`;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { json: { type: 'boolean' }, quick: { type: 'boolean' } },
  });
  const report = await describeMachine({ isQuick: values.quick });
  console.log(formatMachine(report));
  if (values.json) console.log(JSON.stringify(report));
}
