/** The windows of token ids that quality is measured on, kept beside the benchmarks. Knows the file format, not what is scored. */
import { readFileSync } from 'node:fs';
import { usageError } from '../lib/options.ts';

export const EVAL_SETS = ['smollm2', 'gemma3-270m'] as const;
export type EvalSet = (typeof EVAL_SETS)[number];

export interface EvalWindow {
  readonly tokenIds: readonly number[];
  /** Mean NLL of the tokens from the second on by transformers in f32. */
  readonly referenceNll: number;
}

/** `NAME=FILE` of `--model`: a model and the windows that go with its vocabulary. */
export function evalModel(text: string): { readonly set: EvalSet; readonly path: string } {
  const [name, path] = text.split(/=(.*)/s);
  const set = EVAL_SETS.find((known) => known === name);
  if (set !== undefined && path) return { set, path };
  return usageError(`--model ${text}: expected NAME=FILE, NAME one of ${EVAL_SETS.join(', ')}`);
}

export function evalWindows(set: EvalSet): EvalWindow[] {
  const path = new URL(`../data/${set}.windows.txt`, import.meta.url);
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [nll, ids] = line.split('\t');
      return { referenceNll: Number(nll), tokenIds: ids!.split(' ').map(Number) };
    });
}
