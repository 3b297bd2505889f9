import assert from 'node:assert/strict';
import { test } from 'node:test';
import { copyBlocksKernel, selectRowsKernel } from './select-rows.ts';
import { sliceStatsKernel } from './slice-stats.ts';
import {
  f32Of,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

test(`selectRows takes rows by index (${nativeMachineNames()})`, () => {
  for (const width of [1, 7, 9, 15, 17, 576, 640]) {
    const values = randomF32(5 * width, width);
    const x = paddedMatrix(5, width, values);
    const rows = Int32Array.of(4, 0, 0, 3);
    runEverywhere({
      record: (machine) => selectRowsKernel(machine, { width }),
      fields: {
        x: x.data,
        xStride: x.strideBytes,
        rows,
        out: new Float32Array(4 * width),
        outStride: 4 * width,
        numRows: 4,
        rowsPerChunk: 3,
      },
      chunks: [1, 0],
      onResult: ({ out }) => {
        const expected = new Float32Array(4 * width);
        rows.forEach((row, i) => {
          expected.set(values.subarray(row * width, (row + 1) * width), i * width);
        });
        assert.deepEqual(f32Of(out!), expected);
      },
    });
  }
});

test('copyBlocks copies whole blocks and nothing else', () => {
  const blockBytes = 192;
  const cache = Uint8Array.from({ length: 5 * blockBytes }, (_, i) => i % 251);
  runEverywhere({
    record: copyBlocksKernel,
    fields: { cache, blockBytes, pairs: Int32Array.of(1, 4, 3, 0) },
    chunks: [0, 1],
    onResult: ({ cache: after }) => {
      const expected = cache.slice();
      expected.copyWithin(4 * blockBytes, blockBytes, 2 * blockBytes);
      expected.copyWithin(0, 3 * blockBytes, 4 * blockBytes);
      assert.deepEqual(after, expected);
    },
  });
});

test('sliceStats gives the largest logit and the sum of exponentials per slice', () => {
  for (const vocabSize of [1, 15, 17, 255, 256, 257, 1000, 49152]) {
    const sliceSize = 256;
    const numRows = 2;
    const logits = randomF32(numRows * vocabSize, vocabSize, 4).map((v) => v - 20);
    if (vocabSize > 300) {
      logits.fill(Number.NEGATIVE_INFINITY, 0, 256);
      logits[259] = Number.NEGATIVE_INFINITY;
    }
    const x = paddedMatrix(numRows, vocabSize, logits);
    const numSlices = Math.ceil(vocabSize / sliceSize);
    const slicesPerChunk = Math.max(1, Math.floor(numSlices / 3));
    const chunksPerRow = Math.ceil(numSlices / slicesPerChunk);
    const statsStride = 4 * (numSlices + 1);
    const inverseTemperatures = Float32Array.of(1, 1.25);
    runEverywhere({
      record: (machine) => sliceStatsKernel(machine, { vocabSize, sliceSize }),
      fields: {
        logits: x.data,
        logitsStride: x.strideBytes,
        inverseTemperatures,
        sliceMax: new Float32Array(numRows * (numSlices + 1)).fill(-7),
        sliceExpSum: new Float32Array(numRows * (numSlices + 1)).fill(-7),
        statsStride,
        slicesPerChunk,
      },
      chunks: range(numRows * chunksPerRow),
      nativeOnly: vocabSize > 2000,
      onResult: (buffers, { name }) => {
        const largest = f32Of(buffers.sliceMax!);
        const sums = f32Of(buffers.sliceExpSum!);
        for (const row of range(numRows)) {
          for (const slice of range(numSlices)) {
            const start = row * vocabSize + slice * sliceSize;
            const values = logits.subarray(
              start,
              Math.min(start + sliceSize, (row + 1) * vocabSize),
            );
            const at = row * (numSlices + 1) + slice;
            const max = Math.max(...values);
            assert.equal(largest[at], max, `${name}, vocabulary of ${vocabSize}, slice ${slice}`);
            let sum = 0;
            if (max > Number.NEGATIVE_INFINITY) {
              for (const v of values) sum += Math.exp((v - max) * inverseTemperatures[row]!);
            }
            assert.ok(
              Math.abs(sums[at]! - sum) <= 1e-5 * sum,
              `${name}: ${sums[at]}, expected ${sum}`,
            );
          }
          assert.equal(largest[row * (numSlices + 1) + numSlices], -7);
          assert.equal(sums[row * (numSlices + 1) + numSlices], -7);
        }
      },
    });
  }
});

test('a NaN among the logits shows in the sum of its slice', () => {
  const logits = randomF32(300, 1);
  logits[290] = Number.NaN;
  runEverywhere({
    record: (machine) => sliceStatsKernel(machine, { vocabSize: 300, sliceSize: 256 }),
    fields: {
      logits,
      logitsStride: 1200,
      inverseTemperatures: Float32Array.of(1),
      sliceMax: new Float32Array(2),
      sliceExpSum: new Float32Array(2),
      statsStride: 8,
      slicesPerChunk: 2,
    },
    chunks: [0],
    onResult: ({ sliceExpSum }) => {
      assert.ok(Number.isFinite(f32Of(sliceExpSum!)[0]));
      assert.ok(Number.isNaN(f32Of(sliceExpSum!)[1]));
    },
  });
});
