/** What a format of the KV cache costs in quality, against the f16 cache in the same precision: all runners walk through the same windows in step. */
import { scoringRows } from '../../src/app/scoring.ts';
import { SequenceDriver } from '../../src/app/sequence-driver.ts';
import { type QualityResult, QualityTally, ReferenceRow } from '../../src/compress/divergence.ts';
import type { ModelDescription } from '../../src/models/load-model.ts';
import { createRunner } from '../../src/runtime/create-runner.ts';
import type { KvCacheType, Precision } from '../../src/runtime/runner-options.ts';

export interface FormatQuality extends QualityResult {
  readonly kvType: KvCacheType;
  readonly precision: Precision;
}

/** @param kvTypes the first is the reference */
export async function formatQuality(
  { config, weights }: Pick<ModelDescription, 'config' | 'weights'>,
  windows: readonly (readonly number[])[],
  options: { kvTypes: readonly KvCacheType[]; precision: Precision; threads: number },
): Promise<FormatQuality[]> {
  const { kvTypes, precision, threads } = options;
  const rows = scoringRows(config.vocabSize);
  using stack = new DisposableStack();
  const runners = await Promise.all(
    kvTypes.map(async (kvCacheType) =>
      stack.use(
        await createRunner({
          source: weights,
          config,
          target: 'auto',
          precision,
          threads,
          kvCacheType,
          maxSeqs: 1,
          maxLogitRows: rows,
          maxModelLen: Math.max(...windows.map((ids) => ids.length)),
          planCacheFolder: null,
        }),
      ),
    ),
  );
  const drivers = runners.map((runner) => new SequenceDriver(runner));
  const tallies = runners.map(() => new QualityTally());
  const reference = new ReferenceRow(config.vocabSize);
  const chunk = Math.min(...runners.map(({ limits }) => Math.min(limits.maxTokens, rows)));
  let numTokens = 0;
  for (const [index, tokenIds] of windows.entries()) {
    console.error(`${precision}: window ${index + 1}/${windows.length}`);
    for (const driver of drivers) driver.reset();
    for (let start = 0; start < tokenIds.length - 1; start += chunk) {
      const ids = tokenIds.slice(start, Math.min(start + chunk, tokenIds.length - 1));
      for (const driver of drivers) await driver.feed(ids, 'all');
      for (let row = 0; row < ids.length; row++) {
        const nextToken = tokenIds[start + row + 1]!;
        reference.set(runners[0]!.logits(row));
        for (const [i, runner] of runners.entries()) {
          tallies[i]!.add(runner.logits(row), nextToken, i === 0 ? null : reference);
        }
        numTokens++;
      }
    }
  }
  return kvTypes.map((kvType, i) => ({ kvType, precision, ...tallies[i]!.result(numTokens) }));
}
