/** A run as a table for people, laid out as `vllm bench serve` lays it out. Knows nothing of how the figures came to be. */
import type { LoadResult, Pacing } from './load-run.ts';
import type { Distribution, LatencyName, LoadSummary } from './summary.ts';

const WIDTH = 50;
const LABEL_WIDTH = 40;

const TITLES: Readonly<Record<LatencyName, readonly [title: string, short: string]>> = {
  ttft: ['Time to First Token', 'TTFT'],
  tpot: ['Time per Output Token (excl. 1st token)', 'TPOT'],
  itl: ['Inter-token Latency', 'ITL'],
  e2el: ['End-to-end Latency', 'E2EL'],
};

export function formatReport(result: LoadResult, summary: LoadSummary, pacing: Pacing): string {
  const { counts, client, maxInFlight } = result;
  const lines = [
    ruled('=', 'Serving Benchmark Result'),
    row('Successful requests:', counts.finished),
    row('Refused requests:', withParts(counts.refused, counts.refusals)),
    row('Failed requests:', withParts(counts.failed, counts.failures)),
    row('Sent requests (sum of the above):', counts.sent),
    ...(counts.notSent > 0 ? [row('Planned, but not sent:', counts.notSent)] : []),
    ...pacingRows(pacing),
    row('Benchmark duration (s):', summary.durationS),
    row('Total input tokens:', summary.inputTokens),
    row('Total cached input tokens:', summary.cachedTokens),
    row('Total generated tokens:', summary.outputTokens),
    row('Request throughput (req/s):', summary.requestsPerS),
    ...(summary.goodRequestsPerS === null
      ? []
      : [row('Request goodput (req/s):', summary.goodRequestsPerS)]),
    row('Output token throughput (tok/s):', summary.outputTokensPerS),
    row('Peak output token throughput (tok/s):', summary.peakOutputTokensPerS),
    row('Peak concurrent requests:', maxInFlight),
    row('Total token throughput (tok/s):', summary.totalTokensPerS),
  ];
  for (const [name, [title, short]] of Object.entries(TITLES)) {
    const values = summary.latencies[name as LatencyName];
    lines.push(ruled('-', title), ...distributionRows(short, values));
  }
  for (const [name, { sent, finished, ttft }] of Object.entries(summary.classes)) {
    lines.push(ruled('-', `Priority ${name}: ${finished} of ${sent} finished`));
    lines.push(...distributionRows('TTFT', ttft));
  }
  lines.push(ruled('-', 'Client'));
  if (summary.sendLatenessP99Ms !== null) {
    lines.push(row('P99 sent later than due (ms):', summary.sendLatenessP99Ms));
  }
  if (summary.meanRetryAfterS !== null) {
    lines.push(row('Mean Retry-After (s):', summary.meanRetryAfterS));
  }
  if (summary.withoutUsage > 0) {
    lines.push(row('Answers without usage:', summary.withoutUsage));
  }
  if (client.numResent > 0) {
    lines.push(row('Sent again (stale connections):', client.numResent));
  }
  lines.push(row('P99 event loop delay (ms):', client.eventLoopDelayP99Ms));
  lines.push(row('CPU (% of a core):', client.cpuShare * 100));
  lines.push('='.repeat(WIDTH));
  return lines.join('\n');
}

function pacingRows(pacing: Pacing): string[] {
  if (pacing.kind === 'closed') return [row('Maximum request concurrency:', pacing.clients)];
  const isPaced = Number.isFinite(pacing.requestRate);
  return [
    ...(pacing.maxConcurrency === null
      ? []
      : [row('Maximum request concurrency:', pacing.maxConcurrency)]),
    row('Request rate configured (RPS):', isPaced ? pacing.requestRate : 'inf'),
    ...(isPaced && pacing.burstiness !== 1 ? [row('Burstiness:', pacing.burstiness)] : []),
  ];
}

function distributionRows(short: string, values: Distribution): string[] {
  return [
    row(`Mean ${short} (ms):`, values.mean),
    row(`Median ${short} (ms):`, values.median),
    row(`Std ${short} (ms):`, values.std),
    row(`P50 ${short} (ms):`, values.p50),
    row(`P90 ${short} (ms):`, values.p90),
    row(`P99 ${short} (ms):`, values.p99),
  ];
}

function row(label: string, value: number | string): string {
  const isWhole = typeof value === 'number' && Number.isInteger(value);
  const text = typeof value === 'string' ? value : isWhole ? String(value) : value.toFixed(2);
  return `${label.padEnd(LABEL_WIDTH)}${text.padStart(WIDTH - LABEL_WIDTH)}`.trimEnd();
}

/** `3 (429: 2, 503: 1)`; a lone part needs no number of its own. */
function withParts(total: number, parts: Readonly<Record<string, number>>): string {
  const list = Object.entries(parts).map(([name, count]) => `${name}: ${count}`);
  return list.length === 0 ? String(total) : `${total} (${list.join(', ')})`;
}

function ruled(fill: string, title: string): string {
  const text = fill === '=' ? ` ${title} ` : title;
  const left = Math.max(0, Math.floor((WIDTH - text.length) / 2));
  return `${fill.repeat(left)}${text}`.padEnd(WIDTH, fill);
}
