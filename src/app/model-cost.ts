/**
 * What a model needs: size, speed, memory. Measured in a process of its own, so that nothing of another model counts; knows nothing of quality.
 */
import { fork } from 'node:child_process';
import type { LoadModelOptions } from '../models/load-model.ts';
import { HastenError } from '../platform/errors.ts';
import type { KvCacheType, TargetName } from '../runtime/runner-options.ts';

export interface ModelCost {
  readonly sizeBytes: number;
  /** Bits of all tensors, per element. */
  readonly bitsPerWeight: number;
  /** t/s, a prompt of 512 tokens (or the model's length) and 64 tokens one by one. */
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
  /** Of the process with the model loaded and its cache filled. */
  readonly residentBytes: number;
  /** The most that the process had, loading included. */
  readonly peakBytes: number;
}

export interface CostJob {
  readonly path: string;
  readonly opening: LoadModelOptions;
  readonly target: TargetName;
  readonly threads: number | 'auto';
  readonly kvCacheType: KvCacheType;
}

export type CostAnswer = { readonly cost: ModelCost } | { readonly error: string };

/** The process that measured died, or could not run the model. */
export class CostError extends HastenError {
  constructor(path: string, reason: string) {
    super('cost', `${path}: speed and memory could not be measured: ${reason}`);
  }
}

/** @throws {CostError} if it cannot be measured, or the signal's reason */
export async function measureCost(job: CostJob, signal?: AbortSignal): Promise<ModelCost> {
  signal?.throwIfAborted();
  const child = fork(new URL('./cost-process.ts', import.meta.url), {
    execArgv: ['--disable-warning=ExperimentalWarning'], // node:ffi
    stdio: ['ignore', 2, 2, 'ipc'],
  });
  const kill = (): void => void child.kill('SIGKILL');
  signal?.addEventListener('abort', kill);
  try {
    const answer = await new Promise<CostAnswer>((resolve, reject) => {
      child.once('message', resolve as (message: unknown) => void);
      child.once('error', reject);
      child.once('close', (code, by) => resolve({ error: `its process ended (${by ?? code})` }));
      child.send(job);
    });
    signal?.throwIfAborted();
    if ('error' in answer) throw new CostError(job.path, answer.error);
    return answer.cost;
  } finally {
    signal?.removeEventListener('abort', kill);
    kill();
  }
}
