/**
 * One request on its way: its tokens, how many of them are computed, where their keys and values lie, and its text so far. There is no prefill
 * or decode state: `numComputedTokens` catches up with `numTokens`, and whenever it has, the next token can be drawn.
 */

import type { GrammarSession } from '../grammar/grammar-host.ts';
import { BlockTable } from './block-manager.ts';
import type { Drafter } from './draft-source.ts';
import { RequestError } from './errors.ts';
import type { EngineEvent } from './events.ts';
import { Penalties } from './penalties.ts';
import { Pooler } from './pooling.ts';
import { type PrefixRoot, SHARED_ROOT } from './prefix-root.ts';
import { LEVELS_PER_CLASS, PRIORITIES } from './priority.ts';
import type { PreparedRequest } from './request.ts';
import type { SamplingParams } from './sampling-params.ts';
import { StopStrings } from './stop-strings.ts';
import { TokenList } from './token-list.ts';

/** Turns the ids of one sequence into text, never giving half a character; `end` gives what is left. */
export interface DecoderStream {
  push(id: number): string;
  end(): string;
}

/** All that the engine needs of a tokenizer. */
export interface DecoderSource {
  createDecoderStream(): DecoderStream;
}

export class Sequence {
  readonly requestId: string;
  readonly params: SamplingParams & { readonly seed: number; readonly maxTokens: number };
  readonly tokens: TokenList;
  readonly numPromptTokens: number;
  numComputedTokens = 0;
  readonly blockTable: BlockTable;
  readonly penalties: Penalties | null;
  /** Gathers hidden states; `null`: the sequence is to have output instead. */
  readonly pooler: Pooler | null;

  /** Index of its class in `PRIORITIES`. */
  readonly classIndex: number;
  readonly tenant: string;
  /** While it runs: by which the runner knows it, no other running one has it. */
  slot = 0;
  /** Place in the order of arrival. Given by the scheduler, like the rest down to the blank line. */
  order = 0;
  /** Levels that it has sunk below its class, and tokens computed for it. */
  sink = 0;
  numServed = 0;
  waitingSinceMs = 0;
  lastServedMs = 0;
  /** Taken in ahead of everybody until its output is this long; 0: not. */
  escortEnd = 0;

  /** Whether its tokens may be drafted. */
  readonly isSpeculative: boolean;
  /** Looks for drafts; made when the sequence first becomes a stream. */
  drafter: Drafter | null = null;
  /** Tokens that may follow, i32 [MAX_DRAFT_TOKENS], of which the next step checks `numDrafts`. */
  drafts: Int32Array | null = null;
  numDrafts = 0;
  /** What the output may be; opened by the engine before the scheduler gets the sequence. */
  grammar: GrammarSession | null = null;

  /** Prompt tokens found in the prefix cache when it was first taken in; `null` before that. */
  numCachedTokens: number | null = null;
  numPreemptions = 0;
  /** Set when it was aborted while a step with it was under way. */
  isAborted = false;
  isFinished = false;
  /** Gets its events in place of those who read the engine's: of requests that the engine makes itself. */
  listener: ((event: EngineEvent) => void) | null = null;

  /** Times by the engine's clock, milliseconds. */
  readonly arrivalMs: number;
  firstScheduledMs: number | null = null;
  firstTokenMs: number | null = null;
  lastTokenMs: number | null = null;

  readonly #decoder: DecoderStream;
  readonly #stops: StopStrings;

  /** @throws {RequestError} if the output to go on from already holds a stop string */
  constructor(
    request: PreparedRequest,
    decoders: DecoderSource,
    arrivalMs: number,
    root: PrefixRoot = SHARED_ROOT,
  ) {
    this.requestId = request.requestId;
    this.params = request.samplingParams;
    this.blockTable = new BlockTable(root);
    this.isSpeculative = request.isSpeculative;
    this.classIndex = PRIORITIES.indexOf(request.priority);
    this.tenant = request.tenant;
    this.tokens = new TokenList(request.promptTokenIds);
    this.numPromptTokens = request.promptTokenIds.length;
    this.penalties = Penalties.of(request.samplingParams, request.promptTokenIds);
    this.pooler = request.pooling === null ? null : new Pooler(request.pooling);
    this.arrivalMs = arrivalMs;
    this.#decoder = decoders.createDecoderStream();
    this.#stops = new StopStrings(request.samplingParams.stop);
    for (const id of request.outputTokenIds) {
      const { stop } = this.appendOutput(id);
      if (stop !== null) {
        throw new RequestError(
          'outputTokenIds',
          `outputTokenIds already end at stop string "${stop}"`,
        );
      }
    }
  }

  /** How urgent it is: less is more. */
  get level(): number {
    return this.numOutputTokens < this.escortEnd
      ? -1
      : LEVELS_PER_CLASS * this.classIndex + this.sink;
  }

  get numTokens(): number {
    return this.tokens.length;
  }

  get numOutputTokens(): number {
    return this.tokens.length - this.numPromptTokens;
  }

  /** Tokens whose keys and values may come from a cache: their hidden states do not. */
  get maxCachedTokens(): number {
    return this.pooler?.pooling === 'mean' ? this.pooler.numPooled : this.numTokens;
  }

  /** The output so far; valid until the next token. */
  get outputIds(): Int32Array {
    return this.tokens.ids.subarray(this.numPromptTokens, this.tokens.length);
  }

  /** Takes a token into the output. Returns the text that it released, and the stop string that it completed. */
  appendOutput(id: number): { readonly text: string; readonly stop: string | null } {
    this.tokens.push(id);
    this.penalties?.addOutput(id);
    return this.#stops.push(this.#decoder.push(id));
  }

  /** The output is over: gives the text still held back. */
  endText(): string {
    const { text, stop } = this.#stops.push(this.#decoder.end());
    return stop === null ? text + this.#stops.end() : text;
  }
}
