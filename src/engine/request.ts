/**
 * A request as the engine takes it, and the check that it can be served at all. The same check runs where a request is made and where it
 * arrives, so a wrong one is refused before it crosses a process border.
 */

import { randomUUID } from 'node:crypto';
import { GrammarError } from '../grammar/errors.ts';
import { type GrammarInput, type GrammarSpec, parseGrammarSpec } from '../grammar/grammar-spec.ts';
import type { RunnerLimits } from '../targets/model-runner.ts';
import { RequestError, RequestTooLongError } from './errors.ts';
import { POOLINGS, type Pooling } from './pooling.ts';
import { PRIORITIES, type Priority } from './priority.ts';
import { freshSeed } from './random.ts';
import {
  parseSamplingParams,
  type SamplingParams,
  type SamplingParamsInput,
} from './sampling-params.ts';

/** What callers write. */
export interface EngineRequest {
  /** Names the request in its events; made up if absent. Must be unique among requests that are not finished. */
  readonly requestId?: string;
  /** The whole prompt, BOS included where the model wants one. */
  readonly promptTokenIds: ArrayLike<number>;
  readonly samplingParams?: SamplingParamsInput;
  /** Output that an engine before this one had given: it goes on from there, and only later tokens get events. */
  readonly outputTokenIds?: ArrayLike<number>;
  /** Whether the engine may draft tokens ahead for it. The text is the same either way. Default true. */
  readonly isSpeculative?: boolean;
  /** Default `normal`. */
  readonly priority?: Priority;
  /** On whose behalf: tenants (API keys, say) share the machine fairly. Default: one nameless tenant for all. */
  readonly tenant?: string;
  /** Asks for the pooled hidden state of the prompt instead of output; `null` (default): for output. */
  readonly pooling?: Pooling | null;
  /** Only requests with the same salt share cached prefixes. Default: the one that all share who name none. */
  readonly cacheSalt?: string | undefined;
  /** What the output may be; default: anything. */
  readonly grammar?: GrammarInput | null;
}

/** A checked request with nothing left open: plain data that gives the same text wherever it runs. */
export interface PreparedRequest {
  readonly requestId: string;
  readonly promptTokenIds: Int32Array;
  readonly outputTokenIds: Int32Array;
  readonly samplingParams: SamplingParams & { readonly seed: number; readonly maxTokens: number };
  readonly isSpeculative: boolean;
  readonly priority: Priority;
  readonly tenant: string;
  readonly pooling: Pooling | null;
  readonly cacheSalt: string;
  readonly grammar: GrammarSpec | null;
}

/** What a request is held against. */
export type SequenceLimits = Pick<
  RunnerLimits,
  'vocabSize' | 'maxModelLen' | 'numBlocks' | 'blockSize'
>;

const REQUEST_KEYS: ReadonlySet<string> = new Set<keyof EngineRequest>([
  'requestId',
  'promptTokenIds',
  'samplingParams',
  'outputTokenIds',
  'isSpeculative',
  'priority',
  'tenant',
  'pooling',
  'cacheSalt',
  'grammar',
]);

/**
 * Checks a request and fills in what it left open: id, seed, maxTokens.
 *
 * @throws {RequestError} on an unknown key or a bad value
 * @throws {RequestTooLongError} if prompt and output can never fit
 */
