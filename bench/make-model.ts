/**
 * Makes the model files that the benchmarks run on, once, in hasten's cache folder outside the checkout (or --out).
 *
 *   node bench/make-model.ts 1.1b-q4_0                     random weights, TinyLlama-1.1B's shape
 *   node bench/make-model.ts glm4-9b-q4_0                  random weights, GLM-4-9B's shape, 5.3 GB
 *   node bench/make-model.ts smollm2-q4_0 --source FILE    SmolLM2's Q4_1 GGUF encoded again as Q4_0
 *   node bench/make-model.ts tiny-q4_0                     a few hundred kB, to try things
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { benchFolder } from './lib/paths.ts';
import { SHAPE_1B, SHAPE_GLM4_9B, SHAPE_TINY, writeRandomModel } from './models/random-model.ts';
import { requantizeGguf } from './models/requantize.ts';

export const MADE_MODELS = ['1.1b-q4_0', 'glm4-9b-q4_0', 'smollm2-q4_0', 'tiny-q4_0'] as const;
export type MadeModel = (typeof MADE_MODELS)[number];

export interface MakeOptions {
  /** Folder for the file; the benchmarks' own where left out. */
  readonly folder?: string;
  /** SmolLM2's Q4_1 GGUF, for `smollm2-q4_0`. */
  readonly smollm2?: string;
}

/**
 * Path of the file, which is written if it is not there yet.
 * @throws {Error} if `smollm2-q4_0` has to be made and no source is given
 */
export async function madeModel(name: MadeModel, options: MakeOptions = {}): Promise<string> {
  const path = join(options.folder ?? benchFolder(), `${name}.gguf`);
  if (existsSync(path)) return path;
  switch (name) {
    case '1.1b-q4_0':
      await writeRandomModel(path, SHAPE_1B);
      break;
    case 'glm4-9b-q4_0':
      await writeRandomModel(path, SHAPE_GLM4_9B);
      break;
    case 'tiny-q4_0':
      await writeRandomModel(path, SHAPE_TINY);
      break;
    case 'smollm2-q4_0':
      if (options.smollm2 === undefined) {
        throw new Error(
          `${name} is made from SmolLM2's Q4_1 GGUF, and none was given; name it with --source (hasten pull smollm2 prints where it is)`,
        );
      }
      await requantizeGguf(options.smollm2, path, { from: 'q4_1', to: 'q4_0' });
      break;
    default:
      name satisfies never;
  }
  return path;
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { out: { type: 'string' }, source: { type: 'string' } },
  });
  const unknown = positionals.filter((name) => !(MADE_MODELS as readonly string[]).includes(name));
  if (positionals.length === 0 || unknown.length > 0) {
    console.error(
      `${unknown.length > 0 ? `unknown: ${unknown.join(', ')}; ` : ''}expected one or more of ${MADE_MODELS.join(', ')}`,
    );
    process.exit(2);
  }
  for (const name of positionals as MadeModel[]) {
    console.log(await madeModel(name, { folder: values.out, smollm2: values.source }));
  }
}
