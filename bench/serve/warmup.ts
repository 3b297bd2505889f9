/**
 * Cold and warm first tokens: the time to first token of the very first request of a fresh server, without warm-up, with it, and with its system
 * prompt given by --preload, beside the request after it. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/serve/warmup.ts --model FILE [--rounds 5] [--threads 2] [--no-doc]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { CompletionClient } from '../../src/loadgen/http-client.ts';
import { servedModels } from '../../src/loadgen/prepare.ts';
import { parseBaseUrl } from '../../src/loadgen/target.ts';
import { hastenVersion } from '../compare/engines.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { modelFile } from '../lib/options.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable, ms, percent } from '../lib/table.ts';
import { describeMachine, formatMachine } from '../machine.ts';
import { exitOnSignals, hastenServer } from './servers.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    threads: { type: 'string', default: '2' },
    'no-doc': { type: 'boolean', default: false },
  },
});
exitOnSignals();

const modelPath = modelFile(options.model);
const threads = Number(options.threads);
const numRounds = Number(options.rounds);
const version = hastenVersion();
const TIMEOUTS = { totalMs: 120_000, stallMs: 120_000 };

/** Rules as an agent is given them, no two alike. */
const SYSTEM_PROMPT = Array.from(
  { length: 60 },
  (_, i) =>
    `Rule ${i + 1}: when a customer asks about order ${1000 + 37 * i}, look into shelf ${i % 7} and answer in ${1 + (i % 5)} short sentences. `,
).join('');
const QUESTIONS = ['Where is my parcel?', 'Can I send this back after a month?'];

/** A way of starting, and what the first two requests begin with. */
interface Start {
  readonly name: string;
  readonly flags: readonly string[];
  readonly system: string;
}

interface Sample {
  /** From the start of the process until /readyz says so. */
  readonly readyMs: number;
  readonly firstMs: number;
  readonly secondMs: number;
  readonly promptTokens: number;
  /** Of the first request. */
  readonly cachedTokens: number;
}

async function measure({ flags, system }: Start): Promise<Sample> {
  const startMs = performance.now();
  const job = { modelPath, threads, streams: 1, contextTokens: 8192 };
  await using running = await hastenServer(version, flags).start(job);
  const readyMs = performance.now() - startMs;
  const target = { baseUrl: parseBaseUrl(running.url, false), headers: {} };
  const [model] = await servedModels(target, TIMEOUTS.totalMs);
  using client = new CompletionClient(target, TIMEOUTS);
  const ask = async (question: string) => {
    const messages = [
      ...(system === '' ? [] : [{ role: 'system', content: system }]),
      { role: 'user', content: question },
    ];
    const limits = { max_tokens: 8, temperature: 0, ignore_eos: true };
    const stream = { stream: true, stream_options: { include_usage: true } };
    const { ttftMs, usage, outcome } = await client.send(
      '/v1/chat/completions',
      { model, messages, ...limits, ...stream },
      {},
      AbortSignal.timeout(TIMEOUTS.totalMs),
      false,
    );
    if (ttftMs === null || usage === null) throw new Error(`no answer: ${JSON.stringify(outcome)}`);
    return { ttftMs, usage };
  };
  const first = await ask(QUESTIONS[0]!);
  const second = await ask(QUESTIONS[1]!);
  return {
    ...{ readyMs, firstMs: first.ttftMs, secondMs: second.ttftMs },
    promptTokens: first.usage.promptTokens,
    cachedTokens: first.usage.cachedTokens ?? 0,
  };
}

const folder = mkdtempSync(join(tmpdir(), 'hasten-warmup-'));
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
const preloadFile = join(folder, 'preload.json');
writeFileSync(
  preloadFile,
  JSON.stringify([{ messages: [{ role: 'system', content: SYSTEM_PROMPT }] }]),
);
const STARTS: readonly Start[] = [
  { name: 'no warm-up', flags: ['--no-warmup'], system: '' },
  { name: 'warm-up', flags: [], system: '' },
  { name: 'no warm-up, long system prompt', flags: ['--no-warmup'], system: SYSTEM_PROMPT },
  { name: 'warm-up, long system prompt', flags: [], system: SYSTEM_PROMPT },
  {
    name: 'warm-up, long system prompt preloaded',
    flags: ['--preload', preloadFile],
    system: SYSTEM_PROMPT,
  },
];

const machine = await describeMachine({ threads: [threads] });
await measure(STARTS[0]!); // Fills the caches of plans and pages.
const samples = new Map(STARTS.map((start) => [start, [] as Sample[]]));
const { foreignLoad } = await withForeignLoad(async () => {
  for (let round = 0; round < numRounds; round++) {
    for (const start of round % 2 === 0 ? STARTS : STARTS.toReversed()) {
      samples.get(start)!.push(await measure(start));
    }
  }
});

const rows = STARTS.map(({ name }, i) => {
  const all = samples.get(STARTS[i]!)!;
  const middle = (key: keyof Sample): number => median(all.map((sample) => sample[key]));
  return {
    name,
    ...{ readyMs: middle('readyMs'), firstMs: middle('firstMs'), secondMs: middle('secondMs') },
    ...{ promptTokens: middle('promptTokens'), cachedTokens: middle('cachedTokens') },
    firstValues: all.map(({ firstMs }) => firstMs),
  };
});
const text = [
  `\`${shownCommand('bench/serve/warmup.ts')}\``,
  formatMachine(machine),
  `hasten ${version}, ${basename(modelPath)}, ${threads} threads. A fresh server for each row and round, medians of ${numRounds} rounds, the order reversed every round, caches of plans and pages warm; others took ${percent(foreignLoad)} of all CPU time. "Ready" is from the start of the process until \`/readyz\` says so. The first request is the first of the server's life; the second asks something else behind the same system prompt, so the prefix cache serves that from then on.`,
  markdownTable(
    ['started with', 'ready', 'prompt tokens', 'of these cached', 'first TTFT', 'range', 'second'],
    rows.map((row) => [
      ...[row.name, `${(row.readyMs / 1000).toFixed(1)} s`],
      ...[`${row.promptTokens}`, `${row.cachedTokens}`, ms(row.firstMs)],
      `${ms(Math.min(...row.firstValues))} … ${ms(Math.max(...row.firstValues))}`,
      ms(row.secondMs),
    ]),
  ),
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('serve/warmup', text);
console.log(JSON.stringify({ rows, foreignLoad }));
