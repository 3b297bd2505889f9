/**
 * One set of graph passes on one model, in a process of its own: plans, compiles and runs it, and prints CPU times and sizes as a line of JSON.
 *
 *   node bench/passes/one-variant.ts '{"path": FILE, "disabled": ["fuse-bias"]}'
 */
import { SequenceDriver } from '../../src/app/sequence-driver.ts';
import type { PassName } from '../../src/graph/lower-graph.ts';
import { loadModelDescription } from '../../src/models/load-model.ts';
import { createNativeRunner, resolveTarget } from '../../src/runtime/create-runner.ts';
import type { NativeRunner } from '../../src/runtime/native-runner.ts';
import { median } from '../lib/statistics.ts';

export const PROMPT_TOKENS = 512;
export const DECODE_TOKENS = 64;
const REPETITIONS = 3;

export interface VariantJob {
  readonly path: string;
  readonly disabled: readonly PassName[];
}

export interface VariantFigures {
  readonly commands: number;
  readonly arenaBytes: number;
  /** With a buffer for each activation. */
  readonly unsharedBytes: number;
  /** CPU time per token, ms. */
  readonly prefillMs: number;
  readonly decodeMs: number;
}

/** CPU time of the whole process, ms. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** CPU ms per token of a prompt, and of decoding behind it. */
async function timeOnce(runner: NativeRunner): Promise<{ prefill: number; decode: number }> {
  const driver = new SequenceDriver(runner);
  const ids = Int32Array.from({ length: PROMPT_TOKENS }, (_, i) => 100 + ((i * 7919) % 20000));
  const start = cpuMs();
  await driver.feed(ids, 'last');
  const middle = cpuMs();
  for (let i = 0; i < DECODE_TOKENS; i++) await driver.feed(ids.subarray(i, i + 1), 'last');
  const end = cpuMs();
  return { prefill: (middle - start) / PROMPT_TOKENS, decode: (end - middle) / DECODE_TOKENS };
}

async function measure({ path, disabled }: VariantJob): Promise<VariantFigures> {
  const target = resolveTarget('auto');
  if (target.kind !== 'x64') throw new Error(`no native target here: ${target.reason}`);
  using description = loadModelDescription(path);
  const { config, weights: source } = description;
  const maxModelLen = Math.min(1024, config.maxPositionEmbeddings);
  using runner = await createNativeRunner(
    {
      ...{ source, config, target: 'auto', precision: 'fast', threads: 1, maxModelLen },
      ...{ maxSeqs: 1, planCacheFolder: null, disabledPasses: disabled },
    },
    target.isa,
  );
  await timeOnce(runner);
  const times = [];
  for (let i = 0; i < REPETITIONS; i++) times.push(await timeOnce(runner));
  const { plan } = runner;
  return {
    commands: plan.commands.length,
    arenaBytes: plan.arenaBytes,
    unsharedBytes: plan.buffers.reduce((sum, b) => sum + b.sizeBytes, 0),
    prefillMs: median(times.map(({ prefill }) => prefill)),
    decodeMs: median(times.map(({ decode }) => decode)),
  };
}

if (import.meta.main) console.log(JSON.stringify(await measure(JSON.parse(process.argv[2]!))));
