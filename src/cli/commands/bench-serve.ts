/** `hasten bench serve`: load on an OpenAI-compatible server, ours or another. */
import { writeFile } from 'node:fs/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { readDataset } from '../../loadgen/dataset.ts';
import type { LengthMix } from '../../loadgen/lengths.ts';
import { type LoadOptions, type LoadResult, type Pacing, runLoad } from '../../loadgen/load-run.ts';
import { servedModels, warmUp } from '../../loadgen/prepare.ts';
import { PromptMaker, type TokenIdRange } from '../../loadgen/prompt-maker.ts';
import { formatReport } from '../../loadgen/report.ts';
import type { RequestShape } from '../../loadgen/request-body.ts';
import { type GoodputLimits, summarizeLoad, summaryJson } from '../../loadgen/summary.ts';
import { type Endpoint, parseBaseUrl, type Target } from '../../loadgen/target.ts';
import { planWorkload, type WorkloadOptions } from '../../loadgen/workload.ts';
import { CommandError, UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { parseCount, parseInteger, parseNumber } from '../options.ts';
import { note, printJson, printLine, styledError } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface BenchServeFlags {
  readonly baseUrl: string;
  readonly model?: string;
  readonly endpoint: Endpoint;
  readonly numPrompts?: number;
  readonly maxDuration?: number;
  readonly drainTimeout: number;
  readonly requestRate?: number;
  readonly burstiness: number;
  readonly maxConcurrency?: number;
  readonly datasetPath?: string;
  readonly randomInputLen?: number;
  readonly randomOutputLen?: number;
  readonly randomRangeRatio: number;
  readonly maxTotalLen: number;
  readonly sharedPrefixTokens: number;
  readonly numPrefixes: number;
  readonly turns: number;
  readonly thinkTime: number;
  readonly priorityMix: Record<string, number>;
  readonly priorityHeader: string;
  readonly tokenIds: TokenIdRange;
  readonly ignoreEos: boolean;
  readonly temperature: number;
  readonly extraBody: Record<string, unknown>;
  readonly apiKey?: string;
  readonly header: Record<string, string>;
  readonly allowRemote: boolean;
  readonly numWarmups: number;
  readonly timeout: number;
  readonly stallTimeout: number;
  readonly goodput?: GoodputLimits;
  readonly seed: number;
  readonly resultFile?: string;
  readonly json: boolean;
}

const DEFAULT_NUM_PROMPTS = 100;
const DEFAULT_CLIENTS = 16;
const DEFAULT_IDS = '1000-9999';
/** More than a run that is bounded by time alone can send. */
const ENDLESS = 50_000;
const READY_TIMEOUT_MS = 10_000;
const LONGEST_S = 7 * 86_400;

export function define(command: Command): void {
  command
    .option('--base-url <url>', 'the server, with or without /v1', 'http://127.0.0.1:8000')
    .option('--model <name>', 'model to ask for; left out: the first that the server lists')
    .addOption(
      new Option('--endpoint <kind>', 'chat: words; completions: token ids, of exact length')
        .choices(['chat', 'completions'])
        .default('chat'),
    )
    .option(
      '--num-prompts <n>',
      `requests to send (default: ${DEFAULT_NUM_PROMPTS})`,
      parseInteger(1),
    )
    .option('--max-duration <seconds>', 'send nothing more after this', parseSeconds)
    .option('--drain-timeout <seconds>', 'for what is in flight then', parseSeconds, 30)
    .option(
      '--max-concurrency <n>',
      `closed loop: clients (default: ${DEFAULT_CLIENTS}); with a rate: requests in flight at most`,
      parseInteger(1),
    )
    .option(
      '--request-rate <r>',
      'open loop: requests per second, or inf for all at once',
      parseRate,
    )
    .option('--burstiness <x>', '1: Poisson, below 1 burstier', parseNumber(0.001, 1000), 1)
    .option('--dataset-path <file>', 'ShareGPT JSON, or JSON lines of {prompt, output_tokens}')
    .option('--random-input-len <tokens>', 'prompts of this length', parseCount)
    .option('--random-output-len <tokens>', 'answers of this length', parseCount)
    .option('--random-range-ratio <x>', 'lengths vary by this share', parseNumber(0, 1), 0)
    .option('--max-total-len <tokens>', 'prompt and answer of the default mix', parseCount, 2048)
    .option('--shared-prefix-tokens <n>', 'of each prompt, equal in all', parseInteger(0), 0)
    .option('--num-prefixes <n>', 'different shared prefixes', parseInteger(1), 1)
    .option('--turns <n>', 'turns of each conversation', parseInteger(1), 1)
    .option('--think-time <seconds>', 'pause before the next turn', parseSeconds, 0)
    .option('--priority-mix <shares>', 'request classes, such as high:1,low:9', parseShares, {})
    .option('--priority-header <name>', 'header that carries the class', 'x-priority')
    .addOption(
      new Option('--token-ids <range>', 'made prompts take ids from')
        .argParser(parseIdRange)
        .default(parseIdRange(DEFAULT_IDS), DEFAULT_IDS),
    )
    .option('--no-ignore-eos', 'let the model end its answers; for servers without ignore_eos')
    .option('--temperature <t>', '0 takes the likeliest token each time', parseNumber(0, 2), 0)
    .option('--extra-body <json>', 'fields to add to every request', parseJsonObject, {})
    .option('--api-key <key>', 'sent as a bearer token (or HASTEN_API_KEY)')
    .option('--header <line>', 'header "name: value"; may be given again', collectHeader, {})
    .option('--allow-remote', 'load a server that is not on this machine', false)
    .option('--num-warmups <n>', 'requests before it begins, not counted', parseInteger(0), 1)
    .option('--timeout <seconds>', 'for one request', parseSeconds, 600)
    .option('--stall-timeout <seconds>', 'without a byte', parseSeconds, 120)
    .option(
      '--goodput <limits...>',
      'what counts as good, in ms: ttft:500 tpot:50 e2el:4000',
      parseGoodput,
    )
    .option('--seed <n>', 'same seed, same requests', parseInteger(0), 0)
    .option('--result-file <file>', 'write the JSON with every single request there')
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
Prints what \`vllm bench serve\` prints, and one line of JSON last. Without lengths or a dataset the
prompts and answers are as long as ShareGPT's. A closed loop of ${DEFAULT_CLIENTS} clients unless told otherwise.

Examples:
  $ hasten bench serve --max-concurrency 4 --num-prompts 50
  $ hasten bench serve --request-rate 2 --goodput ttft:500 tpot:50
  $ hasten bench serve --endpoint completions --random-input-len 600 --shared-prefix-tokens 470
`,
    )
    .action(benchServe);
}

