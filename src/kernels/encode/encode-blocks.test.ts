import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { DType } from '../../tensor/dtype.ts';
import { encodeRow, encodeRowWeighted } from '../../tensor/rows.ts';
import {
  INTERPRETED_MACHINES,
  NATIVE_MACHINES,
  nativeMachineNames,
  randomF32,
  randomSource,
  range,
  type TestMachine,
} from '../testing/run-kernel.ts';
import { ENCODED_DTYPES, encodeBlocksKernel, encodedShape } from './encode-blocks.ts';

const BLOCK = 256;
const BLOCKS_PER_ROW = 3;

/** Blocks of every kind, [numBlocks, 256]. */
function sampleBlocks(): Float32Array {
  const random = randomSource(7);
  const block = (value: (i: number) => number): number[] => range(BLOCK).map(value);
  const normal = (size: number): number[] => [
    ...randomF32(BLOCK, Math.floor(random() * 1e9), size),
  ];
  // Sums of squares overflow, then values do; scales become subnormal, then weights are.
  const sizes = [0.02, 1e-3, 3e4, 1e8, 1e18, 1e25, 1e38, 1e-7, 1e-14, 1e-16, 1e-20, 1e-38, 1e-42];
  const constants = [0, -0, 1, -1, 0.1, -1e-20, 1e-44, 1e-15, 3e38];
  const blocks = [
    ...range(20).map(() => normal(1)),
    ...sizes.map(normal),
    ...constants.map((value) => block(() => value)),
    block((i) => (i < 128 ? 0 : i - 180)),
    block((i) => -i),
    block((i) => (i % 2 === 0 ? 1 : -1)),
    block((i) => (i === 77 ? 1000 : 0)),
    block((i) => (i === 77 ? -1000 : 0)),
    // Groups that are next to nothing beside another: their scale becomes 0.
    block((i) => (i >> 5 === 3 ? random() - 0.5 : 1e-9 * (random() - 0.5))),
    block((i) => (i >> 4 === 3 ? random() - 0.5 : 1e-9 * (random() - 0.5))),
    block((i) => ((i >> 4) % 2 === 0 ? 0 : random())),
    // Many ties.
    block(() => Math.round(4 * random()) / 4),
    block(() => Math.round(random()) * 2 - 1),
    block(() => random() ** 8),
    block(() => -random()),
    block(() => 1 + 1e-7 * random()),
    block((i) => (i < 255 ? 1e-30 : 3e38)),
    block(() => (random() - 0.5) * 6.8e38),
    ...range(10).map(() => normal(1).map((value) => value * 2 ** Math.round(-20 * random()))),
  ];
  return Float32Array.from(blocks.flat());
}

/** Some channels count nothing. */
function sampleImportance(): Float32Array {
  const random = randomSource(3);
  return Float32Array.from({ length: BLOCK * BLOCKS_PER_ROW }, (_, i) =>
    i > 200 && i < 300 ? 0 : random() ** 4 * 10 ** ((i % 5) - 2),
  );
}

/** Which 256 of `values` come out otherwise than plainly. */
function wrongBlocks(
  { machine, run }: TestMachine,
  dtype: DType,
  values: Float32Array,
  importance: Float32Array | null,
): string[] {
  const { elements, blockBytes } = encodedShape(dtype)!;
  const bytes = (BLOCK / elements) * blockBytes;
  const numBlocks = values.length / BLOCK;
  const numUnits = Math.ceil(values.length / elements / machine.lanes);
  const padded = new Float32Array(numUnits * machine.lanes * elements);
  padded.set(values);
  const rowMeans = new Float32Array(numUnits * machine.lanes);
  for (let b = 0; b < numBlocks; b++) {
    const squares = values.subarray(b * BLOCK, (b + 1) * BLOCK).map((x) => x * x);
    rowMeans[b] = squares.reduce((sum, x) => Math.fround(sum + x), 0) / BLOCK;
  }
  const program = encodeBlocksKernel(machine, { dtype, isWeighted: importance !== null });
  const fields = {
    ...{ values: padded, out: new Uint8Array(numUnits * machine.lanes * blockBytes) },
    ...(importance && { importance, blocksPerRow: importance.length / elements, rowMeans }),
    ...{ numUnits, unitsPerChunk: 2 },
  };
  const { out } = run(program, fields, range(Math.ceil(numUnits / 2)));
  const expected = new Uint8Array(bytes);
  return range(numBlocks).flatMap((b) => {
    const x = values.subarray(b * BLOCK, (b + 1) * BLOCK);
    if (importance === null) encodeRow(dtype, x, BLOCK, expected);
    else {
      const from = (b * BLOCK) % importance.length;
      encodeRowWeighted(dtype, x, importance.slice(from, from + BLOCK), expected);
    }
    const made = out!.subarray(b * bytes, (b + 1) * bytes);
    if (Buffer.compare(made, expected) === 0) return [];
    return [`block ${b}, ${x.subarray(0, 4)}, ...: ${made.toHex()}, not ${expected.toHex()}`];
  });
}

describe(`blocks encoded by kernels have the bytes of plain encoding (${nativeMachineNames()})`, () => {
  const values = sampleBlocks();
  const importance = sampleImportance();
  /** Where the mean squares of rows count, a row is 256 values here. */
  const importanceFor = (dtype: DType): Float32Array | null => {
    const uses = encodedShape(dtype)!.importance;
    if (uses === 'unused') return null;
    return uses === 'ofRows' ? importance.subarray(0, BLOCK) : importance;
  };
  for (const dtype of ENCODED_DTYPES) {
    for (const machine of NATIVE_MACHINES) {
      it(`${dtype} on ${machine.name}`, () => {
        assert.deepEqual(wrongBlocks(machine, dtype, values, null), []);
        assert.deepEqual(wrongBlocks(machine, dtype, values, importanceFor(dtype)), []);
      });
    }
    it(`${dtype} interpreted, where each access is checked`, () => {
      const machine = INTERPRETED_MACHINES.find(({ machine }) => machine.lanes === 8)!;
      const some = values.subarray(0, BLOCK * 3);
      assert.deepEqual(wrongBlocks(machine, dtype, some, null), []);
      assert.deepEqual(wrongBlocks(machine, dtype, some, importanceFor(dtype)), []);
    });
  }
});
