/** `hasten evaluate`: what a smaller model costs in quality, beside what it saves. */
import type { Command } from 'commander';
import {
  compareQuality,
  cutWindows,
  type EvaluateOptions,
  type ModelCost,
  measureCost,
  parseProtocol,
  type Quality,
} from '../../app/evaluate.ts';
import { OpenedModel } from '../../app/open-model.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import {
  addEngineOptions,
  type EngineFlags,
  openingOptions,
  parseInteger,
  readTextFile,
} from '../options.ts';
import { formatBytes, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface EvaluateFlags extends EngineFlags {
  readonly against?: string;
  readonly file: string;
  readonly protocol: string;
  readonly windows?: number;
  readonly speed: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addEngineOptions(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--against <reference>', 'the model to compare with; it runs in f32')
    .requiredOption('--file <file>', 'the text, or - for stdin')
    .option('--protocol <name>', 'disjoint-N, strided-N-S or llama.cpp-N', 'disjoint-512')
    .option('--windows <n>', 'score the first n windows only', parseInteger(1))
    .option('--no-speed', 'leave out speed and memory')
    .option('--json', 'print one JSON object instead of Markdown', false)
    .addHelpText(
      'after',
      `
KL divergence is that of the predictions from the reference's, per token, natural logarithm. Protocols:
disjoint-N     windows of N tokens; all tokens from the second on are scored
strided-N-S    windows of N every S tokens; the last S are scored
llama.cpp-N    as disjoint-N, but only the second half of each window is scored

Example:
  $ hasten evaluate smollm2-q3.gguf --against smollm2 --file book.txt
`,
    )
    .action(evaluate);
}

async function evaluate(spec: string, flags: EvaluateFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { offline, target, threads, precision, kvCacheType } = flags;
  const protocol = parseProtocol(flags.protocol);
  const found = await findModelWithProgress(spec, { offline, signal });
  using model = new OpenedModel(found.path, openingOptions(flags));
  using reference =
    flags.against === undefined
      ? null
      : new OpenedModel((await findModelWithProgress(flags.against, { offline, signal })).path);
  const tokenizer = (reference ?? model).requireTokenizer();
  const tokenIds = tokenizer.encode(await readTextFile(flags.file));
  const bos = tokenizer.addsBos ? tokenizer.bosTokenId : null;
  const windows = cutWindows(tokenIds, protocol, bos).slice(0, flags.windows);
  using progress = new ProgressReporter();
  const options: EvaluateOptions = {
    ...{ target, threads, precision, kvCacheType, signal },
    onProgress: (done, total) => progress.update({ label: 'windows', done, total, unit: 'items' }),
  };
  const quality = await compareQuality(
    model.description,
    reference?.description ?? null,
    windows,
    options,
  );
  const costs = flags.speed
    ? {
        ...(reference && { reference: await measureCost(reference.description, options) }),
        model: await measureCost(model.description, options),
      }
    : null;
  progress[Symbol.dispose]();
  const report = {
    ...{ model: spec, against: flags.against ?? null, protocol: protocol.name, precision },
    ...{ windows: windows.length, quality, costs },
  };
  if (flags.json) await printJson(report);
  else await printLine(markdown(report));
}

type Report = Readonly<{
  model: string;
  against: string | null;
  protocol: string;
  precision: string;
  windows: number;
  quality: { readonly reference?: Quality; readonly model: Quality };
  costs: { readonly reference?: ModelCost; readonly model: ModelCost } | null;
}>;

function markdown(report: Report): string {
  const { quality, costs } = report;
  const columns: [string, Quality, ModelCost | undefined][] = [
    ...(quality.reference
      ? [
          [`${report.against} (f32)`, quality.reference, costs?.reference] as [
            string,
            Quality,
            ModelCost | undefined,
          ],
        ]
      : []),
    [`${report.model} (${report.precision})`, quality.model, costs?.model],
  ];
  const row = (name: string, show: (q: Quality, c: ModelCost | undefined) => string): string =>
    `| ${[name, ...columns.map(([, q, c]) => show(q, c))].join(' | ')} |`;
  const lines = [
    `| | ${columns.map(([name]) => name).join(' | ')} |`,
    `| --- | ${columns.map(() => '---:').join(' | ')} |`,
    row('perplexity', (q) => q.perplexity.toFixed(4)),
    row('NLL', (q) => q.nll.toFixed(5)),
  ];
  if (quality.reference) {
    const { reference } = quality;
    const divergence = (name: string, pick: (q: Quality) => number): string =>
      row(name, (q) => (q === reference ? '–' : pick(q).toPrecision(4)));
    lines.push(
      divergence('KL divergence, mean', (q) => q.meanKld),
      divergence('median', (q) => q.medianKld),
      divergence('90 %', (q) => q.p90Kld),
      divergence('99 %', (q) => q.p99Kld),
      divergence('99.9 %', (q) => q.p999Kld),
      divergence('largest', (q) => q.maxKld),
      row('same first token', (q) => (q === reference ? '–' : `${(100 * q.sameTop).toFixed(2)} %`)),
    );
  }
  if (costs !== null) {
    const cost = (name: string, show: (c: ModelCost) => string): string =>
      row(name, (_, c) => (c ? show(c) : '–'));
    lines.push(
      cost('size', (c) => formatBytes(c.sizeBytes)),
      cost('bits per weight', (c) => c.bitsPerWeight.toFixed(2)),
      cost('prefill t/s', (c) => c.prefillTokensPerSecond.toFixed(0)),
      cost('decode t/s', (c) => c.decodeTokensPerSecond.toFixed(1)),
      cost('memory', (c) => formatBytes(c.residentBytes)),
    );
  }
  const tokens = quality.model.tokens;
  return [
    ...lines,
    '',
    `${tokens} tokens in ${report.windows} windows, protocol ${report.protocol}${costs ? '; speed and memory in fast precision' : ''}`,
  ].join('\n');
}
