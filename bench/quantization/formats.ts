/**
 * The table of formats: one model in f32, 8 and 4 bits on our own server, latency of a request alone and requests a second when saturated, with what
 * the format costs in quality beside it. FP32 also as people run it today, in transformers, where a Python with it is named.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compareQuality, type Quality } from '../../src/app/evaluate.ts';
import { OpenedModel } from '../../src/app/open-model.ts';
import type { FileTypeName } from '../../src/compress/ggml-recipe.ts';
import { quantizeModel } from '../../src/compress/quantize-model.ts';
import type { LoadFormat } from '../../src/models/load-format.ts';
import type { Precision } from '../../src/runtime/runner-options.ts';
import { hastenVersion } from '../compare/engines.ts';
import { type ModelWork, workOf } from '../compare/model-work.ts';
import { lastJson, runChild } from '../lib/child.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { benchFolder } from '../lib/paths.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import type { MachineReport } from '../machine.ts';
import { type EvalSet, evalWindows } from '../quality/eval-windows.ts';
import { runServeLoad } from '../serve/load-child.ts';
import { hastenServer } from '../serve/servers.ts';
import { formatLimits } from './format-limits.ts';
import type { RowStore } from './row-store.ts';

export interface FormatsPlan {
  readonly model: { readonly set: EvalSet; readonly path: string };
  readonly threads: number;
  readonly evalWindows: number;
  /** Interpreter of a Python with torch, transformers and gguf; null without. */
  readonly python: string | null;
  /** Of the number of requests. */
  readonly scale: number;
}

export interface FormatRow {
  readonly name: string;
  readonly sizeBytes: number;
  /** Of one request alone, mean. */
  readonly latencyMs: number;
  /** Of the same requests, until the first token; null for peers. */
  readonly ttftMs: number | null;
  readonly requestsPerSecond: number;
  /** To the f32 source; null for it itself and for peers. */
  readonly quality: Quality | null;
  /** Share of all CPU time that others took. */
  readonly foreignLoad: number;
  /** Of a token, by the weights as they are run; null for peers. */
  readonly work: ModelWork | null;
}

/** Prompt and answer of every request; clients that saturate. */
export const FORMAT_LOAD = { promptTokens: 190, outputTokens: 64, clients: 16 } as const;
const REQUESTS = { alone: 12, saturated: 64 } as const;
const PEER = 'FP32, transformers';
/** What the distances to the machine's limits are told from. */
export const OWN = 'FP32, hasten';

interface Format {
  readonly name: string;
  readonly type: FileTypeName;
  readonly precision: Precision;
  readonly loadIn?: LoadFormat;
}

const FORMATS: readonly Format[] = [
  { name: OWN, type: 'f32', precision: 'f32' },
  { name: 'INT8 (Q8_0)', type: 'q8_0', precision: 'fast' },
  { name: 'INT4 (Q4_0)', type: 'q4_0', precision: 'fast' },
  { name: 'INT4 (Q4_1)', type: 'q4_1', precision: 'fast' },
  { name: 'NF4 (--load-in-4bit)', type: 'f32', precision: 'fast', loadIn: 'nf4' },
];

/** The model as a file of `type`, made once in the benchmarks' folder. */
export async function madeFormat(path: string, type: FileTypeName): Promise<string> {
  const output = join(benchFolder(), `${basename(path, '.gguf')}-as-${type}.gguf`);
  if (existsSync(output)) return output;
  using model = new OpenedModel(path);
  await quantizeModel(path, model.description.config, output, { types: type });
  return output;
}

export async function measureFormats(plan: FormatsPlan, store: RowStore): Promise<FormatRow[]> {
  const rows: FormatRow[] = [];
  const { model, threads, scale } = plan;
  const key = (name: string): string =>
    `formats ${JSON.stringify({ name, threads, scale, set: model.set, load: FORMAT_LOAD })}`;
  const exact = await madeFormat(model.path, 'f32');
  if (plan.python !== null) {
    const { python } = plan;
    rows.push(await store.ensure(key(PEER), () => transformersRow(python, exact, plan)));
  }
  for (const format of FORMATS) {
    const { name } = format;
    const path = await madeFormat(model.path, format.type);
    rows.push(
      await store.ensure(key(name), async () => {
        console.error(`${name}: speed`);
        const speed = await serverSpeed(path, format, plan);
        console.error(`${name}: quality`);
        const quality = name === OWN ? null : await qualityOf(path, exact, format, plan);
        return { name, ...speed, quality };
      }),
    );
  }
  return rows;
}

