/**
 * hasten and llama.cpp side by side on the same GGUF files: prefill and decode speed, interleaved, several rounds, a fresh process each, beside
 * what the machine itself can do. Prints tables, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/compare.ts --smollm2 FILE [--model NAME=FILE ...] [--threads 1,2] [--rounds 3] [--isa best,avx2] [--native | --llama-bench PATH]
 *
 * --quiet 0.05: a run during which others took more of the CPU time is made again, up to --attempts times.
 * --openvino-python PATH adds OpenVINO GenAI, run by a Python that has openvino-genai, on the same GGUF files; --openvino-model takes a folder in its
 * own format instead, for one model.
 * --section NAME: writes a section of its own, for models that are looked at apart.
 * --native compiles llama-bench for this machine first (minutes); --llama-bench takes one that is there. Without either, llama.cpp is npm's build.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type ComparedModel, compare } from './compare/comparison.ts';
import { type ComparisonReport, formatComparison } from './compare/comparison-report.ts';
import {
  type Engine,
  hastenEngine,
  llamaBenchEngine,
  npmLlamaEngine,
  openVinoEngine,
} from './compare/engines.ts';
import { modelWork } from './compare/model-work.ts';
import { shownCommand } from './lib/command.ts';
import { writeSection } from './lib/doc-section.ts';
import { type NamedModel, namedModel, wholeNumber } from './lib/options.ts';
import { benchFolder } from './lib/paths.ts';
import { describeMachine } from './machine.ts';
import { madeModel } from './make-model.ts';
import { nativeLlamaBench, prebuiltLlama } from './peers/install.ts';

const { values: options } = parseArgs({
  options: {
    smollm2: { type: 'string' },
    model: { type: 'string', multiple: true, default: [] },
    'no-1.1b': { type: 'boolean', default: false },
    threads: { type: 'string', default: '1,2' },
    prompt: { type: 'string', short: 'p', default: '512' },
    generate: { type: 'string', short: 'n', default: '128' },
    rounds: { type: 'string', default: '3' },
    repetitions: { type: 'string', short: 'r', default: '2' },
    /** `avx2` holds both engines to AVX2; each list has a section of its own. */
    isa: { type: 'string', default: 'best' },
    native: { type: 'boolean', default: false },
    /** llama.cpp's setting: both are tried, and the better one counts. */
    'flash-attn': { type: 'string', default: 'off,on' },
    'llama-bench': { type: 'string', default: process.env.LLAMA_BENCH },
    'openvino-python': { type: 'string', default: process.env.OPENVINO_PYTHON },
    'openvino-model': { type: 'string' },
    'no-npm': { type: 'boolean', default: false },
    'no-hasten': { type: 'boolean', default: false },
    /** Others may take this share of the CPU time during a run; a busier one is made again. */
    quiet: { type: 'string', default: '0.05' },
    attempts: { type: 'string', default: '3' },
    /** Seconds to wait for a quiet machine before an attempt. */
    wait: { type: 'string', default: '30' },
    'models-folder': { type: 'string' },
    /** Of the document, `compare#NAME`; without it that of the whole list, or of the instruction set. */
    section: { type: 'string' },
    'no-doc': { type: 'boolean', default: false },
  },
});

async function models(): Promise<ComparedModel[]> {
  const folder = options['models-folder'];
  const named: NamedModel[] = [];
  if (options.smollm2 !== undefined) {
    named.push({ name: 'SmolLM2-135M Q4_1', path: options.smollm2 });
    const requantized = await madeModel('smollm2-q4_0', { folder, smollm2: options.smollm2 });
    named.push({ name: 'SmolLM2-135M Q4_0', path: requantized });
  }
  if (!options['no-1.1b']) {
    named.push({ name: '1.1B shape Q4_0', path: await madeModel('1.1b-q4_0', { folder }) });
  }
  named.push(...options.model.map(namedModel));
  return named.map(({ name, path }) => ({ name, path, work: modelWork(path) }));
}

async function engines(): Promise<Engine[]> {
  const list: Engine[] = [];
  const isas = options.isa.split(',').map((isa) => (isa === 'best' ? undefined : isa));
  const folder = options['no-npm'] ? null : await prebuiltLlama();
  const program = options.native ? await nativeLlamaBench() : options['llama-bench'];
  for (const isa of isas) {
    if (!options['no-hasten']) list.push(hastenEngine(isa));
    for (const flashAttention of options['flash-attn'].split(',').map((value) => value === 'on')) {
      if (folder !== null) list.push(npmLlamaEngine(folder, flashAttention, isa));
      if (program && isa === undefined) list.push(llamaBenchEngine(program, flashAttention));
    }
  }
  const { 'openvino-python': python, 'openvino-model': openVinoModel } = options;
  if (python !== undefined && isas.includes(undefined)) {
    for (const attention of ['PA', 'SDPA'] as const) {
      list.push(openVinoEngine(python, attention, openVinoModel));
    }
  }
  return list;
}

const plan = {
  models: await models(),
  engines: await engines(),
  threads: options.threads.split(',').map(Number),
  promptTokens: wholeNumber('prompt', options.prompt, 0),
  generatedTokens: wholeNumber('generate', options.generate, 0),
  rounds: wholeNumber('rounds', options.rounds, 1),
  repetitions: wholeNumber('repetitions', options.repetitions, 1),
  quiet: {
    maxLoad: Number(options.quiet),
    attempts: wholeNumber('attempts', options.attempts, 1),
    waitMs: 1000 * Number(options.wait),
  },
};
const result = await compare(
  plan,
  () => describeMachine({ threads: plan.threads }),
  (text) => console.error(text),
);
const report: ComparisonReport = {
  command: shownCommand('bench/compare.ts'),
  rounds: plan.rounds,
  repetitions: plan.repetitions,
  versions: Object.fromEntries(plan.engines.map((engine) => [engine.name, engine.version])),
  models: plan.models.map(({ name, work }) => ({ name, fileBytes: work.fileBytes })),
  ...result,
};
const text = formatComparison(report);
console.log(text);
writeFileSync(join(benchFolder(), 'compare.json'), `${JSON.stringify(report, null, 1)}\n`);
if (!options['no-doc']) {
  const part = options.section ?? (options.isa === 'best' ? undefined : options.isa);
  writeSection(part === undefined ? 'compare' : `compare#${part}`, text);
}
console.log(JSON.stringify(report));
