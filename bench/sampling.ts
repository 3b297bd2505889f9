/**
 * What a token costs beyond the model: drawing it, penalties, its text, and its way to a client. Prints a table, then one line of JSON, and
 * writes the section of docs/benchmarks.md.
 *
 *   node bench/sampling.ts --model smollm2=FILE [--model gemma3-270m=FILE] [--threads 2] [--tokens 256] [--rounds 5] [--no-doc]
 *
 * The engine runs in this process, without a server; its runner's steps are timed apart, and what is left of the time of the loop is the engine's own
 * work: scheduling, sampling, penalties, text, events. Streaming is what one event takes to become a chunk of an answer, in the server's process
 * beside the engine's. Settings take turns, the order reversed every round; medians per token.
 */
import { parseArgs } from 'node:util';
import { OpenedModel } from '../src/app/open-model.ts';
import { decoderSource, tokenTextOf } from '../src/app/token-text.ts';
import { EngineCore } from '../src/engine/engine-core.ts';
import type { EngineEvent } from '../src/engine/events.ts';
import { prepareRequest } from '../src/engine/request.ts';
import type { SamplingParamsInput } from '../src/engine/sampling-params.ts';
import { createRunner } from '../src/runtime/create-runner.ts';
import type { ModelRunner } from '../src/targets/model-runner.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { namedModels } from './lib/options.ts';
import { median } from './lib/statistics.ts';
import { markdownTable, percent } from './lib/table.ts';

const PROMPT = 'The old lighthouse keeper climbed the stairs once more and';
/** Largest share of a decode step that a token may cost beyond it. */
const BOUND = 0.03;

const SETTINGS: readonly { readonly name: string; readonly params: SamplingParamsInput }[] = [
  { name: 'greedy', params: { temperature: 0 } },
  { name: 'temperature 1', params: { temperature: 1 } },
  { name: 'temperature 0.8, top-p 0.95', params: { temperature: 0.8, topP: 0.95 } },
  {
    name: 'temperature 0.8, top-k 40, top-p 0.95, min-p 0.05',
    params: { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 },
  },
  {
    name: 'the same, three penalties',
    params: {
      ...{ temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 },
      ...{ repetitionPenalty: 1.1, frequencyPenalty: 0.2, presencePenalty: 0.2 },
    },
  },
  { name: 'greedy, 5 log-probabilities', params: { temperature: 0, logprobs: 5 } },
];

/** Of one round, µs per token. */
interface Sample {
  readonly step: number;
  readonly engine: number;
  readonly streaming: number;
}

/** `runner` with a clock around its steps. */
function timed(runner: ModelRunner): { takeMs(): number } {
  let total = 0;
  const submit = runner.submit.bind(runner);
  Object.defineProperty(runner, 'submit', {
    value: () => {
      const before = performance.now();
      const ticket = submit();
      total += performance.now() - before;
      if (!ticket.isDone) throw new Error('a step outlived its call: it cannot be timed like this');
      return ticket;
    },
  });
  return {
    takeMs() {
      const ms = total;
      total = 0;
      return ms;
    },
  };
}

/** What the engine's process hands over and the server's process makes of it: a chunk as clients get it. */
function chunkOf(event: EngineEvent): string {
  const { requestId, ...rest } = structuredClone(event);
  const delta = 'text' in rest ? { content: rest.text } : {};
  const choices = [{ index: 0, delta, finish_reason: null }];
  return `data: ${JSON.stringify({ id: requestId, object: 'chat.completion.chunk', choices })}\n\n`;
}

function generate(
  core: EngineCore,
  clock: { takeMs(): number },
  request: Parameters<EngineCore['submit']>[0],
): Sample {
  core.submit(request);
  core.begin(); // The prompt.
  core.finish();
  let events = core.takeEvents();
  clock.takeMs();
  const all: EngineEvent[] = [];
  let numTokens = 0;
  const start = performance.now();
  while (core.hasWork) {
    core.begin();
    core.finish();
    events = core.takeEvents();
    numTokens++;
    for (const event of events) all.push(event);
  }
  const total = performance.now() - start;
  const step = clock.takeMs();
  const before = performance.now();
  let characters = 0;
  for (const event of all) characters += chunkOf(event).length;
  const streaming = performance.now() - before;
  if (characters === 0) throw new Error('nothing was streamed');
  const perToken = (ms: number): number => (1000 * ms) / numTokens;
  return {
    step: perToken(step),
    engine: perToken(total - step),
    streaming: perToken(streaming),
  };
}

