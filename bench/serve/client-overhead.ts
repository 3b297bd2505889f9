/**
 * What the load generator itself costs: streams from a server that does nothing but send on time, so that whatever is measured beyond its
 * delays is the clients', the network stack's and that server's own. An upper bound of the error in TTFT and inter-token latency.
 *
 *   node bench/serve/client-overhead.ts [--streams 64,256] [--pieces 50] [--gap 40]
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { parseArgs } from 'node:util';
import { runLoad } from '../../src/loadgen/load-run.ts';
import { PromptMaker } from '../../src/loadgen/prompt-maker.ts';
import { type LoadSummary, summarizeLoad } from '../../src/loadgen/summary.ts';
import { parseBaseUrl } from '../../src/loadgen/target.ts';
import { planWorkload } from '../../src/loadgen/workload.ts';
import { markdownTable, ms, percent, significant } from '../lib/table.ts';

const FIRST_MS = 200;
const ROUNDS = 4;

const { values: options } = parseArgs({
  options: {
    streams: { type: 'string', default: '1,64,256' },
    pieces: { type: 'string', default: '50' },
    gap: { type: 'string', default: '40' },
    server: { type: 'boolean', default: false },
  },
});
const pieces = Number(options.pieces);
const gapMs = Number(options.gap);

/** Every stream on its own timer: a piece each `gapMs`, of a size that servers send. */
function serveOnTime(): void {
  const filler = 'x'.repeat(150);
  const server = createServer((request, response) => {
    request.resume();
    request.on('end', () => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.flushHeaders();
      let sent = 0;
      const send = (): void => {
        const chunk = { id: filler, choices: [{ index: 0, delta: { content: 'word ' } }] };
        response.write(`data: ${JSON.stringify(chunk)}\n\n`);
        if (++sent < pieces) setTimeout(send, gapMs);
        else response.end('data: [DONE]\n\n');
      };
      setTimeout(send, FIRST_MS);
    });
  });
  server.listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port));
}

interface Row {
  readonly streams: number;
  readonly cpuShare: number;
  readonly eventLoopDelayP99Ms: number;
  readonly summary: LoadSummary;
}

async function measure(port: number, streams: number): Promise<Row> {
  const mix = { kind: 'fixed', inputTokens: 190, outputTokens: pieces, rangeRatio: 0 } as const;
  const result = await runLoad({
    target: { baseUrl: parseBaseUrl(`http://127.0.0.1:${port}`, false), headers: {} },
    shape: {
      ...{ endpoint: 'chat', model: 'm', promptForm: 'text', sharedPrefixTokens: 0 },
      ...{ ignoreEos: true, temperature: 0, extraBody: {} },
    },
    maker: new PromptMaker(1, { lowest: 1, highest: 2 }),
    conversations: planWorkload({
      ...{ seed: 1, numRequests: streams * ROUNDS, turns: 1, sharedPrefixTokens: 0 },
      ...{ numPrefixes: 1, priorities: {}, source: { kind: 'lengths', mix } },
    }),
    isCountBound: true,
    // Spread over the answer's length, so that the streams do not all speak at once.
    pacing: {
      kind: 'open',
      requestRate: (1000 * streams) / (FIRST_MS + gapMs * pieces),
      burstiness: 1,
      maxConcurrency: null,
    },
    ...{ seed: 1, timeouts: { totalMs: 60_000, stallMs: 10_000 }, maxDurationMs: null },
    ...{ drainMs: 0, thinkMs: 0, priorityHeader: 'x-priority' },
  });
  const { cpuShare, eventLoopDelayP99Ms } = result.client;
  return { streams, cpuShare, eventLoopDelayP99Ms, summary: summarizeLoad(result, null) };
}

async function main(): Promise<void> {
  const server = fork(import.meta.filename, ['--server', ...process.argv.slice(2)]);
  try {
    const [port] = (await once(server, 'message')) as [number];
    const rows: Row[] = [];
    for (const streams of options.streams.split(',').map(Number)) {
      rows.push(await measure(port, streams));
    }
    const cells = rows.map(({ streams, cpuShare, eventLoopDelayP99Ms, summary }) => {
      const { ttft, itl } = summary.latencies;
      return [
        ...[`${streams}`, significant(summary.outputTokensPerS), percent(cpuShare)],
        ...[ms(ttft.p50 - FIRST_MS), ms(ttft.p99 - FIRST_MS)],
        ...[ms(itl.p50 - gapMs), ms(itl.p99 - gapMs), ms(eventLoopDelayP99Ms)],
      ];
    });
    const latencies = ['TTFT P50 +', 'TTFT P99 +', 'ITL P50 +', 'ITL P99 +', 'event loop P99'];
    console.log(markdownTable(['streams', 'pieces/s', 'CPU of a core', ...latencies], cells));
    console.log(JSON.stringify({ firstMs: FIRST_MS, gapMs, pieces, rows }));
  } finally {
    server.kill();
  }
}

if (options.server) serveOnTime();
else await main();
