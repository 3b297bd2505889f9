/**
 * Watches requests pass between the server and its engine, and keeps their figures: for Prometheus (`metrics.ts`), for the dashboard, and for
 * the guess of how long a refused client should wait.
 */
import type { EngineObserver } from '../engine/engine-client.ts';
import type { EngineEvent, FinishEvent } from '../engine/events.ts';
import type { PreparedRequest } from '../engine/request.ts';
import { LatencyWindow, type Percentiles, RateWindow } from './latency-window.ts';
import { Metrics } from './metrics.ts';

interface RunningRequest {
  readonly request: PreparedRequest;
  readonly arrivalMs: number;
  firstTokenMs: number | null;
  lastTokenMs: number;
  numTokens: number;
}

/** A request as the dashboard lists it. */
export interface RequestFigures {
  readonly id: string;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly maxTokens: number;
  readonly ageMs: number;
  readonly ttftMs: number | null;
}

export interface TrafficFigures {
  readonly ttftMs: Percentiles | null;
  readonly itlMs: Percentiles | null;
  readonly e2eMs: Percentiles | null;
  readonly queueMs: Percentiles | null;
  /** Tokens put out in each of the last seconds, the oldest first. */
  readonly outputTokensPerSecond: readonly number[];
  readonly promptTokensPerSecond: readonly number[];
  readonly requests: readonly RequestFigures[];
  readonly numFinished: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
}

export class Telemetry implements EngineObserver {
  readonly metrics = new Metrics();
  readonly #now: () => number;
  readonly #running = new Map<string, RunningRequest>();
  readonly #ttft = new LatencyWindow();
  readonly #itl = new LatencyWindow();
  readonly #e2e = new LatencyWindow();
  readonly #queue = new LatencyWindow();
  readonly #outputRate = new RateWindow();
  readonly #promptRate = new RateWindow();
  #numFinished = 0;
  #promptTokens = 0;
  #cachedTokens = 0;

  /** @param now milliseconds from any origin; for tests */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  submitted(request: PreparedRequest): void {
    const arrivalMs = this.#now();
    this.#running.set(request.requestId, {
      request,
      arrivalMs,
      firstTokenMs: null,
      lastTokenMs: arrivalMs,
      numTokens: 0,
    });
  }

  delivered(event: EngineEvent): void {
    const running = this.#running.get(event.requestId);
    if (running === undefined) return;
    if (event.type === 'token') this.#token(running);
    else this.#finished(running, event);
  }

  get traffic(): TrafficFigures {
    const now = this.#now();
    return {
      ttftMs: this.#ttft.percentiles,
      itlMs: this.#itl.percentiles,
      e2eMs: this.#e2e.percentiles,
      queueMs: this.#queue.percentiles,
      outputTokensPerSecond: this.#outputRate.perSecond(now),
      promptTokensPerSecond: this.#promptRate.perSecond(now),
      requests: [...this.#running.values()].map((running) => requestFigures(running, now)),
      numFinished: this.#numFinished,
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
    };
  }

  /** What a request took lately, in the middle; null before the first. */
  get typicalRequestMs(): number | null {
    return this.#e2e.percentiles?.p50 ?? null;
  }

  #token(running: RunningRequest): void {
    const now = this.#now();
    this.#outputRate.add(1, now);
    if (running.firstTokenMs === null) {
      running.firstTokenMs = now;
      const ttftMs = now - running.arrivalMs;
      this.#ttft.add(ttftMs);
      this.#promptRate.add(running.request.promptTokenIds.length, now);
      this.metrics.observeFirstToken(ttftMs / 1000);
    } else {
      const itlMs = now - running.lastTokenMs;
      this.#itl.add(itlMs);
      this.metrics.observeToken(itlMs / 1000);
    }
    running.lastTokenMs = now;
    running.numTokens++;
  }

  #finished({ request, arrivalMs, firstTokenMs }: RunningRequest, finish: FinishEvent): void {
    this.#running.delete(request.requestId);
    const e2eMs = this.#now() - arrivalMs;
    const { queueMs } = finish.timings;
    if (finish.reason === 'stop' || finish.reason === 'length') this.#e2e.add(e2eMs);
    if (queueMs !== null) {
      this.#queue.add(queueMs);
      this.#promptTokens += finish.usage.promptTokens;
      this.#cachedTokens += finish.usage.cachedTokens;
    }
    this.#numFinished++;
    this.metrics.observeFinish({
      e2eS: e2eMs / 1000,
      ttftS: firstTokenMs === null ? null : (firstTokenMs - arrivalMs) / 1000,
      finish,
      maxTokens: request.samplingParams.maxTokens,
    });
  }
}

function requestFigures(running: RunningRequest, now: number): RequestFigures {
  const { request, arrivalMs, firstTokenMs, numTokens } = running;
  return {
    id: request.requestId,
    promptTokens: request.promptTokenIds.length,
    outputTokens: numTokens,
    maxTokens: request.samplingParams.maxTokens,
    ageMs: Math.round(now - arrivalMs),
    ttftMs: firstTokenMs === null ? null : Math.round(firstTokenMs - arrivalMs),
  };
}
