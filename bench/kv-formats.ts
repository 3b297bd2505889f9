/**
 * The KV cache: what its formats cost and save (bytes, longest context, decode speed, quality), and what paging and the prefix cache do at equal work.
 * Prints tables, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/kv-formats.ts --model FILE [--contexts 512,4096,8000] [--rounds 7] [--windows 13] [--threads 2] [--no-doc]
 *
 * Exits with 1 if q8's mean KL divergence is above 0.002.
 */
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { SequenceDriver } from '../src/app/sequence-driver.ts';
import { openGroupBytes } from '../src/kernels/open-group.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import { createRunner } from '../src/runtime/create-runner.ts';
import type { KvCacheType } from '../src/runtime/runner-options.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';
import { timeBlockOrders } from './kv/block-order.ts';
import { type BenchRequest, type EngineRun, runEngine, tokenIds } from './kv/engine-run.ts';
import { type FormatQuality, formatQuality } from './kv/format-quality.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { withForeignLoad } from './lib/foreign-load.ts';
import { modelFile } from './lib/options.ts';
import { median } from './lib/statistics.ts';
import { markdownTable, percent, significant } from './lib/table.ts';
import { describeMachine, formatMachine } from './machine.ts';
import { EVAL_SETS, type EvalSet, evalWindows } from './quality/eval-windows.ts';