interface Row extends Sample {
  readonly model: string;
  readonly vocabSize: number;
  readonly setting: string;
  readonly share: number;
}

async function measure(
  model: string,
  path: string,
  plan: { threads: number; tokens: number; rounds: number },
): Promise<Row[]> {
  using opened = new OpenedModel(path);
  const tokenizer = opened.requireTokenizer();
  const { config, weights: source } = opened.description;
  using runner = await createRunner({
    ...{ source, config, target: 'auto', precision: 'fast', threads: plan.threads },
    ...{ maxModelLen: 1024, maxSeqs: 1, planCacheFolder: null },
  });
  const clock = timed(runner);
  using core = new EngineCore({
    ...{ runner, tokenizer: decoderSource(tokenTextOf(tokenizer)), eosTokenIds: [] },
    ...{ speculation: 'off', hasPrefixCache: false },
  });
  const promptTokenIds = tokenizer.encode(PROMPT);
  const run = (params: SamplingParamsInput): Sample => {
    const samplingParams = { ...params, seed: 1, maxTokens: plan.tokens, ignoreEos: true };
    return generate(core, clock, prepareRequest({ promptTokenIds, samplingParams }, runner.limits));
  };
  const samples = SETTINGS.map((): Sample[] => []);
  for (const { params } of SETTINGS) run(params); // Warm.
  for (let round = 0; round < plan.rounds; round++) {
    const order = round % 2 === 0 ? [...SETTINGS.keys()] : [...SETTINGS.keys()].reverse();
    for (const i of order) samples[i]!.push(run(SETTINGS[i]!.params));
  }
  return SETTINGS.map(({ name }, i) => {
    const of = (key: keyof Sample): number => median(samples[i]!.map((sample) => sample[key]));
    const [step, engine, streaming] = [of('step'), of('engine'), of('streaming')];
    return {
      ...{ model, vocabSize: runner.limits.vocabSize, setting: name },
      ...{ step, engine, streaming, share: (engine + streaming) / step },
    };
  });
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', multiple: true, default: [] },
    threads: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '5' },
    'no-doc': { type: 'boolean', default: false },
  },
});
const plan = {
  threads: Number(options.threads),
  tokens: Number(options.tokens),
  rounds: Number(options.rounds),
};
const rows: Row[] = [];
for (const { name, path } of namedModels(options.model)) {
  rows.push(...(await measure(name, path, plan)));
}
const micros = (value: number): string => value.toFixed(value < 100 ? 1 : 0);
const worst = rows.reduce((a, b) => (b.share > a.share ? b : a));
const text = [
  '### Sampling and text',
  `\`${shownCommand('bench/sampling.ts')}\``,
  `µs per token at ${plan.threads} threads, ${plan.tokens} tokens an answer, medians of ${plan.rounds} rounds. "Engine" is everything on the engine's thread between two steps; "streaming" runs in the server's process, beside the next step.`,
  markdownTable(
    ['model', 'vocabulary', 'sampling', 'step', 'engine', 'streaming', 'of the step'],
    rows.map((row) => [
      ...[row.model, row.vocabSize.toLocaleString('en-US'), row.setting],
      ...[micros(row.step), micros(row.engine), micros(row.streaming), percent(row.share)],
    ]),
  ),
  `The most: ${percent(worst.share)} of a step (${worst.model}, ${worst.setting}); bound ${percent(BOUND)}: ${worst.share <= BOUND ? 'within' : '**missed**'}.`,
].join('\n\n');
console.log(text);
console.log(JSON.stringify({ benchmark: 'sampling', rows }));
if (!options['no-doc']) writeSection('sampling', text);
