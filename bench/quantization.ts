/**
 * What fewer bits cost and gain; writes the tables of docs/quantization.md, prints them, then one line of JSON.
 *
 *   node bench/quantization.ts --model smollm2=FILE [--model gemma3-270m=FILE] [--part methods] [--part formats] [--part latency]
 *
 * methods    RTN, GPTQ, AWQ at equal bits: quality, time, memory
 * formats    FP32, INT8, INT4 of the first model on our own server: latency, requests a second, quality
 * latency    tokens a second of the 1.1B shape by format
 * cost       time and memory of quantizing the 1.1B shape; --tiny tries it on a small one
 * beside     the same as cost, of GGUF types, beside llama-quantize: takes --llama-quantize PATH; only where it is named
 * readers    whether other toolkits read the folders that are written for them: takes a --python as bench/quantization/foreign_readers.py says, and
 *            --hf-model FOLDER for another model beside the small random one; only where it is named
 *
 * --python PATH: a Python with torch, transformers and gguf, for the peer's row of `formats` (bench/quantization/transformers_load.py says what it needs).
 * --scale: of the number of requests in `formats`. --tokens: of calibration text. --windows: of 512 tokens, scored. Rows that are finished are kept in bench/results and not measured again; --fresh
 * begins anew. --only PATTERN: of `methods`, measures only the rows whose model, method and scheme (`smollm2: GPTQ, 3 bits, groups of 64, asymmetric`) match this
 * regular expression, and shows the finished ones beside them; of `cost` and `beside` likewise, by name. --rounds: of `beside`. --models-folder: of bench/make-model.ts's files, for `latency`. --no-doc leaves the document alone.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { shownCommand } from './lib/command.ts';
import { QUANTIZATION_DOC, writeSection } from './lib/doc-section.ts';
import { usageError } from './lib/options.ts';
import { REPOSITORY } from './lib/paths.ts';
import { describeMachine, formatMachine, mergeMachines } from './machine.ts';
import { evalModel } from './quality/eval-windows.ts';
import { formatBeside, measureBeside } from './quantization/beside-llama.ts';
import { costSources, formatCost, measureCost } from './quantization/cost.ts';
import { formatForeignReaders, measureForeignReaders } from './quantization/foreign-readers.ts';
import { formatFormats, measureFormats } from './quantization/formats.ts';
import { formatLatency, measureLatency } from './quantization/latency.ts';
import { formatMethods, measureMethods } from './quantization/methods.ts';
import { RowStore } from './quantization/row-store.ts';

const PARTS = ['methods', 'formats', 'latency', 'cost', 'beside', 'readers'] as const;
/** Those that need an evaluation model. */
const OF_MODELS: readonly Part[] = ['methods', 'formats'];
type Part = (typeof PARTS)[number];

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', multiple: true, default: [] },
    part: { type: 'string', multiple: true, default: ['methods', 'formats', 'latency', 'cost'] },
    python: { type: 'string' },
    'hf-model': { type: 'string' },
    'llama-quantize': { type: 'string', default: process.env.LLAMA_QUANTIZE },
    rounds: { type: 'string', default: '3' },
    tiny: { type: 'boolean', default: false },
    tokens: { type: 'string', default: '16384' },
    windows: { type: 'string', default: '13' },
    threads: { type: 'string', default: '2' },
    scale: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    fresh: { type: 'boolean', default: false },
    'models-folder': { type: 'string' },
    'no-doc': { type: 'boolean', default: false },
  },
});

const parts = options.part.map((name): Part => {
  if ((PARTS as readonly string[]).includes(name)) return name as Part;
  return usageError(`--part ${name}: expected ${PARTS.join(', ')}`);
});
const models = options.model.map(evalModel);
if (models.length === 0 && parts.some((part) => OF_MODELS.includes(part))) {
  usageError('--model smollm2=FILE: a model is needed (hasten pull smollm2 prints where it is)');
}
const resultsFile = join(REPOSITORY, 'bench', 'results', 'quantization.json');
if (options.fresh) rmSync(resultsFile, { force: true });
const store = new RowStore(resultsFile);
const threads = Number(options.threads);
const plan = { threads, evalWindows: Number(options.windows) };

/** What a part measured, and its section. */
async function run(part: Part): Promise<{ rows: unknown; text: string }> {
  switch (part) {
    case 'methods': {
      const calibrationTokens = Number(options.tokens);
      const only = new RegExp(options.only);
      const rows = await measureMethods({ ...plan, models, calibrationTokens, only }, store);
      return { rows, text: formatMethods(rows, calibrationTokens) };
    }
    case 'formats': {
      const formats = {
        ...plan,
        model: models[0]!,
        python: options.python ?? null,
        scale: Number(options.scale),
      };
      // Before and after: others may be busy during one of them.
      const before = await describeMachine({ threads: [threads] });
      const rows = await measureFormats(formats, store);
      const machine = mergeMachines(before, await describeMachine({ threads: [threads] }));
      return { rows, text: formatFormats(rows, formats, machine) };
    }
    case 'latency': {
      const rows = await measureLatency(threads, store, options['models-folder']);
      return { rows, text: formatLatency(rows, threads) };
    }
    case 'cost': {
      const folder = options['models-folder'];
      const cost = {
        ...{ threads, tokens: Number(options.tokens), isTiny: options.tiny },
        only: new RegExp(options.only),
        ...(folder && { folder }),
      };
      const rows = await measureCost(cost, store);
      return { rows, text: formatCost(rows, cost) };
    }
    case 'beside': {
      const llamaQuantize = options['llama-quantize'];
      if (llamaQuantize === undefined) {
        usageError('--part beside: --llama-quantize PATH is needed');
      }
      const folder = options['models-folder'];
      const sources = await costSources({ isTiny: options.tiny, ...(folder && { folder }) });
      const beside = {
        ...{ source: sources.GGUF, llamaQuantize, threads },
        ...{ rounds: Number(options.rounds), only: new RegExp(options.only) },
      };
      const rows = await measureBeside(beside, store);
      return { rows, text: formatBeside(rows, beside) };
    }
    case 'readers': {
      const { python } = options;
      if (python === undefined) usageError('--part readers: --python PATH is needed');
      const model = options['hf-model'] ?? null;
      const rows = await measureForeignReaders({ python, model, threads });
      return { rows, text: formatForeignReaders(rows) };
    }
    default:
      return part satisfies never;
  }
}

const command = shownCommand('bench/quantization.ts');
const results: Record<string, unknown> = {};
for (const part of parts) {
  const { rows, text } = await run(part);
  results[part] = rows;
  const machine = formatMachine(await describeMachine({ threads: [threads], isQuick: true }));
  const section = [`\`${command}\``, machine.split('\n\n')[0]!, text].join('\n\n');
  console.log(section);
  if (!options['no-doc']) writeSection(`quantization#${part}`, section, QUANTIZATION_DOC);
}
console.log(JSON.stringify(results));
