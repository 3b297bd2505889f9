/** The windows of token ids that quality is measured on, kept beside the benchmarks. Knows the file format, not what is scored. */
import { readFileSync } from 'node:fs';

export const EVAL_SETS = ['smollm2', 'gemma3-270m'] as const;
export type EvalSet = (typeof EVAL_SETS)[number];

export interface EvalWindow {
  readonly tokenIds: readonly number[];
  /** Mean NLL of the tokens from the second on by transformers in f32. */
  readonly referenceNll: number;
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
