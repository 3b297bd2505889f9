/** What commands that open a model do first: find it and start it, with a progress bar where that takes a while. */

import type { EngineKeeper } from '../app/engine-host.ts';
import type { EngineSetup } from '../app/engine-setup.ts';
import { type FoundModel, findModel } from '../app/find-model.ts';
import { planCacheFolder } from '../app/plan-cache-folder.ts';
import type { RunningModel } from '../app/running-model.ts';
import { startModel } from '../app/start-model.ts';
import type { ModelConfig } from '../models/model-config.ts';
import { CapacityError } from '../runtime/kv-budget.ts';
import type { RunnerOptions } from '../runtime/runner-options.ts';
import { hubProgress } from './hub-progress.ts';
import { type EngineFlags, loadFormat } from './options.ts';
import { ProgressReporter } from './progress.ts';

export interface FindOptions {
  readonly offline: boolean;
  readonly signal: AbortSignal;
  /** Told in words what is being done. */
  readonly onPhase?: (phase: string) => void;
}

export async function findModelWithProgress(
  spec: string | undefined,
  { offline, signal, onPhase }: FindOptions,
): Promise<FoundModel> {
  using progress = new ProgressReporter();
  return await findModel(spec, {
    offline,
    signal,
    onProgress: hubProgress((update) => {
      onPhase?.(update.label);
      progress.update(update);
    }),
  });
}

export interface StartOptions {
  readonly signal: AbortSignal;
  readonly maxSeqs: number;
  /** What only a server asks of an engine. */
  readonly setup?: Pick<
    EngineSetup,
    'drafts' | 'offload' | 'prefixCacheScope' | 'maxStepMs' | 'warmUpMs'
  >;
  /** Where the engine is to live, if not on a thread that is started now. */
  readonly host?: EngineKeeper | undefined;
  /** Told in words what is being done. */
  readonly onPhase?: (phase: string) => void;
}

/** What the flags say of a runner: the one place where they become its options. How long sequences are is each command's business. */
export function runnerFlags({
  target,
  precision,
  threads,
  kvCacheMemory,
  kvCacheType,
}: Omit<EngineFlags, 'maxModelLen' | 'offline'>): Pick<
  RunnerOptions,
  'target' | 'precision' | 'threads' | 'kvCacheMemoryBytes' | 'kvCacheType' | 'planCacheFolder'
> {
  return {
    target,
    precision,
    threads,
    kvCacheMemoryBytes: kvCacheMemory,
    kvCacheType,
    planCacheFolder: planCacheFolder(),
  };
}

export async function startFoundModel(
  found: FoundModel,
  flags: EngineFlags,
  { signal, maxSeqs, setup, host, onPhase }: StartOptions,
): Promise<RunningModel> {
  using progress = new ProgressReporter();
  const { maxModelLen } = flags;
  return await startModel({
    name: found.name,
    setup: {
      ...runnerFlags(flags),
      path: found.path,
      loadIn: loadFormat(flags),
      maxModelLen,
      maxSeqs,
      ...setup,
    },
    host,
    signal,
    onProgress: ({ phase, done, total }) => {
      onPhase?.(phase);
      progress.update({ label: phase, done, total, unit: 'items' });
    },
  });
}

export async function startModelWithProgress(
  spec: string | undefined,
  flags: EngineFlags,
  options: StartOptions,
): Promise<RunningModel> {
  const { signal } = options;
  const found = await findModelWithProgress(spec, { offline: flags.offline, signal });
  return await startFoundModel(found, flags, options);
}

/**
 * The sequence length to make room for, for a command that knows how long its sequences are.
 * @throws {CapacityError} if the user or the model allows less
 */
export function neededLength(
  numTokens: number,
  { maxModelLen }: Pick<EngineFlags, 'maxModelLen'>,
  { maxPositionEmbeddings }: ModelConfig,
): number {
  const limit = maxModelLen ?? maxPositionEmbeddings;
  if (numTokens <= limit) return maxModelLen ?? numTokens;
  const whose = maxModelLen === undefined ? 'the model was made for' : '--max-model-len allows';
  throw new CapacityError(`${numTokens} tokens do not fit: ${whose} ${limit}`);
}
