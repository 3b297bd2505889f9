/**
 * Time of one step by its rows: sequences that decode together, or drafts that are checked at once. Prints a table, then one line of JSON, and writes
 * the section of docs/benchmarks.md.
 *
 *   node bench/rows.ts --model smollm2=FILE [--rows 1,2,3,4,...] [--threads 1,2] [--target avx2] [--rounds 15] [--no-doc]
 *
 * Each sequence has 100 tokens behind it, each row's logits are computed. Every round times every count, the order reversed each round. Shown are medians;
 * "throughput" is that of a row against one row, "step" what the rows before it had: below 0.95 a row more would make all slower.
 */
import { parseArgs } from 'node:util';
import { loadModelDescription } from '../src/models/load-model.ts';
import { createRunner } from '../src/runtime/create-runner.ts';
import type { TargetName } from '../src/runtime/runner-options.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { namedModel } from './lib/options.ts';
import { median } from './lib/statistics.ts';
import { markdownTable } from './lib/table.ts';

const CONTEXT = 100;
/** KV blocks of a sequence: more than it needs, whatever their size. */
const BLOCKS = 16;

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    rows: { type: 'string', default: '1,2,3,4,5,6,7,8,9,10,12,14,16,17,20,24,28,32' },
    threads: { type: 'string', default: '1,2' },
    target: { type: 'string', default: 'auto' },
    rounds: { type: 'string', default: '15' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const { name, path } = namedModel(options.model);
const counts = options.rows.split(',').map(Number);

/** One token of `count` sequences, each with its own blocks. */
function fill({ batch, limits: { blockSize } }: ModelRunner, count: number): void {
  const numBlocks = Math.floor(CONTEXT / blockSize) + 1;
  for (let s = 0; s < count; s++) {
    batch.tokenIds[s] = 100 + s;
    batch.positions[s] = CONTEXT;
    batch.slotMapping[s] =
      (s * numBlocks + Math.floor(CONTEXT / blockSize)) * blockSize + (CONTEXT % blockSize);
    batch.queryStarts[s] = s;
    batch.contextLens[s] = CONTEXT + 1;
    batch.logitRows[s] = s;
    for (let b = 0; b < numBlocks; b++) {
      batch.blockTables[s * batch.maxBlocksPerSeq + b] = s * numBlocks + b;
    }
  }
  batch.queryStarts[count] = count;
  batch.numTokens = count;
  batch.numSeqs = count;
  batch.numLogitRows = count;
}

async function step(runner: ModelRunner, count: number): Promise<number> {
  fill(runner, count);
  const before = performance.now();
  const ticket = runner.submit();
  if (!ticket.isDone) await ticket.wait();
  return performance.now() - before;
}

async function measure(threads: number): Promise<number[]> {
  using description = loadModelDescription(path);
  using runner = await createRunner({
    source: description.weights,
    config: description.config,
    target: options.target as TargetName,
    precision: 'fast',
    threads,
    maxModelLen: 2 * CONTEXT,
    maxSeqs: Math.max(...counts),
    kvCacheTokens: Math.max(...counts) * BLOCKS * 16,
    planCacheFolder: null,
  });
  for (const count of counts) await step(runner, count);
  const times = counts.map((): number[] => []);
  for (let round = 0; round < Number(options.rounds); round++) {
    const order = round % 2 === 0 ? [...counts.keys()] : [...counts.keys()].reverse();
    for (const index of order) {
      await step(runner, counts[index]!); // Not timed: the count before it left other lines in the caches.
      for (let i = 0; i < 3; i++) times[index]!.push(await step(runner, counts[index]!));
    }
  }
  return times.map(median);
}

const results = [];
const sections: string[] = [];
for (const threads of options.threads.split(',').map(Number)) {
  const times = await measure(threads);
  results.push({ threads, counts, milliseconds: times });
  const rate = (index: number): number => counts[index]! / times[index]!;
  sections.push(
    `${threads === 1 ? '1 thread' : `${threads} threads`}:\n\n${markdownTable(
      ['rows', 'ms', 'against one row', 'tokens/s', 'throughput', 'step'],
      counts.map((count, i) => [
        String(count),
        times[i]!.toFixed(2),
        `${(times[i]! / times[0]!).toFixed(2)}x`,
        (1000 * rate(i)).toFixed(0),
        `${(rate(i) / rate(0)).toFixed(2)}x`,
        i === 0 ? '–' : (rate(i) / rate(i - 1)).toFixed(2),
      ]),
    )}`,
  );
}
const heading = `### Rows of a step: ${name}, ${options.target}`;
const text = [heading, `\`${shownCommand('bench/rows.ts')}\``, ...sections].join('\n\n');
console.log(text);
console.log(JSON.stringify({ benchmark: 'rows', model: name, results }));
if (!options['no-doc']) {
  writeSection(options.target === 'auto' ? 'rows' : `rows#${options.target}`, text);
}
