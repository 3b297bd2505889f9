/**
 * What a grammar costs: compiling it, and per token of an answer, beside answers without one. Ways take turns in one engine; the time per token is
 * the median over the rounds. Prints tables, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/serve/structured.ts --model FILE [--rounds 7] [--threads 2] [--tokens 128] [--no-doc]
 */
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import type { RunningModel } from '../../src/app/running-model.ts';
import { startModel } from '../../src/app/start-model.ts';
import type { GrammarInput } from '../../src/grammar/grammar-spec.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { modelFile } from '../lib/options.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import { describeMachine, formatMachine } from '../machine.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '7' },
    threads: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '128' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const modelPath = modelFile(options.model);

const TYPES = [
  { type: 'string' },
  { type: 'integer' },
  { type: 'number' },
  { type: 'boolean' },
  { enum: ['low', 'middle', 'high'] },
  { type: 'array', items: { type: 'string' } },
];

function schemaOf(numFields: number, prefix: string): GrammarInput {
  const names = Array.from({ length: numFields }, (_, i) => `${prefix}_${i}`);
  const properties = Object.fromEntries(names.map((name, i) => [name, TYPES[i % TYPES.length]]));
  return { type: 'json_schema', schema: { type: 'object', properties, required: names } };
}

/** Nearly every token may come at nearly every place: the largest masks. */
const FREE_TEXT: GrammarInput = { type: 'regex', regex: '[^~]*~END' };

const WAYS: readonly (readonly [name: string, grammar: GrammarInput | undefined])[] = [
  ['none', undefined],
  ['schema of 30 fields', schemaOf(30, 'field')],
  ['free text up to a mark', FREE_TEXT],
];

/** Milliseconds per token of `numStreams` answers side by side. */
async function msPerToken(
  model: RunningModel,
  grammar: GrammarInput | undefined,
  numStreams: number,
  temperature: number,
): Promise<number> {
  const maxTokens = Number(options.tokens);
  const results = await Promise.all(
    Array.from({ length: numStreams }, async (_, seed) => {
      const tokenIds = model.encodePrompt(`Record number ${seed} of the register follows.\n`);
      const sampling = { temperature, seed, maxTokens, ignoreEos: true };
      const generation = model.generate({ tokenIds, sampling, grammar });
      for await (const _ of generation);
      return await generation.result;
    }),
  );
  const ms = Math.max(...results.map(({ timings }) => timings.outputMs));
  return ms / (Math.max(...results.map(({ timings }) => timings.outputTokens)) - 1);
}

const threads = Number(options.threads);
await using model = await startModel({
  name: 'bench',
  setup: {
    ...{ path: modelPath, target: 'auto', precision: 'fast', threads, maxModelLen: 1024 },
    ...{ maxSeqs: 8, planCacheFolder: null, drafts: { speculation: 'off' } },
  },
});

const time = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await work();
  return performance.now() - start;
};
const compile = (grammar: GrammarInput) => time(() => model.calls.compileGrammar(grammar));
const compileMs = {
  first: await compile(schemaOf(30, 'first')),
  next: median([await compile(schemaOf(30, 'a')), await compile(schemaOf(30, 'b'))]),
  known: await compile(schemaOf(30, 'first')),
};
const machine = await describeMachine({ threads: [threads] });
const rows: { way: string; streams: number; temperature: number; ms: number; extra: number }[] = [];
const { foreignLoad } = await withForeignLoad(async () => {
  for (const streams of [1, 8]) {
    for (const temperature of [0, 0.8]) {
      const times = WAYS.map(() => [] as number[]);
      for (let round = 0; round <= Number(options.rounds); round++) {
        for (const [i, [, grammar]] of WAYS.entries()) {
          const ms = await msPerToken(model, grammar, streams, temperature);
          if (round > 0) times[i]!.push(ms); // The first warms up.
        }
      }
      const plain = median(times[0]!);
      for (const [i, [way]] of WAYS.entries()) {
        const ms = median(times[i]!);
        rows.push({ way, streams, temperature, ms, extra: ms - plain });
      }
    }
  }
});
const shown = (ms: number): string => `${significant(ms)} ms`;
const text = [
  `\`${shownCommand('bench/serve/structured.ts')}\``,
  formatMachine(machine),
  `${basename(modelPath)}, ${threads} threads, answers of ${options.tokens} tokens, ways in turn, medians of ${options.rounds} rounds; others took ${percent(foreignLoad)} of all CPU time.`,
  markdownTable(
    ['a schema of 30 fields', 'ready after'],
    [
      ['the first grammar of an engine: worker, vocabulary, schema', shown(compileMs.first)],
      ['a further one', shown(compileMs.next)],
      ['a known one', shown(compileMs.known)],
    ],
  ),
  markdownTable(
    ['grammar', 'answers side by side', 'temperature', 'step', 'more than without'],
    rows.map(({ way, streams, temperature, ms, extra }) => [
      ...[way, String(streams), String(temperature), shown(ms)],
      way === 'none' ? '–' : shown(extra),
    ]),
  ),
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('serve/structured', text);
console.log(JSON.stringify({ model: basename(modelPath), threads, compileMs, rows, foreignLoad }));
