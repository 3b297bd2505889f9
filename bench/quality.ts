/**
 * What int8 activations cost in quality: NLL of a text and KL divergence of the predictions to hasten's own f32, for hasten's fast precision
 * and for llama.cpp on the same file. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/quality.ts --model smollm2=FILE [--model gemma3-270m=FILE] [--windows 13] [--threads 2] [--target avx2]
 *
 * Bounds: NLL of fast within 0.5 % of f32's; mean KL divergence at most 1.05x llama.cpp's. Exits with 1 if one is broken.
 */
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { type QualityResult, QualityTally, ReferenceRow } from '../src/compress/divergence.ts';
import { modelWork } from './compare/model-work.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { markdownTable, significant } from './lib/table.ts';
import { prebuiltLlama } from './peers/install.ts';
import { type EvalWindow, evalModel, evalWindows } from './quality/eval-windows.ts';
import { type LogitRequest, logitRows } from './quality/logit-rows.ts';

const MAX_NLL_CHANGE = 0.005;
const MAX_KLD_RATIO = 1.05;

interface Provider {
  readonly name: string;
  readonly script: URL;
  readonly request: Pick<LogitRequest, 'precision' | 'target' | 'folder'>;
}

export interface QualityReport {
  readonly model: string;
  readonly windows: number;
  readonly referenceNll: number;
  readonly results: Readonly<Record<string, QualityResult>>;
  /** (NLL of fast) / (NLL of f32) - 1. */
  readonly nllChange: number;
  /** Mean KL divergence of fast over llama.cpp's. */
  readonly kldRatio: number;
  readonly isWithinBounds: boolean;
}

const script = (name: string): URL => new URL(`./quality/${name}.ts`, import.meta.url);

/** All providers walk through the same positions in step; the first is the reference. */
async function measureQuality(
  modelPath: string,
  windows: readonly EvalWindow[],
  providers: readonly Provider[],
  threads: number,
): Promise<Record<string, QualityResult>> {
  const { vocabSize } = modelWork(modelPath);
  const request = { model: modelPath, windows: windows.map((w) => w.tokenIds), threads };
  const streams = providers.map((provider) =>
    logitRows(provider.script, { ...request, ...provider.request }, vocabSize),
  );
  const reference = new ReferenceRow(vocabSize);
  const tallies = providers.map(() => new QualityTally());
  let numTokens = 0;
  try {
    for (const [index, { tokenIds }] of windows.entries()) {
      console.error(`window ${index + 1}/${windows.length}`);
      for (const nextToken of tokenIds.slice(1)) {
        const items = await Promise.all(streams.map((stream) => stream.next()));
        const rows = items.map((item, i) => {
          if (!item.done) return item.value;
          throw new Error(`${providers[i]!.name} ended before the text did`);
        });
        reference.set(rows[0]!);
        for (const [i, row] of rows.entries()) {
          tallies[i]!.add(row, nextToken, i === 0 ? null : reference);
        }
        numTokens++;
      }
    }
  } finally {
    for (const stream of streams) await stream.return(undefined);
  }
  return Object.fromEntries(providers.map(({ name }, i) => [name, tallies[i]!.result(numTokens)]));
}

function reportOf(
  model: string,
  windows: readonly EvalWindow[],
  results: Record<string, QualityResult>,
): QualityReport {
  const [exact, fast, peer] = ['hasten f32', 'hasten fast', 'llama.cpp'].map((n) => results[n]!);
  const nllChange = fast!.nll / exact!.nll - 1;
  const kldRatio = fast!.meanKld / peer!.meanKld;
  const referenceNll = windows.reduce((sum, w) => sum + w.referenceNll, 0) / windows.length;
  return {
    ...{ model, windows: windows.length, referenceNll, results, nllChange, kldRatio },
    isWithinBounds: Math.abs(nllChange) <= MAX_NLL_CHANGE && kldRatio <= MAX_KLD_RATIO,
  };
}

function formatQuality(reports: readonly QualityReport[], command: string): string {
  const rows = reports.flatMap((report) => [
    [report.model, 'transformers f32', report.referenceNll.toFixed(4), '–', '–', '–', '–'],
    ...Object.entries(report.results).map(([name, r]) => [
      ...[report.model, name, r.nll.toFixed(4)],
      ...(r.meanKld === 0
        ? ['–', '–', '–', '–']
        : [significant(r.meanKld), significant(r.medianKld), significant(r.p99Kld)].concat(
            `${(100 * r.sameTop).toFixed(1)}%`,
          )),
    ]),
  ]);
  const verdicts = reports.map(
    (r) =>
      `- ${r.model}, ${r.windows} windows of 512 tokens: NLL of fast ${r.nllChange >= 0 ? '+' : ''}${(100 * r.nllChange).toFixed(3)}% of f32's (bound ±${100 * MAX_NLL_CHANGE}%), mean KL divergence ${r.kldRatio.toFixed(3)}x llama.cpp's (bound ${MAX_KLD_RATIO}x): ${r.isWithinBounds ? 'within' : '**missed**'}`,
  );
  return [
    `\`${command}\``,
    markdownTable(
      ['model', 'engine', 'NLL', 'mean KLD', 'median', '99%', 'same first token'],
      rows,
    ),
    verdicts.join('\n'),
  ].join('\n\n');
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', multiple: true, default: [] },
    windows: { type: 'string', default: '13' },
    threads: { type: 'string', default: '2' },
    target: { type: 'string' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const models = options.model.map(evalModel);
const folder = await prebuiltLlama();
const { target } = options;
const providers: Provider[] = [
  { name: 'hasten f32', script: script('hasten-rows'), request: { precision: 'f32', target } },
  { name: 'hasten fast', script: script('hasten-rows'), request: { precision: 'fast', target } },
  { name: 'llama.cpp', script: script('llama-rows'), request: { folder } },
];
const reports: QualityReport[] = [];
for (const { set, path } of models) {
  const windows = evalWindows(set).slice(0, Number(options.windows));
  const results = await measureQuality(path, windows, providers, Number(options.threads));
  reports.push(reportOf(basename(path, '.gguf'), windows, results));
}
const text = formatQuality(reports, shownCommand('bench/quality.ts'));
console.log(text);
if (!options['no-doc']) writeSection('quality', text);
console.log(JSON.stringify(reports));
process.exitCode = reports.every((report) => report.isWithinBounds) ? 0 : 1;
