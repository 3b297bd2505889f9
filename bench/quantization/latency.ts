/** Tokens a second of the 1.1B shape by weight format: how near to its size a format's speed comes. */
import { hastenEngine } from '../compare/engines.ts';
import { modelWork } from '../compare/model-work.ts';
import { withForeignLoad } from '../lib/foreign-load.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import { madeModel } from '../make-model.ts';
import { madeFormat } from './formats.ts';
import type { RowStore } from './row-store.ts';

export interface LatencyRow {
  readonly name: string;
  readonly fileBytes: number;
  readonly prefill: number;
  readonly decode: number;
  readonly foreignLoad: number;
}

/** What the others are held to. */
const BASE = 'f16';
const TYPES = [BASE, 'q8_0', 'q4_k_s', 'q4_0'] as const;
const DECODE_GOAL = 2.5;

export async function measureLatency(threads: number, store: RowStore): Promise<LatencyRow[]> {
  const made = await madeModel('1.1b-q4_0');
  const rows: LatencyRow[] = [];
  for (const type of TYPES) {
    const row = await store.ensure(`latency ${JSON.stringify({ type, threads })}`, async () => {
      const modelPath = type === 'q4_0' ? made : await madeFormat(made, type);
      console.error(`1.1B ${type}`);
      const work = modelWork(modelPath);
      const { value, foreignLoad } = await withForeignLoad(() =>
        hastenEngine().run({
          ...{ modelPath, vocabSize: work.vocabSize, threads },
          ...{ promptTokens: 512, generatedTokens: 64, repetitions: 3 },
        }),
      );
      const { pp512, tg64 } = value;
      if (pp512 === undefined || tg64 === undefined) throw new Error('no rates');
      return {
        ...{ name: type, fileBytes: work.fileBytes },
        ...{ prefill: pp512, decode: tg64, foreignLoad },
      };
    });
    rows.push(row);
  }
  return rows;
}

export function formatLatency(rows: readonly LatencyRow[], threads: number): string {
  const base = rows.find(({ name }) => name === BASE)!;
  const table = markdownTable(
    ['weights', 'file', 'prefill 512', 'decode', 'of f16', 'file of f16', 'others'],
    rows.map((row) => [
      ...[row.name.toUpperCase(), `${(row.fileBytes / 1e6).toFixed(0)} MB`],
      ...[`${significant(row.prefill)} t/s`, `${significant(row.decode)} t/s`],
      `${(row.decode / base.decode).toFixed(2)}x`,
      `${(row.fileBytes / base.fileBytes).toFixed(2)}x`,
      percent(row.foreignLoad),
    ]),
  );
  const q4 = rows.find(({ name }) => name === 'q4_0')!;
  const gain = q4.decode / base.decode;
  return [
    `Random weights in TinyLlama-1.1B's shape, ${threads} threads, \`hasten bench\`.`,
    table,
    `Q4_0 decodes ${gain.toFixed(2)}x as fast as our own f16 (goal ${DECODE_GOAL}x: ${gain >= DECODE_GOAL ? 'reached' : '**missed**'}).`,
  ].join('\n\n');
}
