/**
 * The library: `import { load } from 'hasten'`.
 *
 *   await using model = await load('smollm2');
 *   for await (const part of model.chat([{ role: 'user', content: 'Hello!' }])) process.stdout.write(part.text);
 *
 * This file is read by any Node, so that an old one gets an error it can understand; everything else is loaded by `load`.
 */
import type { LoadOptions, Model } from './app/library.ts';
import { HastenError } from './platform/errors.ts';

export type {
  Answer,
  AnswerOptions,
  ChatMessage,
  ChatOptions,
  EmbedOptions,
  LoadOptions,
  LoadProgress,
  Model,
  ResponseFormat,
} from './app/library.ts';
export type {
  FinishReason,
  GenerationPart,
  GenerationResult,
  GenerationTimings,
  TokenLogprobs,
  TokenProbability,
} from './app/text-model.ts';
export { HastenError } from './platform/errors.ts';

/** The first Node that knows the language features this program is written in. */
const MIN_NODE_MAJOR = 24;

/**
 * Finds (or fetches) a model, compiles it and starts its engine.
 *
 * @param spec a path (GGUF file or Hugging Face folder), an alias such as `smollm2`, or any form that `hasten pull` takes
 * @throws {HastenError} with a stable `code`: the model cannot be found, read, or fitted into memory; an option is unknown or out of range
 */
export async function load(spec: string, options: LoadOptions = {}): Promise<Model> {
  const { node } = process.versions;
  if (Number.parseInt(node, 10) < MIN_NODE_MAJOR) {
    throw new HastenError(
      'unsupported_node',
      `hasten needs Node ${MIN_NODE_MAJOR} or newer (26 for its fast targets), this is ${node}; ` +
        'npm scripts and npx find the one that hasten brings along: "npx node yourfile.js"',
    );
  }
  const { loadModel } = await import('./app/library.ts');
  return await loadModel(spec, options);
}
