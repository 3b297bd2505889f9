import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeKvHead, encodeKvHead } from '../tensor/kv-row.ts';
import { KernelShapeError } from './errors.ts';
import {
  KV_TYPES as ALL_KV_TYPES,
  hasOpenGroups,
  hasTokenScales,
  type KvElement,
  type KvType,
  keyBlockBytes,
  keyPlace,
  kvElements,
  valueBlockBytes,
  valuePlace,
  valueRowBytes,
} from './kv-layout.ts';
import { type RopeKvStoreShape, ropeKvStoreKernel } from './rope-kv-store.ts';
import { cosSinRow, cosSinRowElements, type RopeShape } from './rope-table.ts';
import { kvElement } from './testing/attention-scene.ts';
import { keyAddress, valueAddress } from './testing/kv-address.ts';
import {
  type Fields,
  f32Of,
  nativeMachineNames,
  paddedMatrix,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

/** Those whose tokens go to blocks; of the others see seal-kv.test.ts. */
const KV_TYPES = ALL_KV_TYPES.filter((kvType) => !hasOpenGroups(kvType));
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

interface Head {
  readonly scale: number;
  readonly elements: readonly number[];
}

/** What the cache holds of a token's key and value, of one head. */
function storedHeads(
  shape: RopeKvStoreShape,
  { keyCache, valueCache }: Readonly<Record<string, Uint8Array>>,
  slot: number,
  head: number,
): { key: Head; value: Head } {
  const { headDim, kvType } = shape;
  const element = kvElements(kvType);
  const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset);
  const keys = view(keyCache!);
  const values = view(valueCache!);
  const keyAt = keyAddress(shape, slot, head);
  const valueAt = valueAddress(shape, slot, head);
  const scaleOf = (bytes: DataView, at: number): number =>
    hasTokenScales(element.keys) ? bytes.getFloat16(at, true) : 1;
  return {
    key: {
      scale: scaleOf(keys, keyAt.scale),
      elements: range(headDim).map((d) =>
        kvElement(element.keys, keys, keyAt.elements, keyPlace(kvType, d, slot & 15)),
      ),
    },
    value: {
      scale: scaleOf(values, valueAt.scale),
      elements: range(headDim).map((d) =>
        kvElement(element.values, values, valueAt.elements, valuePlace(kvType, d)),
      ),
    },
  };
}

/** The values that a head stands for. */
function meaningOf({ kvType }: RopeKvStoreShape, { scale, elements }: Head): Float64Array {
  if (hasTokenScales(kvElements(kvType).keys)) {
    return decodeKvHead(Int8Array.from(elements), scale);
  }
  return Float64Array.from(elements);
}

/** How far the stored values of a head may lie from the exact ones: half a step, spread by the rotation, or the rounding of the type. */
function toleranceOf(element: KvElement, { scale }: Head): number {
  if (element === 'f16') return 2e-3;
  if (element === 'f32') return 1e-5;
  // A value of q4 may be up to half a step beyond the highest code, and all errors may add up.
  const steps = element === 'q8' ? 0.51 : 1.01;
  return steps * Math.abs(scale) + 1e-6;
}

function checkShape(shape: RopeKvStoreShape): void {
  const { numHeads, numKvHeads, headDim, rope } = shape;
  const sources = randomSources(shape);
  runEverywhere({
    record: (machine) => ropeKvStoreKernel(machine, shape),
    fields: setUp(shape, sources),
    chunks: [2, 0, 1],
    onResult: (buffers, { name }) => {
      const rotated = f32Of(buffers.out!);
      for (const t of range(ROWS)) {
        for (const h of range(numHeads)) {
          const at = (t * numHeads + h) * headDim;
          rotate(sources.q.subarray(at, at + headDim), rope, POSITIONS[t]!).forEach((y, d) => {
            assert.ok(Math.abs(rotated[at + d]! - y) < 2e-6 * 8, `${name}: q[${t}, ${h}, ${d}]`);
          });
        }
        for (const h of range(numKvHeads)) {
          const at = (t * numKvHeads + h) * headDim;
          const { key, value } = storedHeads(shape, buffers, SLOTS[t]!, h);
          const wanted = rotate(sources.k.subarray(at, at + headDim), rope, POSITIONS[t]!);
          meaningOf(shape, key).forEach((y, d) => {
            const error = Math.abs(y - wanted[d]!);
            assert.ok(
              error < toleranceOf(kvElements(shape.kvType).keys, key),
              `${name}: key[${t}, ${h}, ${d}]: ${error}`,
            );
          });
          meaningOf(shape, value).forEach((y, d) => {
            const error = Math.abs(y - sources.v[at + d]!);
            assert.ok(
              error < toleranceOf(kvElements(shape.kvType).values, value),
              `${name}: value[${t}, ${h}, ${d}]`,
            );
          });
        }
      }
      assertUntouched(shape, buffers, name);
    },
  });
}

