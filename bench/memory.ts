/**
 * What planning activation memory ahead is worth: the buffers of one step, taken as they are needed from four kinds of allocator, beside the arena
 * that the plan lays out once. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/memory.ts --model smollm2=FILE [--rounds 200] [--no-doc]
 *
 * The plan says which command first and last touches each buffer; a replay asks for the buffer before the one and gives it back after the other. With
 * "touched" every page is written once, as a kernel would. Medians; on one thread, without the model's own work. What a step leaves on the JavaScript heap is
 * counted over real decode steps.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { planMemory } from '../src/compiler/memory-plan.ts';
import type { Plan } from '../src/compiler/plan.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import { allocate, type NativeRegion } from '../src/platform/native-memory.ts';
import { planRunner } from '../src/runtime/compile-model.ts';
import { resolveTarget } from '../src/runtime/create-runner.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { namedModel } from './lib/options.ts';
import { median } from './lib/statistics.ts';
import { markdownTable, percent, significant } from './lib/table.ts';

const PAGE = 4096;
const MIB = 2 ** 20;

interface StepBuffer {
  readonly sizeBytes: number;
  readonly first: number;
  readonly last: number;
}

interface Taken {
  /** Writes to every page. */
  touch(): void;
  release(): void;
}

/** Takes and gives back one buffer after the other. */
interface Policy {
  readonly name: string;
  take(sizeBytes: number): Taken;
  /** Shares of requests that found a buffer waiting; null where there is no such thing. */
  hitRate(): number | null;
  /** What it keeps although nobody has it. */
  heldBytes(): number;
  /** Lets go of everything held. */
  clear(): void;
}

function typedArrays(): Policy {
  return {
    name: 'typed array each, collected as garbage',
    take: (sizeBytes) => {
      const bytes = new Uint8Array(sizeBytes);
      return { touch: () => touchPages(bytes), release: () => {} };
    },
    hitRate: () => null,
    heldBytes: () => 0,
    clear: () => {},
  };
}

function mappings(): Policy {
  return {
    name: 'mapping each (mmap, munmap)',
    take: (sizeBytes) => {
      const region = allocate(sizeBytes);
      return {
        touch: () => touchPages(region.bytes()),
        release: () => region[Symbol.dispose](),
      };
    },
    hitRate: () => null,
    heldBytes: () => 0,
    clear: () => {},
  };
}

/** Blocks are kept when they are given back, and serve the next request of their size class (powers of two). */
function cachingPool(): Policy {
  const free = new Map<number, Block[]>();
  const all: Block[] = [];
  let hits = 0;
  let requests = 0;
  return {
    name: 'pool of freed blocks by size',
    take: (sizeBytes) => {
      const size = 2 ** Math.ceil(Math.log2(Math.max(512, sizeBytes)));
      const list = free.get(size) ?? [];
      free.set(size, list);
      requests++;
      let block = list.pop();
      if (block === undefined) {
        const region = allocate(size);
        block = { region, bytes: region.bytes() };
        all.push(block);
      } else {
        hits++;
      }
      const { bytes } = block;
      return { touch: () => touchPages(bytes), release: () => list.push(block) };
    },
    hitRate: () => hits / requests,
    heldBytes: () => all.reduce((sum, { bytes }) => sum + bytes.length, 0),
    clear: () => {
      for (const { region } of all) region[Symbol.dispose]();
    },
  };
}

interface Block {
  readonly region: NativeRegion;
  readonly bytes: Uint8Array;
}

interface Replay {
  /** µs. */
  readonly time: number;
  /** Most bytes taken at once. */
  readonly peakBytes: number;
}

function touchPages(bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i += PAGE) bytes[i] = 1;
}

function replay(policy: Policy, events: readonly Event[], isTouched: boolean): Replay {
  const open: (Taken | undefined)[] = [];
  let bytesNow = 0;
  let peakBytes = 0;
  const start = performance.now();
  for (const { buffer, isFirst, sizeBytes } of events) {
    if (isFirst) {
      const taken = policy.take(sizeBytes);
      open[buffer] = taken;
      if (isTouched) taken.touch();
      bytesNow += sizeBytes;
      peakBytes = Math.max(peakBytes, bytesNow);
    } else {
      open[buffer]!.release();
      open[buffer] = undefined;
      bytesNow -= sizeBytes;
    }
  }
  return { time: 1000 * (performance.now() - start), peakBytes };
}

interface Event {
  readonly buffer: number;
  readonly isFirst: boolean;
  readonly sizeBytes: number;
}

/** In the order of commands; what a command needs comes before what it lets go of. */
function eventsOf(buffers: readonly StepBuffer[]): Event[] {
  return buffers
    .flatMap(({ sizeBytes, first, last }, buffer) => [
      { buffer, isFirst: true, sizeBytes, at: 2 * first },
      { buffer, isFirst: false, sizeBytes, at: 2 * last + 1 },
    ])
    .sort((a, b) => a.at - b.at);
}

