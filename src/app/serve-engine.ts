/**
 * The inside of an engine that lives on a thread or in a process of its own: opens the model it is told of, waits for what its owner knows of
 * the model's text, then serves its port until the other end closes it. Knows nothing of what carries the messages.
 */
import { setImmediate } from 'node:timers/promises';
import { EngineCore } from '../engine/engine-core.ts';
import { EngineServer } from '../engine/engine-server.ts';
import { EngineSetupError } from '../engine/errors.ts';
import { pacingWithin } from '../engine/prefill-pacer.ts';
import type { EnginePort } from '../engine/protocol.ts';
import { touch } from '../engine/warm-up.ts';
import { GrammarPool } from '../grammar/grammar-pool.ts';
import { loadModelDescription } from '../models/load-model.ts';
import { HastenError } from '../platform/errors.ts';
import { memoryInfo } from '../platform/topology.ts';
import { createRunner, resolveTarget } from '../runtime/create-runner.ts';
import type { ModelRunner, RunnerLimits } from '../targets/model-runner.ts';
import type { HostMessage, ModelText } from './engine-host.ts';
import type { EngineSetup } from './engine-setup.ts';
import { kvFingerprint } from './kv-fingerprint.ts';
import { decoderSource, grammarVocabulary } from './token-text.ts';

export interface ServedEngine {
  readonly setup: EngineSetup;
  readonly text: Promise<ModelText>;
  readonly port: EnginePort;
  readonly tell: (message: HostMessage) => void;
}

/** Settles when the engine has ended; a fault of opening the model is told, not thrown. */
export async function serveEngine({ setup, text, port, tell }: ServedEngine): Promise<void> {
  try {
    const opened = await openRunner(setup, tell);
    using runner = opened.runner;
    using draftRunner = await openDraftRunner(setup, runner.limits, tell);
    // The tokenizer takes longer to read than most models take to map.
    if (opened.isNative && !(await isThere(text))) await touch(runner);
    const modelText = await text;
    const { tokenText, eosTokenIds } = modelText;
    using grammars = grammarsOf(modelText, runner);
    const { offload, prefixCacheScope, warmUpMs, maxStepMs } = setup;
    using core = new EngineCore({
      runner,
      tokenizer: decoderSource(tokenText),
      eosTokenIds,
      draftRunner,
      speculation: setup.drafts?.speculation,
      maxDraftTokens: setup.drafts?.maxTokens,
      offload,
      prefixCacheScope,
      kvFingerprint: opened.fingerprint,
      grammars: grammars ?? undefined,
      pacing: pacingWithin(maxStepMs),
    });
    if (warmUpMs !== undefined) {
      tell({ type: 'progress', progress: { phase: 'warming up', done: 0, total: 0 } });
      await core.warmUp(warmUpMs);
    }
    await new EngineServer(core, runner.limits, port).closed;
  } catch (error) {
    const isOurs = error instanceof HastenError;
    // Our own errors speak for themselves; of any other the stack is wanted.
    const message = isOurs ? error.message : String((error as Error)?.stack ?? error);
    tell({ type: 'failed', code: isOurs ? error.code : 'internal', message });
    port.close();
  }
}

/** Whether a promise has settled, once messages that lie ready were taken. */
async function isThere(promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise.then(() => true), setImmediate(false)]);
}

/** null: the model's tokens have no text. */
function grammarsOf(
  { tokenText, eosTokenIds }: ModelText,
  { limits }: ModelRunner,
): GrammarPool | null {
  if (tokenText === null) return null;
  const vocabulary = grammarVocabulary(tokenText, limits.vocabSize, eosTokenIds);
  return new GrammarPool(vocabulary, limits.maxLogitRows);
}

interface OpenedRunner {
  readonly runner: ModelRunner;
  /** Not the reference target, which takes its time for every token. */
  readonly isNative: boolean;
  readonly fingerprint: () => string;
}

async function openRunner(
  setup: EngineSetup,
  tell: (message: HostMessage) => void,
): Promise<OpenedRunner> {
  const { path, loadIn, maxModelLen, drafts: _, ...options } = setup;
  assertOffloadFits(setup.offload);
  // Closed again at once: a runner keeps its own packed weights.
  using description = loadModelDescription(path, {
    maxModelLen: maxModelLen ?? null,
    loadIn: loadIn ?? null,
  });
  const { weights: source, config } = description;
  const { kind } = resolveTarget(setup.target);
  const runner = await createRunner({
    ...options,
    maxModelLen,
    source,
    config,
    onProgress: (progress) => tell({ type: 'progress', progress }),
  });
  const { precision, kvCacheType = 'auto' } = setup;
  const layout = [kind, precision, kvCacheType];
  const fingerprint = kvFingerprint({ source, config, layout });
  return { runner, isNative: kind === 'x64', fingerprint };
}

/** Memory for it is taken as it is needed, so that it is not there would be found out too late. */
function assertOffloadFits(offload: EngineSetup['offload']): void {
  const { availableBytes } = memoryInfo();
  const memoryBytes = offload?.memoryBytes ?? 0;
  if (memoryBytes <= availableBytes) return;
  throw new EngineSetupError(
    `KV offload: ${memoryBytes} bytes of memory are asked for, and ${availableBytes} are free; the disk may take the rest`,
  );
}

/** It has a KV cache for as many tokens as the first model's. */
async function openDraftRunner(
  setup: EngineSetup,
  { maxModelLen, numBlocks, blockSize }: RunnerLimits,
  tell: (message: HostMessage) => void,
): Promise<ModelRunner | null> {
  const path = setup.drafts?.modelPath;
  if (path === undefined) return null;
  using description = loadModelDescription(path, { maxModelLen: null });
  const { weights, config } = description;
  const { target, precision, threads, maxSeqs, planCacheFolder } = setup;
  return await createRunner({
    source: weights,
    config,
    target,
    precision,
    threads,
    maxSeqs,
    planCacheFolder,
    maxModelLen: Math.min(maxModelLen, config.maxPositionEmbeddings),
    kvCacheTokens: numBlocks * blockSize,
    onProgress: ({ phase, ...rest }) =>
      tell({ type: 'progress', progress: { phase: `draft model: ${phase}`, ...rest } }),
  });
}