async function benchServe(flags: BenchServeFlags): Promise<void> {
  checkFlags(flags);
  const target = targetOf(flags);
  const pacing = pacingOf(flags);
  const timeouts = { totalMs: flags.timeout * 1000, stallMs: flags.stallTimeout * 1000 };
  const workload = await workloadOf(flags, pacing);
  const conversations = planWorkload(workload);
  const maker = new PromptMaker(flags.seed, flags.tokenIds);
  using interrupts = new InterruptHandler();
  const { signal } = interrupts;
  const model = flags.model ?? (await servedModels(target, READY_TIMEOUT_MS))[0]!;
  const shape = shapeOf(flags, model);
  // A seed of its own: no counted request finds its prompt in a cache, shared prefixes included.
  const [warmUpConversation] = planWorkload({ ...workload, numRequests: 1 });
  await warmUp(warmUpConversation!, {
    ...{ target, shape, timeouts, signal, count: flags.numWarmups },
    maker: new PromptMaker(flags.seed + 1, flags.tokenIds),
  });
  const result = await runWithProgress({
    ...{ target, shape, maker, conversations, pacing, timeouts, signal },
    isCountBound: flags.numPrompts !== undefined || flags.maxDuration === undefined,
    seed: flags.seed,
    maxDurationMs: flags.maxDuration === undefined ? null : flags.maxDuration * 1000,
    drainMs: flags.drainTimeout * 1000,
    thinkMs: flags.thinkTime * 1000,
    priorityHeader: flags.priorityHeader,
  });
  const summary = summarizeLoad(result, flags.goodput ?? null);
  const { endpoint, seed } = flags;
  const baseUrl = target.baseUrl.origin;
  const run = { model, endpoint, baseUrl, pacing, seed, wasInterrupted: signal.aborted };
  const json = summaryJson(run, result, summary);
  if (flags.resultFile !== undefined) await writeResult(flags.resultFile, json, result);
  noteFaults(result);
  if (!flags.json) await printLine(formatReport(result, summary, pacing));
  await printJson(json);
  signal.throwIfAborted();
  if (result.counts.finished === 0) throw new CommandError('no request was finished');
}

