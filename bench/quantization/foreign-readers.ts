/**
 * Whether other toolkits read what `hasten quantize` writes for them, and hasten what they write: folders in every layout, each value as their own code reads it beside
 * ours, and the whole model run by transformers where it can. Knows the layouts; the readers are foreign_readers.py's.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OpenedModel } from '../../src/app/open-model.ts';
import { SequenceDriver } from '../../src/app/sequence-driver.ts';
import { createRunner } from '../../src/runtime/create-runner.ts';
import { writeSafetensors } from '../../src/weights/safetensors-writer.ts';
import { runChild } from '../lib/child.ts';
import { REPOSITORY } from '../lib/paths.ts';
import { markdownTable, significant } from '../lib/table.ts';
import { writeRandomHfModel } from '../models/random-hf-model.ts';
import { SHAPE_TINY } from '../models/random-model.ts';

export interface ForeignReadersPlan {
  /** Interpreter of a Python with the readers. */
  readonly python: string;
  /** A Hugging Face folder whose layouts are compared beside the small random model's; null: only those. */
  readonly model: string | null;
  readonly threads: number;
}

/** What foreign_readers.py answers for a folder that it read. */
export interface ForeignRow {
  readonly name: string;
  readonly reader: string;
  readonly tensors: number;
  readonly values: number;
  readonly differing: number;
  /** Of the largest magnitude in its tensor. */
  readonly largest: number;
  readonly runner?: string;
  /** Largest difference, of the largest logit. */
  readonly logits?: number;
  readonly sameTop?: number;
  readonly notRun?: string;
}

/** One that it could not read, or make. */
export interface ForeignFailure {
  readonly name: string;
  readonly failed: string;
}

/** What it answers for one that it made. */
interface MadeFolder {
  readonly name: string;
  readonly maker: string;
}

type Answer = ForeignRow | ForeignFailure | MadeFolder;

const NUM_IDS = 48;
const LINEAR = /\.layers\.\d+\..*_proj\.weight$/;

interface LayoutCase {
  readonly name: string;
  readonly flags: readonly string[];
  /** Also made of the model that is given. */
  readonly isMain?: boolean;
}

const rtn = (to: string, group: string, symmetry: string, bits = '4'): readonly string[] => [
  ...['--to', to, '--method', 'rtn', '--group-size', group, '--symmetry', symmetry, '--bits', bits],
];

const CASES: readonly LayoutCase[] = [
  ...[
    { name: 'GPTQ v1, 4 bits, symmetric', flags: rtn('gptq', '64', 'symmetric'), isMain: true },
    { name: 'GPTQ v2, 4 bits, asymmetric', flags: rtn('gptq', '64', 'asymmetric'), isMain: true },
    { name: 'GPTQ, 4 bits, rows', flags: rtn('gptq', 'row', 'symmetric') },
  ],
  ...['2', '3', '8'].map((bits) => ({
    name: `GPTQ, ${bits} bits, asymmetric`,
    flags: rtn('gptq', '32', 'asymmetric', bits),
  })),
  { name: 'AWQ, 4 bits', flags: rtn('awq', '64', 'asymmetric'), isMain: true },
  ...(['symmetric', 'asymmetric'] as const).map((symmetry) => ({
    name: `compressed-tensors, 4 bits, ${symmetry}`,
    ...{ flags: rtn('compressed-tensors', '64', symmetry), isMain: true },
  })),
  {
    name: 'compressed-tensors, 4 bits, rows',
    flags: rtn('compressed-tensors', 'row', 'symmetric'),
  },
  ...['2', '3', '8'].map((bits) => ({
    name: `compressed-tensors, ${bits} bits, symmetric`,
    flags: rtn('compressed-tensors', '32', 'symmetric', bits),
  })),
  { name: 'bitsandbytes NF4', flags: ['--to', 'nf4'], isMain: true },
  { name: 'bitsandbytes FP4', flags: ['--to', 'fp4'] },
  { name: 'bitsandbytes int8', flags: ['--to', 'int8'], isMain: true },
  { name: 'compressed-tensors W8A8', flags: ['--to', 'w8a8'], isMain: true },
];

/** What foreign_readers.py makes of the random model. */
const MADE: Readonly<Record<string, string>> = {
  gptq: 'GPTQ v2, 4 bits, asymmetric',
  'gptq-act-order': 'GPTQ v2, 4 bits, act-order',
  awq: 'AWQ, 4 bits',
  'compressed-symmetric': 'compressed-tensors, 4 bits, symmetric',
  'compressed-asymmetric': 'compressed-tensors, 4 bits, asymmetric',
  'compressed-w8a8': 'compressed-tensors W8A8',
  nf4: 'bitsandbytes NF4, scales in f32',
  'nf4-double': 'bitsandbytes NF4',
  fp4: 'bitsandbytes FP4, scales in f32',
  int8: 'bitsandbytes int8',
};