export function prepareRequest(
  request: EngineRequest,
  limits: SequenceLimits,
  defaults?: SamplingParams,
): PreparedRequest {
  for (const key of Object.keys(request)) {
    if (!REQUEST_KEYS.has(key)) {
      throw new RequestError(
        key,
        `unknown request key "${key}"; known are ${[...REQUEST_KEYS].join(', ')}`,
      );
    }
  }
  const { requestId = randomUUID() } = request;
  if (typeof requestId !== 'string' || requestId === '') {
    throw new RequestError('requestId', `requestId: expected a text, got ${String(requestId)}`);
  }
  const promptTokenIds = tokenIdsOf('promptTokenIds', request.promptTokenIds, limits.vocabSize);
  if (promptTokenIds.length === 0) {
    throw new RequestError('promptTokenIds', 'the prompt is empty: at least one token is needed');
  }
  const outputTokenIds = tokenIdsOf(
    'outputTokenIds',
    request.outputTokenIds ?? [],
    limits.vocabSize,
  );
  const { pooling = null } = request;
  if (pooling !== null && !POOLINGS.includes(pooling)) {
    throw new RequestError(
      'pooling',
      `pooling: expected one of ${POOLINGS.join(', ')}, got ${String(pooling)}`,
    );
  }
  const isPooled = pooling !== null;
  const params = parseSamplingParams(
    isPooled ? {} : (request.samplingParams ?? {}),
    limits.vocabSize,
    defaults,
  );
  const maxTokens = isPooled
    ? fittingMaxTokens(promptTokenIds.length, 0, limits)
    : fittingMaxTokens(promptTokenIds.length, params.maxTokens, limits);
  if (isPooled ? outputTokenIds.length > 0 : outputTokenIds.length >= maxTokens) {
    throw new RequestError(
      'outputTokenIds',
      `outputTokenIds: expected fewer than maxTokens (${maxTokens}) to go on from, got ${outputTokenIds.length}`,
    );
  }
  const { isSpeculative = true } = request;
  if (typeof isSpeculative !== 'boolean') {
    throw new RequestError(
      'isSpeculative',
      `isSpeculative: expected true or false, got ${String(isSpeculative)}`,
    );
  }
  const { priority = 'normal', tenant = '' } = request;
  if (!PRIORITIES.includes(priority)) {
    throw new RequestError(
      'priority',
      `priority: expected one of ${PRIORITIES.join(', ')}, got ${String(priority)}`,
    );
  }
  if (typeof tenant !== 'string') {
    throw new RequestError('tenant', `tenant: expected a text, got ${typeof tenant}`);
  }
  const { cacheSalt = '' } = request;
  if (typeof cacheSalt !== 'string') {
    throw new RequestError('cacheSalt', `cacheSalt: expected a text, got ${typeof cacheSalt}`);
  }
  return {
    requestId,
    promptTokenIds,
    outputTokenIds,
    samplingParams: { ...params, maxTokens, seed: params.seed ?? freshSeed() },
    isSpeculative,
    priority,
    tenant,
    pooling,
    cacheSalt,
    grammar: grammarOf(request.grammar),
  };
}

function grammarOf(input: EngineRequest['grammar']): GrammarSpec | null {
  if (input === undefined || input === null) return null;
  try {
    return parseGrammarSpec(input);
  } catch (error) {
    if (!(error instanceof GrammarError)) throw error;
    throw new RequestError('grammar', `grammar: ${error.message}`);
  }
}

function tokenIdsOf(param: string, ids: ArrayLike<number>, vocabSize: number): Int32Array {
  if (typeof ids !== 'object' || ids === null || typeof ids.length !== 'number') {
    throw new RequestError(param, `${param}: expected a list of token ids, got ${typeof ids}`);
  }
  const result = new Int32Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw new RequestError(
        param,
        `${param}[${i}]: expected an id from 0 to ${vocabSize - 1}, got ${String(id)}`,
      );
    }
    result[i] = id;
  }
  return result;
}

/** `maxTokens`, or as many as fit where it is `null`. The last token of the output needs no room in the KV cache. */
function fittingMaxTokens(
  numPromptTokens: number,
  maxTokens: number | null,
  limits: SequenceLimits,
): number {
  const { maxModelLen } = limits;
  const numCacheTokens = limits.numBlocks * limits.blockSize;
  const isOutputFree = maxTokens === 0;
  const maxSequenceTokens = Math.min(maxModelLen, numCacheTokens + (isOutputFree ? 0 : 1));
  const room = maxSequenceTokens - numPromptTokens;
  if (room >= (maxTokens ?? 1)) return maxTokens ?? room;
  const wanted =
    maxTokens === null
      ? `${numPromptTokens} prompt tokens leave no room for output`
      : isOutputFree
        ? `the text has ${numPromptTokens} tokens`
        : `${numPromptTokens} prompt tokens and maxTokens ${maxTokens} make ${numPromptTokens + maxTokens}`;
  const [limit, wayOut] =
    maxModelLen <= numCacheTokens + 1
      ? [
          `the context length of ${maxModelLen} tokens`,
          'a longer --max-model-len if the model allows it',
        ]
      : [
          `the KV cache of ${limits.numBlocks} blocks x ${limits.blockSize} tokens`,
          'a larger --kv-cache-memory',
        ];
  throw new RequestTooLongError(
    `${wanted}, but ${limit} holds ${maxSequenceTokens} of prompt and output together; use a shorter prompt, a smaller maxTokens, or ${wayOut}`,
    { numPromptTokens, maxTokens: maxTokens ?? 0, maxSequenceTokens },
  );
}
