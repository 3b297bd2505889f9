/**
 * A model for tests of the shells: bytes are tokens, and the answer repeats the prompt's last bytes. Counts what runs, so that a test can see
 * that a request was aborted.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import type {
  ChatTurn,
  Embedding,
  EmbeddingRequest,
  FinishReason,
  Generation,
  GenerationPart,
  GenerationRequest,
  GenerationResult,
  TextModel,
} from '../../app/text-model.ts';
import type { ToolStyle } from '../../app/tool-prompt.ts';
import { type EngineCall, engineCalls } from '../../engine/engine-calls.ts';
import type { EngineStats } from '../../engine/engine-stats.ts';
import { EngineCallError, RequestTooLongError } from '../../engine/errors.ts';
import { parseSamplingParams, type SamplingParams } from '../../engine/sampling-params.ts';
import { GrammarError } from '../../grammar/errors.ts';

const VOCAB_SIZE = 256;
const ECHO_STATS: EngineStats = {
  numRunning: 0,
  numWaiting: 0,
  numBlocks: 64,
  numFreeBlocks: 48,
  numUnusedSlots: 8,
  numSealedBlocks: 8,
  numSteps: 10,
  numPromptTokens: 0,
  numCachedTokens: 0,
  numOutputTokens: 0,
  numPreemptions: 3,
  numFinished: { stop: 0, length: 0, abort: 0, error: 0 },
  numPinnedBlocks: 2,
  offload: {
    blockBytes: 1000,
    numMemoryBlocks: 4,
    numDiskBlocks: 9,
    numStored: 20,
    numRestored: 7,
    numDropped: 5,
    diskFault: null,
  },
  speculation: {
    numDrafts: 2,
    numDraftTokens: 8,
    numAcceptedTokens: 5,
    numAcceptedTokensPerPos: [2, 2, 1],
  },
  lastStep: { numTokens: 3, numSequences: 3, stepMs: 1 },
};

export interface EchoModelOptions {
  /** What is wrong with every grammar. */
  readonly grammarFault?: string;
  /** Pause before each token. */
  readonly delayMs?: number;
  /** Thrown after this many tokens. */
  readonly failAfter?: number;
  /** Only generations with this seed fail; left out: all. */
  readonly failingSeed?: number;
  /** Ends an answer after this many tokens, as a model does by itself. */
  readonly endsAfter?: number;
  /** What it answers to every conversation, whatever that says. */
  readonly script?: string;
  readonly toolStyle?: ToolStyle;
}

export class EchoModel implements TextModel {
  readonly name = 'echo';
  readonly maxModelLen = 4096;
  readonly limits = { maxSeqs: 4, numBlocks: 64, blockSize: 16 };
  readonly toolStyle: ToolStyle;
  numRunning = 0;
  mostRunning = 0;
  numAborted = 0;
  readonly samplings: SamplingParams[] = [];
  readonly requests: GenerationRequest[] = [];
  readonly chats: (readonly ChatTurn[])[] = [];
  readonly engineCalls: EngineCall[] = [];
  /** Files are a text, and as many tokens are restored as it has bytes. */
  readonly calls = engineCalls(async (call) => {
    this.engineCalls.push(call);
    if (call.name === 'pinPrefix' || call.name === 'forgetPrefix') return call.text.tokenIds.length;
    if (call.name === 'compileGrammar') {
      const { grammarFault } = this.#options;
      if (grammarFault !== undefined) throw new GrammarError(grammarFault);
      return null;
    }
    if (call.name === 'saveSession') {
      await mkdir(dirname(call.path), { recursive: true });
      await writeFile(call.path, Buffer.from(call.text.tokenIds as Int32Array));
      return call.text.tokenIds.length;
    }
    const text = await readFile(call.path).catch(() => {
      throw new EngineCallError('invalid_session', `${call.path}: no such file`);
    });
    return Int32Array.from(text);
  });
  readonly #options: EchoModelOptions;

  constructor(options: EchoModelOptions = {}) {
    this.#options = options;
    this.toolStyle = options.toolStyle ?? 'hermes';
  }