/** Buffers of a step of `numTokens` tokens of one sequence, whose last token's logits are wanted. */
function stepBuffers({ buffers }: Plan, numTokens: number): StepBuffer[] {
  const rowsOf = { T: numTokens, R: 1, L: 1 };
  return buffers.map(({ rows, strideBytes, firstCommand, lastCommand }) => ({
    sizeBytes: Math.max(1, strideBytes * (typeof rows === 'number' ? rows : rowsOf[rows])),
    ...{ first: firstCommand, last: lastCommand },
  }));
}

interface Row {
  readonly step: string;
  readonly policy: string;
  readonly requests: number;
  readonly hitRate: number | null;
  readonly peakBytes: number;
  readonly time: number;
  readonly touchedTime: number;
}

function measure(plan: Plan, step: string, numTokens: number, rounds: number): Row[] {
  const buffers = stepBuffers(plan, numTokens);
  const events = eventsOf(buffers);
  const rows = [typedArrays, mappings, cachingPool].map((make): Row => {
    const policy = make();
    const run = (isTouched: boolean): Replay[] =>
      Array.from({ length: rounds }, () => replay(policy, events, isTouched));
    const plain = run(false);
    const touched = run(true);
    const hitRate = policy.hitRate();
    const heldBytes = policy.heldBytes();
    policy.clear();
    return {
      ...{ step, policy: policy.name, requests: buffers.length, hitRate },
      peakBytes: Math.max(plain[0]!.peakBytes, heldBytes),
      time: median(plain.map(({ time }) => time)),
      touchedTime: median(touched.map(({ time }) => time)),
    };
  });
  const { arenaBytes } = planMemory(buffers);
  const arena = {
    policy: 'arena of the plan',
    requests: 0,
    hitRate: null,
    time: 0,
    touchedTime: 0,
  };
  return [...rows, { step, ...arena, peakBytes: arenaBytes }];
}

/** Bytes on the JavaScript heap that a decode step of four sequences leaves, once its code is compiled. */
function heapBytesPerStep(path: string): number {
  const program = fileURLToPath(
    new URL('../src/runtime/testing/decode-process.ts', import.meta.url),
  );
  const flags = ['--expose-gc', '--disable-warning=ExperimentalWarning'];
  const output = execFileSync(process.execPath, [...flags, program, path, '1']);
  const { bytesPerStep } = JSON.parse(output.toString()) as { bytesPerStep: number[] };
  return median(bytesPerStep);
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '200' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const { name, path } = namedModel(options.model);
const target = resolveTarget('auto');
if (target.kind !== 'x64') throw new Error(`no native target here: ${target.reason}`);
using description = loadModelDescription(path);
const { config, weights: source } = description;
const { plan } = planRunner(
  {
    ...{ source, config, target: 'auto', precision: 'fast', threads: 1, planCacheFolder: null },
    ...{ maxModelLen: 1024, maxSeqs: 1, maxTokensPerStep: 512 },
  },
  target.isa,
);
const rounds = Number(options.rounds);
const rows = [
  ...measure(plan, 'a decoded token', 1, rounds),
  ...measure(plan, '512 tokens of a prompt', 512, Math.ceil(rounds / 10)),
];
const tinyModel = fileURLToPath(
  new URL('../test/fixtures/tiny-gguf/llama-q4_0.gguf', import.meta.url),
);
const heapBytes = heapBytesPerStep(tinyModel);
const text = [
  `### Memory of a step: ${name}`,
  `\`${shownCommand('bench/memory.ts')}\``,
  markdownTable(
    ['step', 'buffers from', 'requests', 'hits', 'most at once MiB', 'µs', 'µs, pages touched'],
    rows.map((row) => [
      ...[row.step, row.policy, `${row.requests}`],
      row.hitRate === null ? '–' : percent(row.hitRate),
      significant(row.peakBytes / MIB),
      ...[significant(row.time), significant(row.touchedTime)],
    ]),
  ),
  `The arena is laid out with the plan and mapped once; a step asks for nothing. For the largest step that this plan takes it is ${significant(plan.arenaBytes / MIB)} MiB, where a buffer of its own for each would be ${significant(plan.buffers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) / MIB)} MiB. On the JavaScript heap a decode step of four sequences leaves ${heapBytes.toFixed(0)} bytes (boxed clock readings; counted over 40,000 steps of a tiny model, as a step of a larger one runs the same JavaScript): nothing per token.`,
].join('\n\n');
console.log(text);
console.log(JSON.stringify({ benchmark: 'memory', rows, heapBytesPerStep: heapBytes }));
if (!options['no-doc']) writeSection('memory', text);
