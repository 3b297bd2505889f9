/**
 * Carries a workload out: who sends what when, and the books of it. Knows pacing and bounds; knows nothing of how a request travels nor of
 * statistics.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ArrivalOptions, arrivalTimes } from './arrivals.ts';
import { type ClientTimeouts, CompletionClient, type Exchange } from './http-client.ts';
import { type Counts, Ledger } from './ledger.ts';
import type { RequestRecord } from './outcome.ts';
import type { PromptMaker } from './prompt-maker.ts';
import { SeededRandom } from './random.ts';
import { pathOf, type RequestShape, requestBody } from './request-body.ts';
import type { Target } from './target.ts';
import type { Conversation } from './workload.ts';

/**
 * `closed`: so many clients, each sending its next request when the last one is answered; a refused client waits as long as Retry-After says.
 * `open`: requests (or conversations) arrive whatever the server does; `maxConcurrency` holds back what is due.
 */
export type Pacing =
  | { readonly kind: 'closed'; readonly clients: number }
  | ({ readonly kind: 'open'; readonly maxConcurrency: number | null } & ArrivalOptions);

export interface LoadOptions {
  readonly target: Target;
  readonly shape: RequestShape;
  readonly maker: PromptMaker;
  readonly conversations: readonly Conversation[];
  /** The run is to send them all; otherwise there are more than enough and `maxDurationMs` is the only bound. */
  readonly isCountBound: boolean;
  readonly pacing: Pacing;
  readonly seed: number;
  readonly timeouts: ClientTimeouts;
  /** After this nothing more is sent; null for no bound but the count. */
  readonly maxDurationMs: number | null;
  /** What is in flight then has this long to end. */
  readonly drainMs: number;
  /** Between an answer and the next turn of the conversation. */
  readonly thinkMs: number;
  /** The header that carries a request's class. */
  readonly priorityHeader: string;
  /** Ends the run at once; what is in flight is cut off and counted as failed. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (counts: Counts) => void;
}

export interface LoadResult {
  readonly counts: Counts;
  readonly records: readonly RequestRecord[];
  /** From the first request to the end of the last. */
  readonly durationMs: number;
  readonly maxInFlight: number;
  /** What the measuring itself took. */
  readonly client: ClientLoad;
}

export interface ClientLoad {
  /** CPU time of this process over the run, as a share of one core. */
  readonly cpuShare: number;
  /** How much later than due the event loop came round, P99: times shorter than this are the client's, not the server's. */
  readonly eventLoopDelayP99Ms: number;
  /** Requests that met a kept connection which the server was just closing, and were sent again on a fresh one. */
  readonly numResent: number;
}

/** A refused client of a closed loop waits this long where the server does not say, and never longer than the second. */
const DEFAULT_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30_000;
const EVENT_LOOP_RESOLUTION_MS = 5;

/** @throws {InternalError} if a request is unaccounted for at the end */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  using run = new LoadRun(options);
  return await run.run();
}

