/**
 * What running answers notice of long prompts: the time between their tokens alone, and while another client sends prompts of 4k tokens without
 * end, by the bound of a step. Prints a table, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/serve/beside-prompts.ts --model FILE [--bounds 60,30] [--prompt-tokens 4096] [--streams 4] [--threads 2] [--no-doc]
 */
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { hastenVersion } from '../compare/engines.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { modelFile } from '../lib/options.ts';
import { median } from '../lib/statistics.ts';
import { markdownTable, ms, percent, significant } from '../lib/table.ts';
import { describeMachine, formatMachine } from '../machine.ts';
import { type LoadFigures, runServeLoad } from './load-child.ts';
import { exitOnSignals, hastenServer, type RunningServer } from './servers.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    bounds: { type: 'string', default: '60,30' },
    'prompt-tokens': { type: 'string', default: '4096' },
    streams: { type: 'string', default: '4' },
    threads: { type: 'string', default: '2' },
    'no-doc': { type: 'boolean', default: false },
  },
});
exitOnSignals();

const modelPath = modelFile(options.model);
const bounds = options.bounds.split(',').map(Number);
const promptTokens = Number(options['prompt-tokens']);
const streams = Number(options.streams);
const threads = Number(options.threads);
const version = hastenVersion();
const OUTPUT_TOKENS = 256;
const CONTEXT_TOKENS = promptTokens + 256;
/** Long prompts that are read before the answers are timed. */
const WARM_UP_MS = 8000;

interface Beside {
  readonly answers: LoadFigures;
  /** Time to the first token of each long prompt that was answered meanwhile, milliseconds. */
  readonly promptMs: readonly number[];
  readonly foreignLoad: number;
}

/** Drafts are off: they would put several tokens into one step. */
function start(boundMs: number): Promise<RunningServer> {
  const flags = ['--max-step-time', `${boundMs}`, '--speculation', 'off', '--grace-period', '1'];
  const job = { modelPath, threads, streams: streams + 1, contextTokens: CONTEXT_TOKENS };
  return hastenServer(version, flags).start(job);
}

async function measure(boundMs: number, isBeside: boolean): Promise<Beside> {
  const { value, foreignLoad } = await withForeignLoad(async () => {
    await using running = await start(boundMs);
    const { url } = running;
    const answers = (): Promise<LoadFigures> =>
      runServeLoad({
        ...{ url, promptTokens: 64, sharedTokens: 0, outputTokens: OUTPUT_TOKENS, seed: 1 },
        ...{ numRequests: 4 * streams, clients: streams, requestRate: null },
      });
    if (!isBeside) return { answers: await answers(), promptMs: [] };
    const stop = new AbortController();
    const long = sendLongPrompts(url, stop.signal);
    await sleep(WARM_UP_MS);
    const figures = await answers();
    stop.abort();
    return { answers: figures, promptMs: await long };
  });
  return { ...value, foreignLoad };
}

/** One after the other until `signal`; the time of each that was answered. */
async function sendLongPrompts(url: string, signal: AbortSignal): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; !signal.aborted; i++) {
    // Token ids that no other prompt has in this order.
    const prompt = Array.from({ length: promptTokens }, (_, at) => 100 + ((at * (i + 7)) % 20_011));
    const startMs = performance.now();
    const answer = fetch(`${url}/v1/completions`, {
      ...{ method: 'POST', headers: { 'content-type': 'application/json' }, signal },
      body: JSON.stringify({ prompt, max_tokens: 1, temperature: 0 }),
    });
    const response = await answer.catch(() => null); // Aborted.
    if (response === null) break;
    if (response.status !== 200) throw new Error(`a long prompt: ${await response.text()}`);
    await response.arrayBuffer().catch(() => {});
    times.push(performance.now() - startMs);
  }
  return times;
}

const machine = await describeMachine({ threads: [threads] });
const first = bounds[0] ?? 60;
const rows = [{ name: 'alone', ...(await measure(first, false)) }];
for (const bound of bounds) {
  rows.push({
    name: `beside them, \`--max-step-time ${bound}\``,
    ...(await measure(bound, true)),
  });
}

const text = [
  '### Running answers beside long prompts',
  `\`${shownCommand('bench/serve/beside-prompts.ts')}\``,
  formatMachine(machine),
  `hasten ${version}, ${basename(modelPath)}, ${threads} threads, without drafts. ${streams} clients with 64-token prompts and ${OUTPUT_TOKENS} out; beside them one that sends prompts of ${promptTokens} tokens, one after the other.`,
  markdownTable(
    ['answers', 'ITL P50', 'ITL P99', 'out tok/s', 'TTFT of a long prompt', 'others'],
    rows.map(({ name, answers, promptMs, foreignLoad }) => [
      ...[name, ms(answers.p50_itl_ms), ms(answers.p99_itl_ms)],
      significant(answers.output_throughput),
      promptMs.length === 0 ? '–' : `${significant(median(promptMs) / 1000)} s`,
      percent(foreignLoad),
    ]),
  ),
].join('\n\n');
console.log(text);
if (!options['no-doc']) writeSection('serve/beside-prompts', text);
console.log(JSON.stringify({ benchmark: 'beside-prompts', promptTokens, streams, rows }));
