import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KernelShapeError } from './errors.ts';
import { keyBlockBytes, valueBlockBytes, valueRowElements } from './kv-layout.ts';
import {
  cosSinRow,
  cosSinRowElements,
  type RopeKvStoreShape,
  type RopeShape,
  ropeKvStoreKernel,
} from './rope-kv-store.ts';
import {
  type Fields,
  f32Of,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

const POSITIONS = Int32Array.of(0, 1, 17, 33, 5);
const SLOTS = Int32Array.of(0, 17, 47, 32, 5);
const NUM_BLOCKS = 3;
const ROWS = POSITIONS.length;

function anglesAt({ rotaryDim }: RopeShape, position: number): number[] {
  return range(rotaryDim / 2).map((j) => position * 10000 ** ((-2 * j) / rotaryDim));
}

/** One head rotated in f64. */
function rotate(head: Float32Array, rope: RopeShape | null, position: number): Float64Array {
  const out = Float64Array.from(head);
  if (!rope) return out;
  anglesAt(rope, position).forEach((angle, j) => {
    const [a, b] = rope.style === 'half' ? [j, j + rope.rotaryDim / 2] : [2 * j, 2 * j + 1];
    out[a] = head[a]! * Math.cos(angle) - head[b]! * Math.sin(angle);
    out[b] = head[b]! * Math.cos(angle) + head[a]! * Math.sin(angle);
  });
  return out;
}

function setUp(
  shape: RopeKvStoreShape,
  sources: { q: Float32Array; k: Float32Array; v: Float32Array },
) {
  const { numHeads, numKvHeads, headDim, rope } = shape;
  const q = paddedMatrix(ROWS, numHeads * headDim, sources.q);
  const k = paddedMatrix(ROWS, numKvHeads * headDim, sources.k);
  const v = paddedMatrix(ROWS, numKvHeads * headDim, sources.v);
  const cosSinElements = rope ? cosSinRowElements(rope) : 0;
  const cosSin = new Float32Array(40 * cosSinElements);
  if (rope)
    for (const p of range(40))
      cosSin.set(cosSinRow(rope, anglesAt(rope, p), 1), p * cosSinElements);
  const fields: Fields = {
    q: q.data,
    qStride: q.strideBytes,
    k: k.data,
    kStride: k.strideBytes,
    v: v.data,
    vStride: v.strideBytes,
    out: new Float32Array(ROWS * numHeads * headDim),
    outStride: 4 * numHeads * headDim,
    positions: POSITIONS,
    slotMapping: SLOTS,
    cosSin,
    cosSinStride: 4 * cosSinElements,
    keyCache: new Uint8Array(NUM_BLOCKS * keyBlockBytes(shape)),
    valueCache: new Uint8Array(NUM_BLOCKS * valueBlockBytes(shape)),
    numRows: ROWS,
    rowsPerChunk: 2,
  };
  return fields;
}

function randomSources({ numHeads, numKvHeads, headDim }: RopeKvStoreShape) {
  return {
    q: randomF32(ROWS * numHeads * headDim, 1),
    k: randomF32(ROWS * numKvHeads * headDim, 2),
    v: randomF32(ROWS * numKvHeads * headDim, 3),
  };
}

function cacheElement(shape: RopeKvStoreShape, bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return shape.kvType === 'f16'
    ? view.getFloat16(2 * index, true)
    : view.getFloat32(4 * index, true);
}

function checkShape(shape: RopeKvStoreShape): void {
  const { numHeads, numKvHeads, headDim, rope, kvType } = shape;
  const sources = randomSources(shape);
  const tolerance = kvType === 'f16' ? 2e-3 : 1e-5;
  runEverywhere({
    record: (machine) => ropeKvStoreKernel(machine, shape),
    fields: setUp(shape, sources),
    chunks: [2, 0, 1],
    onResult: ({ out, keyCache, valueCache }, { name }) => {
      const rotated = f32Of(out!);
      const written = new Set<number>();
      for (const t of range(ROWS)) {
        for (const h of range(numHeads)) {
          const at = (t * numHeads + h) * headDim;
          rotate(sources.q.subarray(at, at + headDim), rope, POSITIONS[t]!).forEach((y, d) => {
            assert.ok(Math.abs(rotated[at + d]! - y) < 2e-6 * 8, `${name}: q[${t}, ${h}, ${d}]`);
          });
        }
        const block = SLOTS[t]! >> 4;
        const offset = SLOTS[t]! & 15;
        for (const h of range(numKvHeads)) {
          const at = (t * numKvHeads + h) * headDim;
          const key = rotate(sources.k.subarray(at, at + headDim), rope, POSITIONS[t]!);
          for (const d of range(headDim)) {
            const keyAt = ((block * numKvHeads + h) * headDim + d) * 16 + offset;
            written.add(keyAt);
            const stored = cacheElement(shape, keyCache!, keyAt);
            assert.ok(Math.abs(stored - key[d]!) < tolerance, `${name}: key[${t}, ${h}, ${d}]`);
            const row = (block * numKvHeads + h) * 16 + offset;
            const value = cacheElement(shape, valueCache!, row * valueRowElements(headDim) + d);
            assert.ok(
              Math.abs(value - sources.v[at + d]!) < tolerance,
              `${name}: value[${t}, ${h}, ${d}]`,
            );
          }
          for (let d = headDim; d < valueRowElements(headDim); d++) {
            const row = (block * numKvHeads + h) * 16 + offset;
            assert.equal(cacheElement(shape, valueCache!, row * valueRowElements(headDim) + d), 0);
          }
        }
      }
      for (const i of range(keyCache!.length / (kvType === 'f16' ? 2 : 4))) {
        if (!written.has(i))
          assert.equal(cacheElement(shape, keyCache!, i), 0, `${name}: key ${i}`);
      }
    },
  });
}

test(`rotates q and k and stores k and v where the slot says (${nativeMachineNames()})`, () => {
  const heads = { numHeads: 6, numKvHeads: 2 };
  for (const kvType of ['f16', 'f32'] as const) {
    for (const headDim of [8, 24, 64, 80, 128]) {
      for (const rotaryDim of new Set([headDim, headDim / 2])) {
        checkShape({ ...heads, headDim, kvType, rope: { style: 'half', rotaryDim } });
        checkShape({ ...heads, headDim, kvType, rope: { style: 'interleaved', rotaryDim } });
      }
      checkShape({ ...heads, headDim, kvType, rope: null });
    }
  }
  checkShape({
    numHeads: 1,
    numKvHeads: 1,
    headDim: 256,
    kvType: 'f16',
    rope: { style: 'half', rotaryDim: 2 },
  });
});

test('values beyond f16 and NaN are stored as finite ones', () => {
  for (const kvType of ['f16', 'f32'] as const) {
    const shape = { numHeads: 1, numKvHeads: 1, headDim: 16, rope: null, kvType } as const;
    const sources = randomSources(shape);
    const bad = [1e6, -1e6, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
    sources.k.set(bad);
    sources.v.set(bad);
    runEverywhere({
      record: (machine) => ropeKvStoreKernel(machine, shape),
      fields: setUp(shape, sources),
      chunks: [0],
      onResult: ({ keyCache, valueCache }) => {
        const largest = kvType === 'f16' ? 65504 : 3.4028234663852886e38;
        const expected = kvType === 'f16' ? [65504, -65504] : [1e6, -1e6];
        expected.push(largest, -largest, largest);
        expected.forEach((y, d) => {
          assert.equal(cacheElement(shape, valueCache!, d), y);
          assert.equal(cacheElement(shape, keyCache!, 16 * d), y);
        });
      },
    });
  }
});

test('a token gives the same bits however rows are split', () => {
  const shape = {
    numHeads: 4,
    numKvHeads: 2,
    headDim: 64,
    rope: { style: 'half', rotaryDim: 64 },
    kvType: 'f16',
  } as const;
  const fields = setUp(shape, randomSources(shape));
  runEverywhere({
    record: (machine) => ropeKvStoreKernel(machine, shape),
    fields,
    chunks: [0, 1, 2],
    onResult: (together, { machine, run }) => {
      const split = run(
        ropeKvStoreKernel(machine, shape),
        { ...fields, rowsPerChunk: 1 },
        range(ROWS),
      );
      assert.deepEqual(split, together);
      assert.ok(split.keyCache!.some((byte) => byte !== 0));
    },
  });
});

test('a rotation wider than the head is refused', () => {
  const machine = {
    lanes: 8,
    vectorRegisters: 16,
    hasInt8Dot: false,
    hasBroadcastOperand: false,
  } as const;
  assert.throws(
    () =>
      ropeKvStoreKernel(machine, {
        numHeads: 1,
        numKvHeads: 1,
        headDim: 64,
        kvType: 'f16',
        rope: { style: 'half', rotaryDim: 128 },
      }),
    KernelShapeError,
  );
});