/** Slots that no token goes to are zero as before, and so is what pads the values. */
function assertUntouched(
  shape: RopeKvStoreShape,
  buffers: Readonly<Record<string, Uint8Array>>,
  name: string,
): void {
  const { numKvHeads } = shape;
  for (const slot of range(16 * NUM_BLOCKS)) {
    for (const h of range(numKvHeads)) {
      const start = valueAddress(shape, slot, h).elements;
      const row = buffers.valueCache!.subarray(start, start + valueRowBytes(shape));
      const isWritten = (SLOTS as Int32Array).includes(slot);
      if (!isWritten) {
        assert.ok(
          row.every((byte) => byte === 0),
          `${name}: values of slot ${slot}`,
        );
        const { key } = storedHeads(shape, buffers, slot, h);
        assert.ok(
          key.elements.every((x) => x === 0),
          `${name}: keys of slot ${slot}`,
        );
        continue;
      }
      const view = new DataView(row.buffer, row.byteOffset);
      const padded = Math.ceil(shape.headDim / 16) * 16;
      for (let d = shape.headDim; d < padded; d++) {
        assert.equal(
          kvElement(kvElements(shape.kvType).values, view, 0, valuePlace(shape.kvType, d)),
          0,
        );
      }
    }
  }
}

test(`rotates q and k and stores k and v where the slot says (${nativeMachineNames()})`, () => {
  const heads = { numHeads: 6, numKvHeads: 2 };
  for (const kvType of KV_TYPES) {
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
      onResult: (buffers) => {
        const { key, value } = storedHeads(shape, buffers, SLOTS[0]!, 0);
        const largest = kvType === 'f16' ? 65504 : 3.4028234663852886e38;
        const expected = kvType === 'f16' ? [65504, -65504] : [1e6, -1e6];
        expected.push(largest, -largest, largest);
        expected.forEach((y, d) => {
          assert.equal(value.elements[d], y);
          assert.equal(key.elements[d], y);
        });
      },
    });
  }
});

test('quantized heads have the codes and scales of their definition, whatever the values', () => {
  const bad = [1e6, -1e6, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  const kvType = 'q8';
  for (const headDim of [8, 24, 64, 80]) {
    const shape = { numHeads: 1, numKvHeads: 1, headDim, rope: null, kvType } as const;
    const sources = randomSources(shape);
    const row = (t: number) => sources.k.subarray(t * headDim, (t + 1) * headDim);
    row(0).set(bad);
    row(1).fill(0);
    row(2).forEach((_, i, all) => {
      all[i]! *= 1e-7;
    });
    row(3).forEach((_, i, all) => {
      all[i]! *= 1e-12;
    });
    sources.v.set(sources.k);
    runEverywhere({
      record: (machine) => ropeKvStoreKernel(machine, shape),
      fields: setUp(shape, sources),
      chunks: [0, 1, 2],
      onResult: (buffers, { name }) => {
        for (const t of range(ROWS)) {
          const codes = new Int8Array(headDim);
          const scale = encodeKvHead(kvType, row(t), codes);
          const encoded: Head = { scale, elements: [...codes] };
          const { key, value } = storedHeads(shape, buffers, SLOTS[t]!, 0);
          const what = `${name}, ${kvType}, ${headDim}, row ${t}`;
          assert.deepEqual(key, encoded, what);
          assert.deepEqual(value, encoded, what);
        }
      },
    });
  }
});

test('a token gives the same bits however rows are split', () => {
  for (const kvType of KV_TYPES) checkSplit(kvType);
});

function checkSplit(kvType: KvType): void {
  const shape = {
    numHeads: 4,
    numKvHeads: 2,
    headDim: 64,
    rope: { style: 'half', rotaryDim: 64 },
    kvType,
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
}

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