function checkFlags(flags: BenchServeFlags): void {
  const { endpoint, turns, datasetPath, randomInputLen, randomOutputLen } = flags;
  if (endpoint === 'completions' && turns > 1) {
    throw new UsageError(
      `--turns ${turns}: completions know no conversations, expected --endpoint chat`,
    );
  }
  if (datasetPath !== undefined && (randomInputLen ?? randomOutputLen) !== undefined) {
    throw new UsageError(
      '--dataset-path: the lengths are those of the dataset, leave --random-... out',
    );
  }
}

function targetOf({ baseUrl, allowRemote, apiKey, header }: BenchServeFlags): Target {
  // The server takes NAME:SECRET there; what is sent is the secret.
  const key = apiKey ?? process.env.HASTEN_API_KEY?.replace(/^[\w.-]+:/, '');
  return {
    baseUrl: parseBaseUrl(baseUrl, allowRemote),
    headers: { ...(key ? { authorization: `Bearer ${key}` } : {}), ...header },
  };
}

function pacingOf({ requestRate, burstiness, maxConcurrency }: BenchServeFlags): Pacing {
  if (requestRate === undefined) {
    return { kind: 'closed', clients: maxConcurrency ?? DEFAULT_CLIENTS };
  }
  return { kind: 'open', requestRate, burstiness, maxConcurrency: maxConcurrency ?? null };
}

async function workloadOf(flags: BenchServeFlags, pacing: Pacing): Promise<WorkloadOptions> {
  const { seed, turns, sharedPrefixTokens, numPrefixes, priorityMix, datasetPath } = flags;
  const source =
    datasetPath === undefined
      ? { kind: 'lengths' as const, mix: lengthMixOf(flags) }
      : { kind: 'dataset' as const, items: await readDataset(datasetPath) };
  const numRequests = flags.numPrompts ?? defaultCount(flags, pacing);
  const shared = { sharedPrefixTokens, numPrefixes, priorities: priorityMix };
  return { seed, numRequests, turns, source, ...shared };
}

function defaultCount({ maxDuration }: BenchServeFlags, pacing: Pacing): number {
  if (maxDuration === undefined) return DEFAULT_NUM_PROMPTS;
  if (pacing.kind === 'closed') return ENDLESS;
  // At a rate of inf everything is sent at once, however long the run may be.
  if (!Number.isFinite(pacing.requestRate)) return DEFAULT_NUM_PROMPTS;
  return Math.min(ENDLESS, Math.ceil(pacing.requestRate * maxDuration) + 1);
}

function lengthMixOf(flags: BenchServeFlags): LengthMix {
  const { randomInputLen, randomOutputLen, randomRangeRatio, maxTotalLen } = flags;
  if (randomInputLen === undefined && randomOutputLen === undefined) {
    return { kind: 'sharegpt', maxTotalTokens: maxTotalLen };
  }
  return {
    kind: 'fixed',
    inputTokens: randomInputLen ?? 1024,
    outputTokens: randomOutputLen ?? 128,
    rangeRatio: randomRangeRatio,
  };
}

