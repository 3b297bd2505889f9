/** The process that `model-cost.ts` starts: takes one job, answers with its figures, and is then ended. */
import { peakBytes } from '../platform/peak-memory.ts';
import { createRunner } from '../runtime/create-runner.ts';
import { DTYPES } from '../tensor/dtype.ts';
import type { WeightSource } from '../weights/contract.ts';
import { runBenchmark } from './benchmark.ts';
import type { CostAnswer, CostJob, ModelCost } from './model-cost.ts';
import { OpenedModel } from './open-model.ts';

const PROMPT_TOKENS = 512;
const DECODE_TOKENS = 64;
const REPETITIONS = 3;

async function costOf(job: CostJob): Promise<ModelCost> {
  using model = new OpenedModel(job.path, job.opening);
  const { config, weights } = model.description;
  const prompt = Math.min(PROMPT_TOKENS, config.maxPositionEmbeddings - 1);
  using runner = await createRunner({
    ...{ source: weights, config, precision: 'fast', maxSeqs: 1, maxModelLen: prompt + 1 },
    ...{ target: job.target, threads: job.threads, kvCacheType: job.kvCacheType },
    planCacheFolder: null,
  });
  const prefill = await runBenchmark(runner, { kind: 'pp', numTokens: prompt }, REPETITIONS);
  const numTokens = Math.min(DECODE_TOKENS, prompt);
  const decode = await runBenchmark(runner, { kind: 'tg', numTokens }, REPETITIONS);
  const residentBytes = process.memoryUsage.rss();
  return {
    sizeBytes: weights.sizeBytes,
    bitsPerWeight: bitsPerWeight(weights),
    prefillTokensPerSecond: prefill.tokensPerSecond,
    decodeTokensPerSecond: decode.tokensPerSecond,
    ...{ residentBytes, peakBytes: Math.max(residentBytes, peakBytes()) },
  };
}

function bitsPerWeight({ tensors }: WeightSource): number {
  let elements = 0;
  let bytes = 0;
  for (const { shape, dtype, sizeBytes } of tensors.values()) {
    if (DTYPES[dtype].kind === 'integer') continue;
    elements += shape.reduce((product, dim) => product * dim, 1);
    bytes += sizeBytes;
  }
  return (8 * bytes) / elements;
}

process.once('message', async (job) => {
  const answer: CostAnswer = await costOf(job as CostJob).then(
    (cost) => ({ cost }),
    (error: Error) => ({ error: error.message }),
  );
  process.send?.(answer);
});