  tokenize(text: string): number[] {
    return [...Buffer.from(text)];
  }

  encodePrompt(text: string): number[] {
    return this.tokenize(text);
  }

  encodeChat(messages: readonly ChatTurn[]): number[] {
    this.chats.push(messages);
    const { script } = this.#options;
    if (script !== undefined) return this.tokenize(script);
    return this.tokenize(messages.map(({ role, content }) => `${role}: ${content}`).join('\n'));
  }

  encodeInfill(prefix: string, suffix: string): number[] {
    return this.tokenize(`<P>${prefix}<S>${suffix}<M>`);
  }

  async stats(): Promise<EngineStats> {
    return ECHO_STATS;
  }

  decode(tokenIds: readonly number[]): string {
    return Buffer.from(tokenIds).toString();
  }

  readonly hiddenSize = 4;

  /** Mean or last of (1, byte, 0, 0). */
  async embed({ tokenIds, pooling, signal }: EmbeddingRequest): Promise<Embedding> {
    this.numRunning++;
    this.mostRunning = Math.max(this.mostRunning, this.numRunning);
    await (this.#options.delayMs ? setTimeout(this.#options.delayMs) : setImmediate());
    this.numRunning--;
    signal?.throwIfAborted();
    const mean = tokenIds.reduce((sum, id) => sum + id, 0) / tokenIds.length;
    const value = pooling === 'mean' ? mean : tokenIds.at(-1)!;
    return { values: Float32Array.of(1, value, 0, 0), promptTokens: tokenIds.length };
  }

  generate(request: GenerationRequest): Generation {
    const params = parseSamplingParams(request.sampling ?? {}, VOCAB_SIZE);
    this.samplings.push(params);
    this.requests.push(request);
    const numPromptTokens = request.tokenIds.length;
    const maxTokens = params.maxTokens ?? this.maxModelLen - numPromptTokens;
    if (numPromptTokens + maxTokens > this.maxModelLen || maxTokens < 1) {
      throw new RequestTooLongError(`${numPromptTokens} + ${maxTokens} > ${this.maxModelLen}`, {
        numPromptTokens,
        maxTokens,
        maxSequenceTokens: this.maxModelLen,
      });
    }
    const result = Promise.withResolvers<GenerationResult>();
    result.promise.catch(() => {});
    const parts = this.#parts(request, params, maxTokens, result);
    return { result: result.promise, [Symbol.asyncIterator]: () => parts };
  }

  async *#parts(
    { tokenIds, signal }: GenerationRequest,
    params: SamplingParams,
    maxTokens: number,
    result: PromiseWithResolvers<GenerationResult>,
  ): AsyncGenerator<GenerationPart> {
    this.numRunning++;
    let outputTokens = 0;
    let finishReason: FinishReason = 'length';
    try {
      while (outputTokens < maxTokens) {
        await (this.#options.delayMs ? setTimeout(this.#options.delayMs) : setImmediate());
        if (signal?.aborted) {
          this.numAborted++;
          finishReason = 'abort';
          break;
        }
        const { failAfter, failingSeed = params.seed } = this.#options;
        if (outputTokens === this.#options.endsAfter) {
          finishReason = 'stop';
          break;
        }
        if (outputTokens === failAfter && params.seed === failingSeed)
          throw new Error('the echo broke');
        const id = tokenIds[outputTokens % tokenIds.length]!;
        outputTokens++;
        const bytes = Uint8Array.of(id);
        const chosen = { id, bytes, logprob: -0.5 };
        const top = new Array(params.logprobs ?? 0).fill(chosen);
        const logprobs = params.logprobs === null ? [] : [{ ...chosen, top }];
        yield { text: String.fromCharCode(id), tokenIds: [id], logprobs };
      }
      const timings = {
        promptTokens: tokenIds.length,
        promptMs: 1,
        outputTokens,
        outputMs: 1,
        ttftMs: 1,
        queueMs: 1,
      };
      result.resolve({ finishReason, stopReason: null, cachedTokens: 0, timings });
    } catch (error) {
      result.reject(error);
      throw error;
    } finally {
      this.numRunning--;
    }
  }
}