/** @throws {ChildFailedError} if a folder cannot be made or read */
export async function measureForeignReaders(
  plan: ForeignReadersPlan,
): Promise<(ForeignRow | ForeignFailure)[]> {
  const work = mkdtempSync(join(tmpdir(), 'hasten-readers-'));
  try {
    const random = join(work, 'random');
    await writeRandomHfModel(random, SHAPE_TINY);
    const cases = [
      ...CASES.map((each) => ({ ...each, source: random })),
      ...(plan.model === null
        ? []
        : CASES.filter(({ isMain }) => isMain).map(({ name, flags }) => ({
            ...{ flags, source: plan.model! },
            name: `${basename(plan.model!)}: ${name}`,
          }))),
    ];
    const jobs: object[] = [];
    for (const [i, { name, flags, source }] of cases.entries()) {
      console.error(name);
      const folder = join(work, `made-${i}`);
      const launcher = join(REPOSITORY, 'bin', 'hasten.js');
      await runChild(process.execPath, [launcher, 'quantize', source, ...flags, '-o', folder]);
      const ours = join(work, `ours-${i}.safetensors`);
      jobs.push({ name, folder, ours, ids: await writeOurs(folder, ours, plan.threads) });
    }
    const making = Object.entries(MADE).map(([make, name]) => ({
      ...{ name: `${name}, made there`, make, source: random, folder: join(work, make) },
    }));
    const made = await askPython(plan.python, making);
    const failures = made.filter((answer): answer is ForeignFailure => 'failed' in answer);
    for (const { name, make, folder } of making) {
      if (failures.some((failure) => failure.name === name)) continue;
      const ours = join(work, `ours-${make}.safetensors`);
      try {
        jobs.push({ name, folder, ours, ids: await writeOurs(folder, ours, plan.threads) });
      } catch (error) {
        failures.push({ name, failed: `hasten: ${(error as Error).message}` });
      }
    }
    const read = await askPython(plan.python, jobs);
    return [
      ...read.filter((answer): answer is ForeignRow | ForeignFailure => !('maker' in answer)),
      ...failures,
    ];
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * The values of the linears as our reader gives them, and logits in f32 of some tokens.
 * @returns the tokens
 */
async function writeOurs(folder: string, path: string, threads: number): Promise<number[]> {
  using model = new OpenedModel(folder);
  const { weights, config } = model.description;
  const ids = Array.from(
    { length: NUM_IDS },
    (_, i) => (i * 29 + 3) % Math.min(256, config.vocabSize),
  );
  using runner = await createRunner({
    ...{ source: weights, config, threads, target: 'auto', precision: 'f32', maxSeqs: 1 },
    ...{ maxLogitRows: NUM_IDS, maxModelLen: NUM_IDS, planCacheFolder: null },
  });
  const logits = new Float32Array(NUM_IDS * config.vocabSize);
  await new SequenceDriver(runner).feed(ids, 'all', (position, row) => {
    logits.set(runner.logits(row).subarray(0, config.vocabSize), position * config.vocabSize);
  });
  const linears = [...weights.tensors.values()].filter(({ name }) => LINEAR.test(name));
  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
    new Uint8Array(buffer, byteOffset, byteLength);
  await writeSafetensors(path, {
    tensors: [
      ...linears.map(({ name, shape }) => ({
        ...{ name, dtype: 'f32' as const, shape, data: () => [bytes(weights.readF32(name))] },
      })),
      {
        ...{ name: 'logits', dtype: 'f32', shape: [NUM_IDS, config.vocabSize] },
        data: bytes(logits),
      },
    ],
  });
  return ids;
}

async function askPython(python: string, jobs: readonly object[]): Promise<Answer[]> {
  const script = fileURLToPath(new URL('./foreign_readers.py', import.meta.url));
  const stdout = await runChild(python, [script], { input: JSON.stringify(jobs) });
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('{"name"'))
    .map((line) => JSON.parse(line) as Answer);
}

export function formatForeignReaders(answers: readonly (ForeignRow | ForeignFailure)[]): string {
  const rows = answers.filter((answer): answer is ForeignRow => 'reader' in answer);
  const table = markdownTable(
    [
      'written',
      'read by',
      'tensors',
      'values that differ',
      'at most',
      'logits',
      'same first token',
    ],
    rows.map((row) => [
      ...[row.name, row.reader, `${row.tensors}`],
      row.differing === 0 ? 'none' : `${significant((100 * row.differing) / row.values)}%`,
      row.differing === 0 ? '–' : row.largest.toExponential(0),
      row.logits === undefined ? '–' : row.logits.toExponential(0),
      row.sameTop === undefined ? '–' : `${significant(100 * row.sameTop)}%`,
    ]),
  );
  const runner = rows.find((row) => row.runner !== undefined)?.runner ?? '';
  const notRun = rows.flatMap(({ name, notRun: why }) => (why ? [`- ${name}: ${why}`] : []));
  const failed = answers.flatMap((each) =>
    'failed' in each ? [`- ${each.name}: ${each.failed}`] : [],
  );
  return [
    `Folders made by \`hasten quantize\`, of a small random model and of the one that was named, and by the toolkits themselves ("made there"): every value of every linear as the toolkit's own code reads it, in f32, beside what hasten reads; "at most" is of the largest magnitude in its tensor. Logits are those of ${NUM_IDS} tokens, hasten in f32 and the folder run by ${runner} with that toolkit in f32, and how far they are apart at most, of the largest.`,
    table,
    ...(failed.length === 0 ? [] : [`What was not read or made:\n\n${failed.join('\n')}`]),
    ...(notRun.length === 0 ? [] : [`What ${runner} could not run:\n\n${notRun.join('\n')}`]),
  ].join('\n\n');
}
