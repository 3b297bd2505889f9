/**
 * Whether high priority holds what it promises: the time to first token of high-priority requests on an idle server, and on one saturated by
 * low-priority work. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/serve/priorities.ts --model FILE [--clients 32] [--threads 2] [--requests 40] [--no-doc]
 */
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { hastenVersion } from '../compare/engines.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { modelFile } from '../lib/options.ts';
import { markdownTable, ms, percent } from '../lib/table.ts';
import { describeMachine, formatMachine } from '../machine.ts';
import { type LoadFigures, runServeLoad } from './load-child.ts';
import { exitOnSignals, hastenServer } from './servers.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    clients: { type: 'string', default: '32' },
    threads: { type: 'string', default: '2' },
    requests: { type: 'string', default: '40' },
    'no-doc': { type: 'boolean', default: false },
  },
});
exitOnSignals();

const modelPath = modelFile(options.model);
const threads = Number(options.threads);
const clients = Number(options.clients);
const numRequests = Number(options.requests);
const version = hastenVersion();
const WARM_UP_MS = 5000;
/** More than the low-priority clients can finish while the others are measured. */
const LOW_REQUESTS = 40 * clients;

/** One client with short answers, one request after the other, as a person would feel it. */
function highLoad(url: string, seed: number): Promise<LoadFigures> {
  return runServeLoad({
    ...{ url, promptTokens: 190, sharedTokens: 0, outputTokens: 16, numRequests, seed },
    ...{ clients: 1, requestRate: null, extra: ['--priority-mix', 'high'] },
  });
}

async function measure(isSaturated: boolean) {
  const { value, foreignLoad } = await withForeignLoad(async () => {
    const job = { modelPath, threads, streams: clients, contextTokens: 1024 };
    // It is stopped under load, and is to end by itself: what a killed one took would count as others'.
    await using running = await hastenServer(version, ['--grace-period', '1']).start(job);
    if (!isSaturated) return { high: await highLoad(running.url, 1), isStillSaturated: true };
    let isOver = false;
    const low = runServeLoad({
      ...{ url: running.url, promptTokens: 190, sharedTokens: 0, outputTokens: 256, seed: 2 },
      ...{ numRequests: LOW_REQUESTS, clients, requestRate: null },
      extra: ['--priority-mix', 'low'],
    }).then(
      () => {
        isOver = true;
      },
      () => {}, // Cut off when the server stops: it has done its part.
    );
    await sleep(WARM_UP_MS);
    const high = await highLoad(running.url, 1);
    const isStillSaturated = !isOver;
    await running[Symbol.asyncDispose]();
    await low;
    return { high, isStillSaturated };
  });
  if (!value.isStillSaturated) throw new Error('the low-priority work was over before the rest');
  return { figures: value.high, foreignLoad };
}

const machine = await describeMachine({ threads: [threads] });
const idle = await measure(false);
const saturated = await measure(true);
/** A step of the saturated server, as a running request sees it. */
const stepMs = saturated.figures.p50_itl_ms;
const bound = 1.5 * idle.figures.p99_ttft_ms + stepMs;
const isWithin = saturated.figures.p99_ttft_ms <= bound;

const text = [
  `\`${shownCommand('bench/serve/priorities.ts')}\``,
  formatMachine(machine),
  `hasten ${version}, ${basename(modelPath)}, ${threads} threads. High: one client, 190-token prompts and 16 out, ${numRequests} requests. Low: ${clients} clients, 190-token prompts and 256 out.`,
  markdownTable(
    ['high-priority requests', 'TTFT P50', 'TTFT P99', 'ITL P50', 'ITL P99', 'others'],
    [
      ['on an idle server', idle] as const,
      ['beside saturating low-priority work', saturated] as const,
    ].map(([name, { figures, foreignLoad }]) => [
      ...[name, ms(figures.p50_ttft_ms), ms(figures.p99_ttft_ms)],
      ...[ms(figures.p50_itl_ms), ms(figures.p99_itl_ms), percent(foreignLoad)],
    ]),
  ),
  `Bound: 1.5 x ${ms(idle.figures.p99_ttft_ms)} and one step of ${ms(stepMs)} make ${ms(bound)}: ${isWithin ? 'within' : '**missed**'}.`,
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('serve/priorities', text);
console.log(JSON.stringify({ idle, saturated, stepMs, bound, isWithin }));