const FORMATS = ['f16', 'q8', 'q4'] as const satisfies readonly KvCacheType[];
const MAX_Q8_KLD = 0.002;
const DECODE_TOKENS = 24;
/** What the eval sets were made with. */
const VOCABULARIES: Readonly<Record<EvalSet, number>> = {
  smollm2: 49_152,
  'gemma3-270m': 262_144,
};

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    contexts: { type: 'string', default: '512,4096,8000' },
    rounds: { type: 'string', default: '7' },
    windows: { type: 'string', default: '13' },
    threads: { type: 'string', default: '2' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const modelPath = modelFile(options.model);
const threads = Number(options.threads);
const rounds = Number(options.rounds);
using description = loadModelDescription(modelPath);
const { config, weights } = description;
const longest = config.maxPositionEmbeddings;
const contexts = options.contexts
  .split(',')
  .map(Number)
  .filter((tokens) => tokens + (rounds + 1) * DECODE_TOKENS <= longest);

/** A runner of the model; room for `sequences` of `maxModelLen` tokens each. */
async function runnerOf(
  kvCacheType: KvCacheType,
  maxModelLen: number,
  sequences: number,
): Promise<ModelRunner> {
  const settings = { source: weights, config, target: 'auto', precision: 'fast' } as const;
  const { numLayers, numKvHeads, headDim } = config;
  // f16 is the largest; as many blocks of any format fit.
  const tokenBytes = numLayers * numKvHeads * 2 * (Math.ceil(headDim / 16) * 16) * 2;
  return await createRunner({
    ...settings,
    threads,
    kvCacheType,
    maxModelLen,
    maxSeqs: Math.max(1, sequences),
    kvCacheMemoryBytes: (sequences * maxModelLen + 64) * tokenBytes,
    planCacheFolder: null,
  });
}

interface FormatSpeed {
  readonly kvType: KvCacheType;
  readonly bytesPerToken: number;
  /** Tokens per second at each context. */
  readonly decode: readonly number[];
}

/** Formats in turn at every context, the order reversed each round; medians. */
async function measureDecode(): Promise<FormatSpeed[]> {
  using stack = new DisposableStack();
  const room = Math.max(...contexts) + (rounds + 1) * DECODE_TOKENS;
  const runners = await Promise.all(
    FORMATS.map(async (kvType) => stack.use(await runnerOf(kvType, room, 1))),
  );
  const drivers = runners.map((runner) => new SequenceDriver(runner));
  const decode = FORMATS.map(() => [] as number[]);
  for (const tokens of contexts) {
    console.error(`decode at ${tokens} tokens`);
    const ids = tokenIds(tokens, 1, config.vocabSize);
    const rates = FORMATS.map(() => [] as number[]);
    for (const driver of drivers) {
      driver.reset();
      await driver.feed(ids, 'none');
    }
    for (let round = -1; round < rounds; round++) {
      const order = FORMATS.map((_, i) => i);
      for (const i of round % 2 === 0 ? order : order.toReversed()) {
        const startMs = performance.now();
        for (let t = 0; t < DECODE_TOKENS; t++) await drivers[i]!.feed([100 + t], 'last');
        const rate = (1000 * DECODE_TOKENS) / (performance.now() - startMs);
        if (round >= 0) rates[i]!.push(rate);
      }
    }
    for (const [i, values] of rates.entries()) decode[i]!.push(median(values));
  }
  return FORMATS.map((kvType, i) => ({
    kvType,
    bytesPerToken: runners[i]!.kvBlockBytes / runners[i]!.limits.blockSize,
    decode: decode[i]!,
  }));
}

async function measureQuality(): Promise<FormatQuality[]> {
  const set = EVAL_SETS.find((name) => VOCABULARIES[name] === config.vocabSize);
  if (set === undefined) return [];
  const windows = evalWindows(set)
    .slice(0, Number(options.windows))
    .map((window) => window.tokenIds);
  // f32 shows how far apart two caches are that differ by next to nothing.
  const of = { kvTypes: ['f16', 'f32', ...FORMATS.slice(1)] as const, threads };
  return [
    ...(await formatQuality(description, windows, { ...of, precision: 'f32' })),
    ...(await formatQuality(description, windows, { ...of, precision: 'fast' })),
  ];
}

const MAX_MODEL_LEN = Math.min(2048, longest);
const CONCURRENCY = 8;
/** Long enough that the first answer still goes on when the last of the prompts is in: all are at once then. */
const ANSWER_TOKENS = 128;

/** Conversations with prompts of 60 to 900 tokens. */
const MIXED: BenchRequest[] = Array.from({ length: 1 + CONCURRENCY }, (_, i) => ({
  promptTokenIds: tokenIds(60 + ((i * 367) % 841), i, config.vocabSize),
  outputTokens: ANSWER_TOKENS,
}));

/** Prompts of 600 tokens, of which 470 are the same; more than run at once, so that some have begun when others end. */
const SHARED: BenchRequest[] = Array.from({ length: 1 + 2 * CONCURRENCY }, (_, i) => ({
  promptTokenIds: [...tokenIds(470, 99, config.vocabSize), ...tokenIds(130, i, config.vocabSize)],
  outputTokens: ANSWER_TOKENS,
}));

interface WorkRow {
  readonly what: string;
  readonly memoryBytes: number;
  readonly latencyMs: number;
  /** Of what it is compared with; null: this is what others are compared with. */
  readonly base: { readonly memoryBytes: number; readonly latencyMs: number } | null;
  readonly goal: string;
}

/** Runs in turn, the order reversed each round, one warm-up of each before; median latencies. */
function inTurn(count: number, runs: readonly (() => EngineRun)[]): EngineRun[] {
  const first = runs.map((run) => run());
  for (const { mostSequences } of first) {
    if (mostSequences === CONCURRENCY) continue;
    throw new Error(`${CONCURRENCY} are to run at once, not ${mostSequences} at most`);
  }
  const latencies = runs.map(() => [] as number[]);
  for (let round = 0; round < count; round++) {
    const order = runs.map((_, i) => i);
    for (const i of round % 2 === 0 ? order : order.toReversed()) {
      latencies[i]!.push(runs[i]!().meanLatencyMs);
    }
  }
  return first.map((run, i) => ({ ...run, meanLatencyMs: median(latencies[i]!) }));
}

async function measureWork(): Promise<WorkRow[]> {
  const rows: WorkRow[] = [];
  using stack = new DisposableStack();
  const runners = await Promise.all(
    FORMATS.map(async (kvType) => stack.use(await runnerOf(kvType, MAX_MODEL_LEN, CONCURRENCY))),
  );
  const [f16] = runners;
  const blockBytes = f16!.kvBlockBytes;
  const tokenBytes = blockBytes / f16!.limits.blockSize;
  const times = Math.max(1, Math.ceil(rounds / 3));
  /** Blocks, and what sequences have beside them: open blocks, a group of f16 each. */
  const memoryOf = ({ limits, kvBlockBytes }: ModelRunner, run: EngineRun): number => {
    const openBytes = limits.hasOpenBlocks ? config.numLayers * openGroupBytes(config) : 0;
    return run.peakBlocks * kvBlockBytes + run.peakSequences * openBytes;
  };

  console.error('blocks in a row and scattered');
  const orderContexts = MIXED.slice(0, CONCURRENCY).map((r) => r.promptTokenIds.length);
  const order = timeBlockOrders(f16!, orderContexts, 10 * rounds);
  console.error('mixed lengths');
  const plain = { concurrency: CONCURRENCY, hasPrefixCache: false };
  const mixed = inTurn(
    times,
    runners.map((runner) => () => runEngine(runner, MIXED, plain)),
  );
  const reserved = mixed[0]!.peakSequences * MAX_MODEL_LEN * tokenBytes;
  const contiguous = { memoryBytes: reserved, latencyMs: order.contiguousMs };
  const step = `a decode step of ${CONCURRENCY} sequences`;
  rows.push(
    {
      what: `${MAX_MODEL_LEN} tokens reserved per sequence (${step})`,
      ...contiguous,
      base: null,
      goal: '',
    },
    {
      what: `paged, blocks scattered (${step})`,
      memoryBytes: mixed[0]!.peakBlocks * blockBytes,
      latencyMs: order.pagedMs,
      base: contiguous,
      goal: '35 %, +8 %',
    },
  );
  const base = {
    memoryBytes: mixed[0]!.peakBlocks * blockBytes,
    latencyMs: mixed[0]!.meanLatencyMs,
  };
  FORMATS.forEach((kvType, i) => {
    const { meanLatencyMs } = mixed[i]!;
    rows.push({
      what: `${kvType}, a request of mixed lengths`,
      memoryBytes: memoryOf(runners[i]!, mixed[i]!),
      latencyMs: meanLatencyMs,
      base: i === 0 ? null : base,
      goal: i === 1 ? '48 %, +12 %' : '',
    });
  });

  console.error('shared prefixes');
  const cached = { concurrency: CONCURRENCY, hasPrefixCache: true };
  const [off, on] = inTurn(
    times,
    [plain, cached].map((options) => () => runEngine(f16!, SHARED, options)),
  );
  if (!off || !on || on.digest !== off.digest) throw new Error('the prefix cache changed a text');
  const without = { memoryBytes: off.peakBlocks * blockBytes, latencyMs: off.meanLatencyMs };
  rows.push(
    {
      what: '470 of 600 prompt tokens shared, no prefix cache',
      ...without,
      base: null,
      goal: '',
    },
    {
      what: 'the same with the prefix cache',
      memoryBytes: on.peakBlocks * blockBytes,
      latencyMs: on.meanLatencyMs,
      base: without,
      goal: '52 %, +3 %',
    },
  );
  return rows;
}

const signed = (share: number): string =>
  `${share >= 0 ? '+' : '−'}${Math.abs(100 * share).toFixed(1)} %`;
const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);

