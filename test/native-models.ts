/**
 * Runners of the x64 target for tests: the levels of machine code that this machine has, and a runner of a model for one of them. Knows no expected values.
 */
import {
  type KvType,
  keyBlockBytes,
  kvBlockSize,
  valueBlockBytes,
} from '../src/kernels/kv-layout.ts';
import type { ModelDescription } from '../src/models/load-model.ts';
import { createNativeRunner } from '../src/runtime/create-runner.ts';
import type { NativeRunner } from '../src/runtime/native-runner.ts';
import type { RunnerOptions } from '../src/runtime/runner-options.ts';
import { chooseTarget } from '../src/runtime/target-choice.ts';
import type { RunnerLimits } from '../src/targets/model-runner.ts';
import { X64_ISAS, type X64Isa } from '../src/targets/x64/isa.ts';

const choice = chooseTarget();

/** Best first; none where native code cannot run. */
export const nativeIsas: readonly X64Isa[] = choice.target === 'x64' ? choice.isas : [];

/** Why a level is left out here, or false. */
export function skipOf(isa: X64Isa): string | false {
  if (nativeIsas.includes(isa)) return false;
  return choice.target === 'x64' ? `this processor has no ${isa}` : choice.reason;
}

/** Why native tests are left out here, or false. */
export const skipNative: string | false = skipOf(nativeIsas[0] ?? X64_ISAS[0]);

export interface NativeSettings {
  readonly isa: X64Isa;
  readonly precision: 'fast' | 'f32';
  readonly threads: number;
  /** Left out: what goes with the precision. */
  readonly kvType?: KvType;
  readonly planCacheFolder?: string | null;
}

/** Limits that tests choose; the block size is the target's own. */
export type TestLimits = Pick<
  RunnerLimits,
  'maxTokens' | 'maxSeqs' | 'maxLogitRows' | 'maxModelLen' | 'numBlocks'
>;

/** Packs into memory unless a cache folder is given. Waits until all threads have joined, so that `threads` is what runs. */
export async function nativeRunner(
  { config, weights }: Pick<ModelDescription, 'config' | 'weights'>,
  { isa, precision, threads, kvType, planCacheFolder = null }: NativeSettings,
  limits: TestLimits,
): Promise<NativeRunner> {
  const { numKvHeads, headDim, numLayers } = config;
  const kvCacheType = kvType ?? (precision === 'f32' ? 'f32' : 'f16');
  const shape = { numKvHeads, headDim, kvType: kvCacheType };
  const blockBytes = numLayers * (keyBlockBytes(shape) + valueBlockBytes(shape));
  const options: RunnerOptions = {
    source: weights,
    config,
    target: isa,
    precision,
    threads,
    kvCacheType,
    maxModelLen: limits.maxModelLen,
    kvCacheMemoryBytes: limits.numBlocks * blockBytes,
    maxTokensPerStep: limits.maxTokens,
    maxSeqs: limits.maxSeqs,
    maxLogitRows: limits.maxLogitRows,
    planCacheFolder,
  };
  const runner = await createNativeRunner(options, isa);
  while (runner.numThreads < threads) await new Promise((resolve) => setTimeout(resolve, 1));
  return runner;
}

/** The limits that a runner of `nativeRunner` has, for another target beside it. */
export function sameLimits(
  limits: TestLimits,
  kvType: KvType = 'f16',
): Omit<RunnerLimits, 'vocabSize' | 'hiddenSize'> {
  return { ...limits, blockSize: kvBlockSize(kvType) };
}
