/**
 * What batching gains on our own engine: throughput over the number of sequences in a step, and the latency it costs at the load at which one
 * at a time is saturated. Short prompts, 128 tokens out. Prints tables, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/serve/batching.ts --model FILE [--sizes 1,2,4,8,16,32] [--threads 2] [--scale 1] [--no-doc]
 */
import { basename } from 'node:path';
import { parseArgs } from 'node:util';
import { hastenVersion } from '../compare/engines.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { modelFile } from '../lib/options.ts';
import { markdownTable, ms, percent, significant } from '../lib/table.ts';
import { describeMachine, formatMachine } from '../machine.ts';
import { type LoadFigures, runServeLoad, type ServeLoad } from './load-child.ts';
import { exitOnSignals, hastenServer } from './servers.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    sizes: { type: 'string', default: '1,2,4,8,16,32' },
    threads: { type: 'string', default: '2' },
    scale: { type: 'string', default: '1' },
    'no-doc': { type: 'boolean', default: false },
  },
});
exitOnSignals();

const WORK = { promptTokens: 24, outputTokens: 128, sharedTokens: 0 };
const modelPath = modelFile(options.model);
const threads = Number(options.threads);
const sizes = options.sizes.split(',').map(Number);
const version = hastenVersion();

interface Measured {
  readonly figures: LoadFigures;
  readonly foreignLoad: number;
}

async function measure(
  maxSeqs: number,
  load: Pick<ServeLoad, 'clients' | 'requestRate' | 'numRequests'>,
): Promise<Measured> {
  const server = hastenServer(version, ['--max-num-seqs', `${maxSeqs}`]);
  const { value, foreignLoad } = await withForeignLoad(async () => {
    const job = { modelPath, threads, streams: maxSeqs, contextTokens: 512 };
    await using running = await server.start(job);
    return await runServeLoad({ ...WORK, ...load, url: running.url, seed: 7 });
  });
  console.error(`${maxSeqs} sequences: ${value.request_throughput.toFixed(2)} req/s`);
  return { figures: value, foreignLoad };
}

function requests(count: number): number {
  return Math.max(8, Math.round(count * Number(options.scale)));
}

const machine = await describeMachine({ threads: [threads] });
const curve: (Measured & { readonly maxSeqs: number })[] = [];
for (const maxSeqs of sizes) {
  const numRequests = requests(Math.max(24, 4 * maxSeqs));
  const clients = 2 * maxSeqs;
  curve.push({ maxSeqs, ...(await measure(maxSeqs, { clients, requestRate: null, numRequests })) });
}
const single = curve.find(({ maxSeqs }) => maxSeqs === 1) ?? curve[0]!;
const best = curve.reduce((a, b) =>
  b.figures.request_throughput > a.figures.request_throughput ? b : a,
);
const idle = await measure(best.maxSeqs, {
  ...{ clients: 1, requestRate: null, numRequests: requests(16) },
});
const offered = await measure(best.maxSeqs, {
  ...{ clients: null, requestRate: single.figures.request_throughput, numRequests: requests(64) },
});

const gain = best.figures.request_throughput / single.figures.request_throughput;
const latency = offered.figures.mean_e2el_ms / idle.figures.mean_e2el_ms;
const text = [
  `\`${shownCommand('bench/serve/batching.ts')}\``,
  formatMachine(machine),
  `hasten ${version}, ${basename(modelPath)}, ${threads} threads, ${WORK.promptTokens}-token prompts and ${WORK.outputTokens} out, twice as many clients as sequences in a step; "others" is the share of all CPU time that other processes took.`,
  markdownTable(
    ['sequences', 'req/s', 'out tok/s', 'gain', 'ITL P50', 'ITL P99', 'others'],
    curve.map(({ maxSeqs, figures, foreignLoad }) => [
      ...[`${maxSeqs}`, significant(figures.request_throughput)],
      significant(figures.output_throughput),
      `${(figures.request_throughput / single.figures.request_throughput).toFixed(2)}x`,
      ...[ms(figures.p50_itl_ms), ms(figures.p99_itl_ms), percent(foreignLoad)],
    ]),
  ),
  `Saturated, ${best.maxSeqs} at once do **${gain.toFixed(2)}x** the requests of one at a time. At ${significant(single.figures.request_throughput)} requests a second, which saturate one at a time, a request takes ${ms(offered.figures.mean_e2el_ms)} on average, **${latency.toFixed(2)}x** the ${ms(idle.figures.mean_e2el_ms)} on an idle server.`,
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('serve/batching', text);
console.log(JSON.stringify({ curve, idle, offered, gain, latency }));