function shapeOf(flags: BenchServeFlags, model: string): RequestShape {
  const { endpoint, sharedPrefixTokens, ignoreEos, temperature, extraBody, datasetPath } = flags;
  return {
    ...{ endpoint, model, sharedPrefixTokens, temperature, extraBody },
    promptForm: endpoint === 'completions' && datasetPath === undefined ? 'ids' : 'text',
    // Recorded texts end where the model ends them; made ones have no sensible end.
    ignoreEos: ignoreEos && datasetPath === undefined,
  };
}

async function runWithProgress(options: LoadOptions): Promise<LoadResult> {
  using progress = new ProgressReporter();
  return await runLoad({
    ...options,
    onProgress: ({ planned, sent, inFlight }) =>
      progress.update({
        label: 'requests',
        done: sent - inFlight,
        total: options.isCountBound ? planned : 0,
        unit: 'items',
      }),
  });
}

/** One line per kind of fault, with the first message of that kind. */
function noteFaults({ records }: LoadResult): void {
  const first = new Map<string, { count: number; message: string }>();
  for (const { outcome } of records) {
    if (outcome.kind === 'finished') continue;
    const kind = outcome.kind === 'refused' ? `refused, ${outcome.status}` : outcome.reason;
    const seen = first.get(kind);
    if (seen) seen.count++;
    else first.set(kind, { count: 1, message: outcome.message });
  }
  for (const [kind, { count, message }] of first) {
    note(`${styledError('yellow', 'warning:')} ${count} requests: ${kind}: ${message}`);
  }
}

async function writeResult(path: string, json: object, { records }: LoadResult): Promise<void> {
  try {
    await writeFile(path, `${JSON.stringify({ ...json, requests: records })}\n`);
  } catch (error) {
    throw new CommandError(`--result-file ${path}: ${(error as Error).message}`, { cause: error });
  }
}

function parseSeconds(text: string): number {
  return parseNumber(0, LONGEST_S)(text);
}

function parseRate(text: string): number {
  if (text === 'inf') return Number.POSITIVE_INFINITY;
  const rate = Number(text);
  if (!(rate > 0 && rate <= 1e6)) {
    throw new InvalidArgumentError('Expected requests per second above 0, or inf.');
  }
  return rate;
}

/** `high:1,low:9`; a name alone counts 1. */
function parseShares(text: string): Record<string, number> {
  return Object.fromEntries(
    text.split(',').map((part) => {
      const [, name, share] = /^\s*([\w-]+)(?::([\d.]+))?\s*$/.exec(part) ?? [];
      const value = share === undefined ? 1 : Number(share);
      if (name === undefined || !Number.isFinite(value)) {
        throw new InvalidArgumentError('Expected shares such as high:1,low:9.');
      }
      return [name, value];
    }),
  );
}

/** `ttft:500`, or several with commas; in milliseconds. */
function parseGoodput(text: string, previous: GoodputLimits = {}): GoodputLimits {
  const entries = text.split(',').map((part) => {
    const [, name, limit] = /^(ttft|tpot|e2el):([\d.]+)$/.exec(part) ?? [];
    if (name === undefined || !(Number(limit) > 0)) {
      throw new InvalidArgumentError(
        'Expected limits in milliseconds of ttft, tpot and e2el, such as ttft:500 tpot:50.',
      );
    }
    return [name, Number(limit)];
  });
  return { ...previous, ...Object.fromEntries(entries) };
}

function parseIdRange(text: string): TokenIdRange {
  const [, lowest, highest] = /^(\d+)-(\d+)$/.exec(text) ?? [];
  if (lowest === undefined || Number(lowest) > Number(highest)) {
    throw new InvalidArgumentError('Expected a range of token ids such as 1000-9999.');
  }
  return { lowest: Number(lowest), highest: Number(highest) };
}

function parseJsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
  } catch {
    // Said below.
  }
  throw new InvalidArgumentError('Expected a JSON object such as {"top_k": 1}.');
}

function collectHeader(text: string, previous: Record<string, string>): Record<string, string> {
  const [, name, value] = /^([\w-]+):\s*(.*)$/.exec(text) ?? [];
  if (name === undefined)
    throw new InvalidArgumentError('Expected a header such as "name: value".');
  return { ...previous, [name.toLowerCase()]: value ?? '' };
}