async function serverSpeed(
  modelPath: string,
  { precision, loadIn }: Format,
  { threads, scale }: FormatsPlan,
): Promise<Omit<FormatRow, 'name' | 'quality'>> {
  const { clients, ...work } = FORMAT_LOAD;
  const server = hastenServer(hastenVersion(), [
    ...['--precision', precision],
    ...(loadIn === undefined ? [] : ['--load-in-4bit', loadIn]),
  ]);
  const { value, foreignLoad } = await withForeignLoad(async () => {
    await using running = await server.start({
      ...{ modelPath, threads, streams: clients, contextTokens: 512 },
    });
    const load = { ...work, url: running.url, sharedTokens: 0, requestRate: null };
    const alone = await runServeLoad({
      ...{ ...load, clients: 1, numRequests: Math.ceil(scale * REQUESTS.alone), seed: 1 },
    });
    const saturated = await runServeLoad({
      ...{ ...load, clients, numRequests: Math.ceil(scale * REQUESTS.saturated), seed: 2 },
    });
    return { alone, saturated };
  });
  using model = new OpenedModel(modelPath, { ...(loadIn && { loadIn }) });
  const { weights } = model.description;
  return {
    ...{ sizeBytes: weights.sizeBytes, work: workOf(weights) },
    latencyMs: value.alone.mean_e2el_ms,
    ttftMs: value.alone.mean_ttft_ms,
    requestsPerSecond: value.saturated.request_throughput,
    foreignLoad,
  };
}

async function qualityOf(
  path: string,
  referencePath: string,
  { precision, loadIn }: Format,
  { model: { set }, evalWindows: count, threads }: FormatsPlan,
): Promise<Quality> {
  using model = new OpenedModel(path, { ...(loadIn && { loadIn }) });
  using reference = new OpenedModel(referencePath);
  const windows = evalWindows(set)
    .slice(0, count)
    .map(({ tokenIds }) => ({ tokenIds, firstScored: 1 }));
  const options = { target: 'auto', threads, precision } as const;
  return (await compareQuality(model.description, reference.description, windows, options)).model;
}

/** transformers on the same f32 weights: requests alone, then as many at once as our server was given. */
async function transformersRow(
  python: string,
  modelPath: string,
  { threads, scale }: FormatsPlan,
): Promise<FormatRow> {
  console.error(`${PEER}: speed`);
  const script = fileURLToPath(new URL('./transformers_load.py', import.meta.url));
  const job = {
    ...{ folder: dirname(modelPath), file: basename(modelPath), threads },
    ...{ ...FORMAT_LOAD, alone: Math.ceil((scale * REQUESTS.alone) / 4), batches: 1 },
  };
  const { value, foreignLoad } = await withForeignLoad(
    async () => lastJson(await runChild(python, [script, JSON.stringify(job)])) as PeerAnswer,
  );
  const { latencyMs, requestsPerSecond, sizeBytes } = value;
  const unknown = { ttftMs: null, work: null, quality: null };
  return { name: PEER, latencyMs, requestsPerSecond, sizeBytes, foreignLoad, ...unknown };
}

type PeerAnswer = Pick<FormatRow, 'latencyMs' | 'requestsPerSecond' | 'sizeBytes'>;

export function formatFormats(
  rows: readonly FormatRow[],
  { model, threads }: Pick<FormatsPlan, 'model' | 'threads'>,
  machine: MachineReport,
): string {
  const { promptTokens, outputTokens, clients } = FORMAT_LOAD;
  const base = rows.find(({ name }) => name === PEER) ?? rows.find(({ name }) => name === OWN)!;
  const times = (value: number): string => `${significant(value)}x`;
  const table = markdownTable(
    [
      ...['weights', 'size', 'latency', 'of first row', 'req/s', 'of first row'],
      ...['perplexity', 'mean KLD', 'same first token', 'others'],
    ],
    rows.map((row) => [
      ...[row.name, `${(row.sizeBytes / 1e6).toFixed(0)} MB`, `${significant(row.latencyMs)} ms`],
      times(row.latencyMs / base.latencyMs),
      significant(row.requestsPerSecond),
      times(row.requestsPerSecond / base.requestsPerSecond),
      row.quality === null ? '–' : significant(row.quality.perplexity, 4),
      row.quality === null ? '–' : significant(row.quality.meanKld),
      row.quality === null ? '–' : `${(100 * row.quality.sameTop).toFixed(1)}%`,
      percent(row.foreignLoad),
    ]),
  );
  return [
    `${model.set}, its weights dequantized to f32 and encoded again; ${threads} threads, ${promptTokens}-token prompts and ${outputTokens} tokens out. Latency is of one request alone, req/s of ${clients} clients; "others" is the share of all CPU time that other processes took. ${base.name === PEER ? '' : `Without a Python with transformers (--python), the first row is our own.`}`.trim(),
    table,
    formatLimits(rows, { threads, load: FORMAT_LOAD, own: OWN, machine }),
  ].join('\n\n');
}