function formatTables(speeds: FormatSpeed[], quality: FormatQuality[], work: WorkRow[]): string {
  const base = speeds[0]!;
  const speedTable = markdownTable(
    [
      ...['format', 'bytes per token', 'of f16', 'longest context in 1 GB'],
      ...contexts.map((tokens) => `t/s at ${tokens}`),
    ],
    speeds.map(({ kvType, bytesPerToken, decode }) => [
      ...[kvType, bytesPerToken.toLocaleString('en-US')],
      percent(bytesPerToken / base.bytesPerToken),
      Math.floor(1e9 / bytesPerToken).toLocaleString('en-US'),
      ...decode.map((rate) => rate.toFixed(1)),
    ]),
  );
  const qualityTable = markdownTable(
    ['activations', 'format', 'NLL', 'mean KLD', 'median', '99%', 'same first token'],
    quality.map((q) => [
      ...[q.precision, q.kvType, q.nll.toFixed(4)],
      ...(q.kvType === 'f16'
        ? ['–', '–', '–', '–']
        : [
            ...[significant(q.meanKld), significant(q.medianKld), significant(q.p99Kld)],
            `${(100 * q.sameTop).toFixed(1)}%`,
          ]),
    ]),
  );
  const workTable = markdownTable(
    ['what', 'KV MiB at most', 'latency ms', 'memory', 'latency', 'to better'],
    work.map((row) => [
      ...[row.what, mib(row.memoryBytes), row.latencyMs.toFixed(1)],
      row.base ? signed(row.memoryBytes / row.base.memoryBytes - 1) : '–',
      row.base ? signed(row.latencyMs / row.base.latencyMs - 1) : '–',
      row.goal,
    ]),
  );
  const parts = [speedTable];
  if (quality.length > 0) {
    const tokens = quality[0]!.tokens.toLocaleString('en-US');
    parts.push(
      `Quality on ${tokens} tokens in windows of 512, KL divergence from the f16 cache in the same precision. With f32 activations it is the cache alone; in fast precision a changed key also moves the int8 rounding of what follows.`,
      qualityTable,
    );
  }
  parts.push(
    `At equal work: ${CONCURRENCY} requests at once behind a first one alone, ${ANSWER_TOKENS} tokens out, prompts of 60 to 900 tokens or of 600 with 470 shared (${SHARED.length - 1} of these). Memory is that of the blocks held when most were, with q4 and of a group of f16 per sequence. "To better": memory saved and latency added, as others report.`,
    workTable,
  );
  return parts.join('\n\n');
}

const machine = await describeMachine({ threads: [threads] });
const { value: results, foreignLoad } = await withForeignLoad(async () => ({
  speeds: await measureDecode(),
  work: await measureWork(),
  quality: await measureQuality(),
}));
const { speeds, work, quality } = results;
const text = [
  '### Formats of the KV cache',
  `\`${shownCommand('bench/kv-formats.ts')}\``,
  formatMachine(machine),
  `${basename(modelPath)}, ${threads} threads, formats in turn, medians of ${rounds} rounds; others took ${percent(foreignLoad)} of all CPU time.`,
  formatTables(speeds, quality, work),
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('kv-formats', text);
console.log(JSON.stringify({ benchmark: 'kv-formats', model: basename(modelPath), ...results }));
const q8 = quality.find((q) => q.kvType === 'q8' && q.precision === 'f32');
process.exitCode = q8 && q8.meanKld > MAX_Q8_KLD ? 1 : 0;
