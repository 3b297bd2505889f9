/**
 * hasten serve, llama.cpp's server and, where asked, OpenVINO GenAI under the same loads: 1, 4, 16 and 64 clients, a shared prefix, and offered
 * rates that all can serve.
 * Prints tables, then one line of JSON, and writes the section of docs/benchmarks.md.
 *
 *   node bench/serve/compare.ts --model FILE [--llama-server PATH] [--peer NAME=URL ...] [--clients 1,4,16,64] [--rounds 2] [--scale 1]
 *
 * --llama-server takes one that is there; without it, one is compiled for this machine first (minutes; cmake, g++).
 * --openvino-python PATH adds OpenVINO GenAI's continuous batching, run by a Python that has openvino-genai, on the same GGUF file or on the folder
 * given by --openvino-model.
 * --peer adds a server that is running already and serves the same model, such as vLLM's.
 * --scale multiplies the number of requests; --section NAME writes a section of its own; --quiet and --attempts as in bench/compare.ts.
 */
import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { hastenVersion } from '../compare/engines.ts';
import { modelWork } from '../compare/model-work.ts';
import { shownCommand } from '../lib/command.ts';
import { writeSection } from '../lib/doc-section.ts';
import { modelFile, wholeNumber } from '../lib/options.ts';
import { benchFolder } from '../lib/paths.ts';
import { describeMachine } from '../machine.ts';
import { serveCases } from './cases.ts';
import { compareServers, type ServePlan } from './comparison.ts';
import { formatServeComparison, type ServeReport } from './comparison-report.ts';
import { nativeLlamaServer } from './llama-server.ts';
import {
  type ComparedPeer,
  exitOnSignals,
  hastenServer,
  LLAMA_SETTINGS,
  llamaServer,
  OPENVINO_SETTINGS,
  openVinoPeer,
  remoteServer,
} from './servers.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    'llama-server': { type: 'string', default: process.env.LLAMA_SERVER },
    'no-llama': { type: 'boolean', default: false },
    'openvino-python': { type: 'string', default: process.env.OPENVINO_PYTHON },
    'openvino-model': { type: 'string' },
    peer: { type: 'string', multiple: true, default: [] },
    clients: { type: 'string', default: '1,4,16,64' },
    threads: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '2' },
    scale: { type: 'string', default: '1' },
    section: { type: 'string' },
    quiet: { type: 'string', default: '0.05' },
    attempts: { type: 'string', default: '2' },
    'no-doc': { type: 'boolean', default: false },
  },
});

exitOnSignals();

async function peers(modelPath: string): Promise<ComparedPeer[]> {
  const list: ComparedPeer[] = [hastenServer(hastenVersion())];
  if (!options['no-llama']) {
    const program = options['llama-server'] ?? (await nativeLlamaServer());
    list.push(...LLAMA_SETTINGS.map((setting) => llamaServer(program, setting)));
  }
  const { 'openvino-python': python, 'openvino-model': openVinoModel } = options;
  if (python !== undefined) {
    const { vocabSize } = modelWork(modelPath);
    for (const maxTokens of OPENVINO_SETTINGS) {
      list.push(openVinoPeer(python, openVinoModel, vocabSize, maxTokens));
    }
  }
  for (const text of options.peer) {
    const [, name, url] = /^([^=]+)=(https?:.+)$/.exec(text) ?? [];
    if (name === undefined || url === undefined) {
      console.error(`--peer ${text}: expected NAME=URL`);
      process.exit(2);
    }
    list.push(remoteServer(name, url));
  }
  return list;
}

const modelPath = modelFile(options.model);
const plan: ServePlan = {
  modelPath,
  servers: await peers(modelPath),
  cases: serveCases(options.clients.split(',').map(Number), Number(options.scale)),
  threads: wholeNumber('threads', options.threads, 1),
  contextTokens: 1024,
  rounds: wholeNumber('rounds', options.rounds, 1),
  quiet: {
    maxLoad: Number(options.quiet),
    attempts: wholeNumber('attempts', options.attempts, 1),
    waitMs: 30_000,
  },
};
const machine = await describeMachine({ threads: [plan.threads] });
const result = await compareServers(plan, (text) => console.error(text));
const report: ServeReport = {
  command: shownCommand('bench/serve/compare.ts'),
  machine,
  model: basename(plan.modelPath),
  threads: plan.threads,
  roundCount: plan.rounds,
  versions: Object.fromEntries(plan.servers.map((server) => [server.name, server.version])),
  ...result,
};
const text = formatServeComparison(report);
console.log(text);
writeFileSync(join(benchFolder(), 'serve-compare.json'), `${JSON.stringify(report, null, 1)}\n`);
if (!options['no-doc']) {
  const { section } = options;
  writeSection(section === undefined ? 'serve/compare' : `serve/compare#${section}`, text);
}
console.log(JSON.stringify(report));
