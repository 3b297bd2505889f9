/**
 * What llama-bench measures, through the addon: pp = one batch of prompt tokens into an empty context, tg = tokens one by one into an empty
 * context; the logits of the last token are computed, nothing is sampled or tokenized; one run to warm up, then `repetitions`. Run in a
 * process of its own: node bench/peers/llama-bench.ts '<LlamaBenchRequest as JSON>'; prints a LlamaBenchAnswer as JSON.
 */
import { type AddonContext, LlamaAddon } from './llama-addon.ts';

export interface LlamaBenchRequest {
  readonly folder: string;
  readonly model: string;
  readonly vocabSize: number;
  readonly threads: number;
  readonly flashAttention: boolean;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly repetitions: number;
  readonly variant?: string;
}

export interface LlamaBenchAnswer {
  readonly systemInfo: string;
  /** By test, such as `pp512`: tokens per second of each repetition. */
  readonly tokensPerSecond: Readonly<Record<string, readonly number[]>>;
}

/** The context of one test, as large as the test. */
interface Runner {
  readonly context: AddonContext;
  readonly tokens: Uint32Array;
}

async function runPrompt({ context, tokens }: Runner): Promise<void> {
  context.addToBatch(0, 0, tokens, Uint32Array.of(tokens.length - 1));
  await context.decodeBatch();
}

async function runGeneration({ context, tokens }: Runner): Promise<void> {
  const last = Uint32Array.of(0);
  for (let position = 0; position < tokens.length; position++) {
    context.initBatch(1);
    context.addToBatch(0, position, tokens.subarray(position, position + 1), last);
    await context.decodeBatch();
  }
}

async function measure(request: LlamaBenchRequest): Promise<LlamaBenchAnswer> {
  const { threads, flashAttention, vocabSize, repetitions } = request;
  const llama = await LlamaAddon.load(request.folder, request.model, request.variant);
  const tests = [
    { name: 'pp', numTokens: request.promptTokens, run: runPrompt },
    { name: 'tg', numTokens: request.generatedTokens, run: runGeneration },
  ];
  const tokensPerSecond: Record<string, number[]> = {};
  for (const { name, numTokens, run } of tests) {
    if (numTokens === 0) continue;
    const context = await llama.createContext({
      contextSize: numTokens,
      batchSize: Math.min(512, numTokens),
      flashAttention,
      threads,
    });
    const tokens = Uint32Array.from({ length: numTokens }, (_, i) => (7919 * i + 13) % vocabSize);
    const rates: number[] = [];
    for (let repetition = 0; repetition <= repetitions; repetition++) {
      context.disposeSequence(0);
      context.initBatch(name === 'pp' ? numTokens : 1);
      const begin = performance.now();
      await run({ context, tokens });
      const seconds = (performance.now() - begin) / 1000;
      if (repetition > 0) rates.push(numTokens / seconds);
    }
    tokensPerSecond[`${name}${numTokens}`] = rates;
    await context.dispose();
  }
  return { systemInfo: llama.systemInfo, tokensPerSecond };
}

const answer = await measure(JSON.parse(process.argv[2] ?? '') as LlamaBenchRequest);
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
