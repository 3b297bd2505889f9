/** Tokens a second of the 1.1B shape by weight format: how near to its size a format's speed comes. */
import { OpenedModel } from '../../src/app/open-model.ts';
import type { FileTypeName } from '../../src/compress/ggml-recipe.ts';
import { hastenEngine } from '../compare/engines.ts';
import { modelWork } from '../compare/model-work.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import { madeModel } from '../make-model.ts';
import { madeFormat } from './formats.ts';
import type { RowStore } from './row-store.ts';

export interface LatencyRow {
  readonly name: string;
  /** Of the weights as they are run. */
  readonly sizeBytes: number;
  readonly prefill: number;
  readonly decode: number;
  readonly foreignLoad: number;
}

/** What the others are held to. */
const BASE = 'f16';
const FORMATS: readonly { name: string; type: FileTypeName; extra?: readonly string[] }[] = [
  { name: BASE, type: BASE },
  { name: 'q8_0', type: 'q8_0' },
  { name: 'q4_0', type: 'q4_0' },
  { name: 'nf4', type: BASE, extra: ['--load-in-4bit', 'nf4'] },
];
/** Of f16's speed, and of Q4_0's. */
const GOALS = { q4: 2.5, nf4: 0.8 } as const;

/** @param folder of made models; the benchmarks' own where left out */
export async function measureLatency(
  threads: number,
  store: RowStore,
  folder?: string,
): Promise<LatencyRow[]> {
  const made = await madeModel('1.1b-q4_0', { ...(folder && { folder }) });
  const rows: LatencyRow[] = [];
  for (const { name, type, extra } of FORMATS) {
    const row = await store.ensure(`latency ${JSON.stringify({ name, threads })}`, async () => {
      const modelPath = type === 'q4_0' ? made : await madeFormat(made, type);
      console.error(`1.1B ${name}`);
      const { value, foreignLoad } = await withForeignLoad(() =>
        hastenEngine(undefined, extra).run({
          ...{ modelPath, vocabSize: modelWork(modelPath).vocabSize, threads },
          ...{ promptTokens: 512, generatedTokens: 64, repetitions: 3 },
        }),
      );
      const { pp512, tg64 } = value;
      if (pp512 === undefined || tg64 === undefined) throw new Error('no rates');
      using model = new OpenedModel(modelPath, { ...(extra && { loadIn: 'nf4' }) });
      const { sizeBytes } = model.description.weights;
      return { name, sizeBytes, prefill: pp512, decode: tg64, foreignLoad };
    });
    rows.push(row);
  }
  return rows;
}

export function formatLatency(rows: readonly LatencyRow[], threads: number): string {
  const base = rows.find(({ name }) => name === BASE)!;
  const table = markdownTable(
    ['weights', 'size', 'prefill 512', 'decode', 'of F16', 'size of F16', 'others'],
    rows.map((row) => [
      ...[row.name.toUpperCase(), `${(row.sizeBytes / 1e6).toFixed(0)} MB`],
      ...[`${significant(row.prefill)} t/s`, `${significant(row.decode)} t/s`],
      `${(row.decode / base.decode).toFixed(2)}x`,
      `${(row.sizeBytes / base.sizeBytes).toFixed(2)}x`,
      percent(row.foreignLoad),
    ]),
  );
  const decodeOf = (name: string): number => rows.find((row) => row.name === name)!.decode;
  const gain = decodeOf('q4_0') / base.decode;
  const share = decodeOf('nf4') / decodeOf('q4_0');
  const verdict = (value: number, goal: number): string =>
    `${value.toFixed(2)}x (goal ${goal}x: ${value >= goal ? 'reached' : '**missed**'})`;
  return [
    `Random weights in TinyLlama-1.1B's shape, ${threads} threads, \`hasten bench\`.`,
    table,
    `Decoding, Q4_0 over our own F16: ${verdict(gain, GOALS.q4)}; NF4 over Q4_0: ${verdict(share, GOALS.nf4)}.`,
  ].join('\n\n');
}
