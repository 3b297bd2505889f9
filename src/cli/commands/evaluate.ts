/** `hasten evaluate`: what a smaller model costs in quality, beside what it saves. */
import { basename } from 'node:path';
import { type Command, Option } from 'commander';
import {
  compareOnTasks,
  compareQuality,
  cutWindows,
  type EvaluateOptions,
  parseProtocol,
  type ScoringProtocol,
} from '../../app/evaluate.ts';
import { evaluationPage } from '../../app/evaluation-page.ts';
import { type EvaluationReport, reportMarkdown } from '../../app/evaluation-report.ts';
import {
  BUILT_IN_TASKS,
  BUILT_IN_TEXT,
  type EvaluationTask,
  loadTask,
} from '../../app/evaluation-task.ts';
import { type CostJob, type ModelCost, measureCost } from '../../app/model-cost.ts';
import { OpenedModel } from '../../app/open-model.ts';
import type { LoadModelOptions } from '../../models/load-model.ts';
import { writeFileAtomic } from '../../platform/atomic-file.ts';
import { diskFull } from '../disk-full.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress } from '../model-command.ts';
import {
  addEngineOptions,
  type EngineFlags,
  openingOptions,
  parseInteger,
  readTextFile,
} from '../options.ts';
import { formatBytes, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface EvaluateFlags extends EngineFlags {
  readonly against?: string;
  readonly file: string;
  readonly protocol: string;
  readonly windows?: number;
  readonly tasks: readonly string[];
  readonly items: number;
  readonly speed: boolean;
  readonly page?: string;
  readonly json: boolean;
}

export function define(command: Command): void {
  addEngineOptions(command, { lengths: false })
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--against <reference>', 'the model to compare with; it runs in f32')
    .addOption(
      new Option('--file <file>', 'the text, or - for stdin').default(BUILT_IN_TEXT, 'built-in'),
    )
    .option('--protocol <name>', 'disjoint-N, strided-N-S or llama.cpp-N', 'disjoint-512')
    .option('--windows <n>', 'score the first n windows only', parseInteger(1))
    .option('--tasks <list>', `${BUILT_IN_TASKS.join(', ')}, all, or .jsonl files`, parseTasks, [])
    .option('--items <n>', 'ask the first n questions of each task', parseInteger(1), 100)
    .option('--no-speed', 'leave out speed and memory')
    .option('--page <file>', 'also draw it all, an HTML file')
    .option('--json', 'print one JSON object instead of Markdown', false)
    .addHelpText(
      'after',
      `
KL divergence is that of the predictions from the reference's, per token, natural logarithm. Protocols:
disjoint-N     windows of N tokens; all tokens from the second on are scored
strided-N-S    windows of N every S tokens; the last S are scored
llama.cpp-N    as llama-perplexity with -c N: disjoint windows, only the tokens behind the middle one are scored

Tasks:
cloze          the last word of passages of the text, to be written by itself
capitals       the capital of a country, one of four
definitions    what a noun means, one of four
FILE.jsonl     {"context": "2 + 2 =", "choices": [" 4", " 5"], "answer": 0} on each line
acc is the share where the right choice is the likeliest, acc_norm the same per character, each with its
standard error, as lm-evaluation-harness defines them.

Examples:
  $ hasten evaluate smollm2-q3.gguf --against smollm2 --file book.txt
  $ hasten evaluate ./llama-gptq --against ./llama --tasks all --page llama-gptq.html
`,
    )
    .action(evaluate);
}

function parseTasks(list: string): string[] {
  const names = list.split(',').map((name) => name.trim());
  return names.flatMap((name) => (name === 'all' ? BUILT_IN_TASKS : [name]));
}

async function evaluate(spec: string, flags: EvaluateFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const { offline, precision } = flags;
  const protocol = parseProtocol(flags.protocol);
  const text = await readTextFile(flags.file);
  const tasks: EvaluationTask[] = [];
  for (const name of flags.tasks) tasks.push(await loadTask(name, text, flags.items));
  const { path } = await findModelWithProgress(spec, { offline, signal });
  const referencePath =
    flags.against === undefined
      ? null
      : (await findModelWithProgress(flags.against, { offline, signal })).path;
  const report: EvaluationReport = {
    ...{
      model: spec,
      loadIn: openingOptions(flags).loadIn ?? null,
      against: flags.against ?? null,
      text: basename(flags.file),
    },
    ...{ protocol: protocol.name, precision },
    ...(await qualityOf(path, referencePath, { flags, text, protocol, tasks, signal })),
    costs: flags.speed ? await costsOf(path, referencePath, flags, signal) : null,
  };
  if (flags.json) await printJson(report);
  else await printLine(reportMarkdown(report, formatBytes));
  const { page } = flags;
  if (page === undefined) return;
  await writeFileAtomic(page, evaluationPage(report, formatBytes)).catch((error: unknown) => {
    throw diskFull(error, page);
  });
  note(`page: ${page}`);
}

/** @throws {UsageError} if the model takes no windows of this protocol */
function checkTakes({ description }: OpenedModel, { name, window }: ScoringProtocol): void {
  const longest = description.config.maxPositionEmbeddings;
  if (window <= longest) return;
  throw new UsageError(
    `--protocol ${name}: ${description.path} was made for sequences of up to ${longest} tokens`,
  );
}

interface QualityJob {
  readonly flags: EvaluateFlags;
  readonly text: string;
  readonly protocol: ReturnType<typeof parseProtocol>;
  readonly tasks: readonly EvaluationTask[];
  readonly signal: AbortSignal;
}

/** Both models are closed when it is known. */
async function qualityOf(
  path: string,
  referencePath: string | null,
  { flags, text, protocol, tasks, signal }: QualityJob,
): Promise<Pick<EvaluationReport, 'quality' | 'tasks'>> {
  using model = new OpenedModel(path, openingOptions(flags));
  using reference = referencePath === null ? null : new OpenedModel(referencePath);
  for (const each of [model, ...(reference === null ? [] : [reference])])
    checkTakes(each, protocol);
  const tokenizer = (reference ?? model).requireTokenizer();
  const bos = tokenizer.addsBos ? tokenizer.bosTokenId : null;
  const windows = cutWindows(tokenizer.encode(text), protocol, bos).slice(0, flags.windows);
  using progress = new ProgressReporter();
  const { target, threads, precision, kvCacheType } = flags;
  const optionsOf = (label: string): EvaluateOptions => ({
    ...{ target, threads, precision, kvCacheType, signal },
    onProgress: (done, total) => progress.update({ label, done, total, unit: 'items' }),
  });
  const of = [model.description, reference?.description ?? null] as const;
  const quality = await compareQuality(...of, windows, optionsOf('windows'));
  if (tasks.length === 0) return { quality, tasks: [] };
  return {
    quality,
    tasks: await compareOnTasks(...of, tasks, tokenizer, optionsOf('questions')),
  };
}

async function costsOf(
  path: string,
  referencePath: string | null,
  flags: EvaluateFlags,
  signal: AbortSignal,
): Promise<NonNullable<EvaluationReport['costs']>> {
  const { target, threads, kvCacheType } = flags;
  const jobOf = (of: string, opening: LoadModelOptions): CostJob => {
    return { path: of, opening, target, threads, kvCacheType };
  };
  const model: ModelCost = await measureCost(jobOf(path, openingOptions(flags)), signal);
  if (referencePath === null) return { model };
  return { reference: await measureCost(jobOf(referencePath, {}), signal), model };
}
