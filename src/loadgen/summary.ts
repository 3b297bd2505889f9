/**
 * The figures of a run, under the names that `vllm bench serve` gives them (so that its readers read ours), and the counts that are our own.
 * Knows nothing of sending nor of printing.
 */
import type { LoadResult, Pacing } from './load-run.ts';
import type { RequestRecord } from './outcome.ts';

/** Largest latencies in milliseconds with which a request still counts as good; those left out do not matter. */
export type GoodputLimits = Readonly<Partial<Record<'ttft' | 'tpot' | 'e2el', number>>>;

export interface Distribution {
  readonly count: number;
  readonly mean: number;
  readonly median: number;
  readonly std: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

export type LatencyName = 'ttft' | 'tpot' | 'itl' | 'e2el';
export type Latencies = Readonly<Record<LatencyName, Distribution>>;

export interface ClassSummary {
  readonly sent: number;
  readonly finished: number;
  readonly ttft: Distribution;
  readonly e2el: Distribution;
}

export interface LoadSummary {
  readonly durationS: number;
  readonly inputTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Finished requests of whose tokens the server gave no account; their input counts as 0 and their output by pieces. */
  readonly withoutUsage: number;
  readonly requestsPerS: number;
  /** Null where no limits were given. */
  readonly goodRequestsPerS: number | null;
  readonly outputTokensPerS: number;
  readonly totalTokensPerS: number;
  /** Pieces in the best second. */
  readonly peakOutputTokensPerS: number;
  readonly latencies: Latencies;
  /** By request class, where there is more than one. */
  readonly classes: Readonly<Record<string, ClassSummary>>;
  /** How much later than due requests were sent, P99; null in a closed loop. */
  readonly sendLatenessP99Ms: number | null;
  readonly meanRetryAfterS: number | null;
}

export function summarizeLoad(result: LoadResult, goodput: GoodputLimits | null): LoadSummary {
  const { records } = result;
  const finished = records.filter(({ outcome }) => outcome.kind === 'finished');
  const durationS = result.durationMs / 1000;
  const perS = (count: number): number => (durationS > 0 ? count / durationS : 0);
  const sum = (read: (record: RequestRecord) => number): number =>
    finished.reduce((total, record) => total + read(record), 0);
  const inputTokens = sum((record) => record.promptTokens ?? 0);
  const outputTokens = sum((record) => record.outputTokens);
  const good = goodput && finished.filter((record) => isGood(record, goodput)).length;
  const lateness = records.flatMap(({ dueMs, sentMs }) =>
    dueMs === null ? [] : [Math.max(0, sentMs - dueMs)],
  );
  const waits = records.flatMap(({ outcome }) =>
    outcome.kind === 'refused' && outcome.retryAfterMs !== null
      ? [outcome.retryAfterMs / 1000]
      : [],
  );
  return {
    durationS,
    inputTokens,
    cachedTokens: sum((record) => record.cachedTokens ?? 0),
    outputTokens,
    withoutUsage: finished.filter(({ promptTokens }) => promptTokens === null).length,
    requestsPerS: perS(finished.length),
    goodRequestsPerS: good === null ? null : perS(good),
    outputTokensPerS: perS(outputTokens),
    totalTokensPerS: perS(inputTokens + outputTokens),
    peakOutputTokensPerS: peakPerSecond(finished),
    latencies: latenciesOf(finished),
    classes: classesOf(records),
    sendLatenessP99Ms: lateness.length === 0 ? null : distribution(lateness).p99,
    meanRetryAfterS: waits.length === 0 ? null : distribution(waits).mean,
  };
}

/** Mean time per output token after the first; null where there is no second. */
function timePerOutputToken(record: RequestRecord): number | null {
  if (record.ttftMs === null || record.outputTokens < 2) return null;
  const afterFirstMs = record.interTokenMs.reduce((total, ms) => total + ms, 0);
  return afterFirstMs / (record.outputTokens - 1);
}

function latenciesOf(finished: readonly RequestRecord[]): Latencies {
  return {
    ttft: distribution(finished.flatMap(({ ttftMs }) => ttftMs ?? [])),
    tpot: distribution(finished.flatMap((record) => timePerOutputToken(record) ?? [])),
    itl: distribution(finished.flatMap(({ interTokenMs }) => interTokenMs)),
    e2el: distribution(finished.map(({ endToEndMs }) => endToEndMs)),
  };
}

function classesOf(records: readonly RequestRecord[]): Record<string, ClassSummary> {
  const groups = Map.groupBy(records, ({ priority }) => priority ?? 'none');
  if (groups.size < 2) return {};
  return Object.fromEntries(
    [...groups].map(([name, members]) => {
      const finished = members.filter(({ outcome }) => outcome.kind === 'finished');
      const { ttft, e2el } = latenciesOf(finished);
      return [name, { sent: members.length, finished: finished.length, ttft, e2el }];
    }),
  );
}

function isGood(record: RequestRecord, { ttft, tpot, e2el }: GoodputLimits): boolean {
  return (
    (record.ttftMs ?? 0) <= (ttft ?? Number.POSITIVE_INFINITY) &&
    (timePerOutputToken(record) ?? 0) <= (tpot ?? Number.POSITIVE_INFINITY) &&
    record.endToEndMs <= (e2el ?? Number.POSITIVE_INFINITY)
  );
}

function peakPerSecond(finished: readonly RequestRecord[]): number {
  const bySecond = new Map<number, number>();
  for (const { sentMs, ttftMs, interTokenMs } of finished) {
    if (ttftMs === null) continue;
    let atMs = sentMs + ttftMs;
    for (const gapMs of [0, ...interTokenMs]) {
      atMs += gapMs;
      const second = Math.floor(atMs / 1000);
      bySecond.set(second, (bySecond.get(second) ?? 0) + 1);
    }
  }
  return bySecond.values().reduce((most, count) => Math.max(most, count), 0);
}

/** All zero for no values, as vLLM reports it. `std` is that of the population. */
export function distribution(values: readonly number[]): Distribution {
  const count = values.length;
  if (count === 0) return { count, mean: 0, median: 0, std: 0, p50: 0, p90: 0, p99: 0 };
  const sorted = Float64Array.from(values).sort();
  const mean = sorted.reduce((total, value) => total + value, 0) / count;
  const variance = sorted.reduce((total, value) => total + (value - mean) ** 2, 0) / count;
  const p50 = percentile(sorted, 50);
  return {
    ...{ count, mean, median: p50, std: Math.sqrt(variance) },
    ...{ p50, p90: percentile(sorted, 90), p99: percentile(sorted, 99) },
  };
}

/** Linear between the neighbours, as numpy does it. @param sorted ascending, at least one value */
function percentile(sorted: Float64Array, percent: number): number {
  const place = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(place);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (place - below);
}

/** How the run was made, for the JSON. */
export interface RunDescription {
  readonly model: string;
  readonly endpoint: string;
  readonly baseUrl: string;
  readonly pacing: Pacing;
  readonly seed: number;
  readonly wasInterrupted: boolean;
}

/** One flat JSON object: vLLM's fields first, ours after them. */
export function summaryJson(
  { model, endpoint, baseUrl, pacing, seed, wasInterrupted }: RunDescription,
  { counts, maxInFlight, client }: LoadResult,
  summary: LoadSummary,
): Record<string, unknown> {
  const isOpen = pacing.kind === 'open';
  const rate = isOpen && Number.isFinite(pacing.requestRate) ? pacing.requestRate : 'inf';
  return {
    date: new Date().toISOString(),
    endpoint_type: endpoint === 'chat' ? 'openai-chat' : 'openai',
    base_url: baseUrl,
    model_id: model,
    num_prompts: counts.planned,
    request_rate: rate,
    burstiness: isOpen ? pacing.burstiness : 1,
    max_concurrency: isOpen ? pacing.maxConcurrency : pacing.clients,
    duration: summary.durationS,
    completed: counts.finished,
    failed: counts.failed,
    total_input_tokens: summary.inputTokens,
    total_output_tokens: summary.outputTokens,
    request_throughput: summary.requestsPerS,
    request_goodput: summary.goodRequestsPerS,
    output_throughput: summary.outputTokensPerS,
    total_token_throughput: summary.totalTokensPerS,
    max_output_tokens_per_s: summary.peakOutputTokensPerS,
    max_concurrent_requests: maxInFlight,
    ...latencyFields(summary.latencies),
    sent: counts.sent,
    refused: counts.refused,
    not_sent: counts.notSent,
    failures: counts.failures,
    refusals: counts.refusals,
    mean_retry_after_s: summary.meanRetryAfterS,
    total_cached_tokens: summary.cachedTokens,
    without_usage: summary.withoutUsage,
    classes: Object.fromEntries(
      Object.entries(summary.classes).map(([name, { sent, finished, ttft, e2el }]) => [
        name,
        { sent, completed: finished, ...latencyFields({ ttft, e2el }) },
      ]),
    ),
    client_cpu_share: client.cpuShare,
    client_event_loop_delay_p99_ms: client.eventLoopDelayP99Ms,
    client_resent: client.numResent,
    send_lateness_p99_ms: summary.sendLatenessP99Ms,
    loop: pacing.kind,
    seed,
    interrupted: wasInterrupted,
  };
}

/** `mean_ttft_ms`, `p99_itl_ms` and so on. */
function latencyFields(latencies: Partial<Latencies>): Record<string, number> {
  const statistics = ['mean', 'median', 'std', 'p50', 'p90', 'p99'] as const;
  return Object.fromEntries(
    Object.entries(latencies).flatMap(([name, values]) =>
      statistics.map((statistic) => [`${statistic}_${name}_ms`, values[statistic]]),
    ),
  );
}