class LoadRun implements Disposable {
  readonly #options: LoadOptions;
  readonly #client: CompletionClient;
  readonly #ledger: Ledger;
  /** No more sending. */
  readonly #stop = new AbortController();
  /** No more waiting for answers either. */
  readonly #cut = new AbortController();
  readonly #timers: NodeJS.Timeout[] = [];
  #startMs = 0;
  #lastEndMs = 0;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#client = new CompletionClient(options.target, options.timeouts);
    const numTurns = options.conversations.reduce((sum, { turns }) => sum + turns.length, 0);
    this.#ledger = new Ledger(options.isCountBound ? numTurns : null);
  }

  async run(): Promise<LoadResult> {
    const { pacing, signal, maxDurationMs, drainMs } = this.#options;
    const eventLoop = monitorEventLoopDelay({ resolution: EVENT_LOOP_RESOLUTION_MS });
    eventLoop.enable();
    const cpuBefore = process.cpuUsage();
    this.#startMs = performance.now();
    if (maxDurationMs !== null) {
      this.#timers.push(
        setTimeout(() => this.#stop.abort(), maxDurationMs),
        setTimeout(() => this.#cut.abort(), maxDurationMs + drainMs),
      );
    }
    signal?.addEventListener('abort', this.#onAbort);
    if (signal?.aborted) this.#onAbort();
    if (pacing.kind === 'closed') await this.#closedLoop(pacing.clients);
    else await this.#openLoop(pacing);
    const { user, system } = process.cpuUsage(cpuBefore);
    const wallMs = performance.now() - this.#startMs;
    eventLoop.disable();
    const records = this.#ledger.close();
    return {
      counts: this.#ledger.counts(),
      records,
      durationMs: records.length === 0 ? 0 : this.#lastEndMs - (records[0]?.sentMs ?? 0),
      maxInFlight: this.#ledger.maxInFlight,
      client: {
        cpuShare: (user + system) / 1000 / wallMs,
        eventLoopDelayP99Ms: Math.max(0, eventLoop.percentile(99) / 1e6 - EVENT_LOOP_RESOLUTION_MS),
        numResent: this.#client.numResent,
      },
    };
  }

  readonly #onAbort = (): void => {
    this.#stop.abort();
    this.#cut.abort();
  };

  async #closedLoop(clients: number): Promise<void> {
    const { conversations } = this.#options;
    let next = 0;
    const client = async (): Promise<void> => {
      for (;;) {
        const conversation = conversations[next];
        if (conversation === undefined || this.#stop.signal.aborted) return;
        next++;
        const last = await this.#converse(conversation, null, unlimited);
        if (last?.outcome.kind !== 'refused') continue;
        const waitMs = last.outcome.retryAfterMs ?? DEFAULT_RETRY_MS;
        await this.#pause(Math.min(waitMs, LONGEST_RETRY_MS));
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
  }

  async #openLoop(pacing: Extract<Pacing, { kind: 'open' }>): Promise<void> {
    const { conversations, seed } = this.#options;
    const times = arrivalTimes(conversations.length, pacing, new SeededRandom(seed, 'arrivals'));
    const gate = pacing.maxConcurrency === null ? unlimited : new Gate(pacing.maxConcurrency).pass;
    const running: Promise<unknown>[] = [];
    for (const [index, conversation] of conversations.entries()) {
      const dueMs = times[index]! * 1000;
      await this.#pause(dueMs - this.#sinceStart());
      if (this.#stop.signal.aborted) break;
      running.push(this.#converse(conversation, dueMs, gate));
    }
    await Promise.all(running);
  }

  /** Sends the turns one after the other; the first one that comes to nothing ends the conversation. */
  async #converse(
    conversation: Conversation,
    dueMs: number | null,
    gate: GatePass,
  ): Promise<Exchange | undefined> {
    const answers: string[] = [];
    let exchange: Exchange | undefined;
    for (let turn = 0; turn < conversation.turns.length; turn++) {
      if (turn > 0) await this.#pause(this.#options.thinkMs);
      exchange = await gate(async () => {
        if (this.#stop.signal.aborted) return undefined;
        return await this.#sendTurn(conversation, turn, answers, turn === 0 ? dueMs : null);
      });
      if (exchange?.outcome.kind !== 'finished') break;
      answers.push(exchange.text);
    }
    return exchange;
  }

  async #sendTurn(
    conversation: Conversation,
    turn: number,
    answers: readonly string[],
    dueMs: number | null,
  ): Promise<Exchange> {
    const { shape, maker, priorityHeader, onProgress } = this.#options;
    const { index } = conversation.turns[turn]!;
    const { priority } = conversation;
    const body = requestBody(shape, maker, { conversation, turn, answers });
    const headers = priority === null ? {} : { [priorityHeader]: priority };
    const isLastTurn = turn === conversation.turns.length - 1;
    this.#ledger.sent(index);
    const exchange = await this.#client.send(
      pathOf(shape.endpoint),
      body,
      headers,
      this.#cut.signal,
      !isLastTurn,
    );
    const sentMs = exchange.sentAtMs - this.#startMs;
    this.#lastEndMs = Math.max(this.#lastEndMs, sentMs + exchange.endToEndMs);
    this.#ledger.settled({
      ...{ index, conversation: conversation.index, turn, priority, dueMs, sentMs },
      endToEndMs: exchange.endToEndMs,
      ttftMs: exchange.ttftMs,
      interTokenMs: exchange.interTokenMs,
      promptTokens: exchange.usage?.promptTokens ?? null,
      outputTokens: exchange.usage?.outputTokens ?? exchange.pieces,
      cachedTokens: exchange.usage?.cachedTokens ?? null,
      outcome: exchange.outcome,
    });
    onProgress?.(this.#ledger.counts());
    return exchange;
  }

  #sinceStart(): number {
    return performance.now() - this.#startMs;
  }

  /** Ends early when the run does. */
  async #pause(ms: number): Promise<void> {
    if (ms <= 0 || this.#stop.signal.aborted) return;
    try {
      await sleep(ms, undefined, { signal: this.#stop.signal });
    } catch (error) {
      if (!this.#stop.signal.aborted) throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    this.#client[Symbol.dispose]();
  }
}

type GatePass = <T>(work: () => Promise<T>) => Promise<T>;

const unlimited: GatePass = (work) => work();

/** Lets so many through at once, the others in the order they came. */
class Gate {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(limit: number) {
    this.#free = limit;
  }

  readonly pass: GatePass = async (work) => {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  };
}
